"""The quickstart's own parts by hand-made inputs, and the whole of it once, small."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from sgpo.command_runner import Command
from sgpo.miniworld.cards import mistaken_card, right_card
from sgpo.miniworld.families import FAMILIES, TRAINED_FAMILIES
from sgpo.quickstart.report import build_summary, print_example, print_scores
from sgpo.quickstart.run import (
    FAST,
    NORMAL,
    STAGES,
    StageBars,
    build_commands,
    check_folder,
    prepare_folder,
    progress_bars,
    write_commands,
)
from sgpo.quickstart.strategies import print_strategies, strategy_summary
from sgpo.reports.dynamics import read_metrics, series, training_plot
from sgpo.reports.style import smoothed, spread_labels

URL = "http://127.0.0.1:4567/v1"
MODELS = ("base", "sft", "grpo", "sgpo")


# --- commands -------------------------------------------------------------------------------------------------


def test_both_methods_differ_in_nothing_but_the_recipe(tmp_path: Path) -> None:
    """Same start, same samples a problem, same steps, same problems."""
    commands = build_commands(tmp_path, 3, NORMAL, URL)
    sgpo, grpo = (commands[name].configuration() for name in ("sgpo", "grpo"))
    assert {key for key in sgpo if sgpo[key] != grpo.get(key)} == {"config", "method", "delta", "output_dir"}
    assert sgpo["num_autonomous"] + sgpo["num_guided"] == 12
    assert sgpo["seed"] == 3
    assert sgpo["model"] == commands["sft"].options["output_dir"]


def test_stages_run_every_command_once(tmp_path: Path) -> None:
    names = ["strategies", *(name for _, names in STAGES.values() for name in names)]
    assert sorted(names) == sorted(build_commands(tmp_path, 0, NORMAL, URL))


def test_evaluations_are_unguided_but_for_the_reference(tmp_path: Path) -> None:
    evaluations = {n: c.options for n, c in build_commands(tmp_path, 0, FAST, URL).items() if c.name == "eval"}
    assert {n for n, options in evaluations.items() if options.get("guided")} == {"eval-base-guided", "eval-sft-guided"}
    unguided = [options for options in evaluations.values() if not options.get("guided")]
    assert len(unguided) == 4
    for options in unguided:
        assert (options["k"], options["temperature"], options["top_p"], options["greedy"]) == (4, 0.6, 0.95, True)
        assert options["problems"] == tmp_path / "miniworld" / "test.jsonl"


def test_results_of_an_earlier_run_are_removed_and_nothing_else(tmp_path: Path) -> None:
    stale = [tmp_path / "sgpo" / "metrics.jsonl", tmp_path / "evaluation" / "sft" / "summary.json"]
    stale += [tmp_path / name for name in ("strategies.jsonl", "strategies.journal.jsonl")]
    kept = [tmp_path / "notes.txt", tmp_path / "sgpo" / "model.safetensors"]
    for path in (*stale, *kept, tmp_path / "summary.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")
    prepare_folder(tmp_path)
    write_commands(tmp_path, {"sft": Command("sft", {"model": "a b", "seed": 1}), "x": Command("y z", {})}, URL)
    assert not any(path.exists() for path in (*stale, tmp_path / "summary.json"))
    assert all(path.exists() for path in kept)
    first, *others = (tmp_path / "commands.sh").read_text().splitlines()
    assert first.startswith("sgpo teacher serve --port 4567 &")
    assert others == ["sgpo sft --model 'a b' --seed 1", "sgpo y z"]


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    check_folder(tmp_path / "new")
    check_folder(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(
        ValueError, match=r"--output .* holds something else than a quickstart; write a new folder's name"
    ):
        check_folder(tmp_path)
    (tmp_path / "commands.sh").touch()
    check_folder(tmp_path)


def test_without_a_terminal_lines_tell_the_progress(tmp_path: Path) -> None:
    """A line for each quarter of the steps, not for each look."""
    commands = {name: command for name, command in build_commands(tmp_path, 0, FAST, URL).items() if name == "sgpo"}
    console = Console(width=88, record=True, force_terminal=False, file=open(os.devnull, "w"))  # noqa: SIM115
    with progress_bars(console) as bars:
        watcher = StageBars(bars, tmp_path, commands)
        watcher.watch(set())
        (tmp_path / "sgpo").mkdir()
        with (tmp_path / "sgpo" / "metrics.jsonl").open("w") as file:
            for step in (1, 2):
                row = {"step": step, "reward/autonomous": step / 10, "reward/guided": 0.9, "alpha": 0.25}
                print(json.dumps(row), file=file, flush=True)
                watcher.watch(set())
                watcher.watch(set())
    said = [line for line in console.export_text().splitlines() if line.startswith("SGPO step")]
    assert said == [
        "SGPO step 1: reward 0.10  guided 0.90  alpha 0.25",
        "SGPO step 2: reward 0.15  guided 0.90  alpha 0.25",
    ]


# --- summary --------------------------------------------------------------------------------------------------


def write_evaluation(folder: Path, rewards: dict[str, list[float]], greedy: float) -> None:
    (folder / "samples").mkdir(parents=True)
    values = [value for of_problem in rewards.values() for value in of_problem]
    average = sum(values) / len(values)
    others = {"standard_error": 0.1, "truncated": 0.0}
    of_greedy = {"average": greedy, **others, "by": {"order": greedy}}
    numbers = {"average": average, **others, "by": {"order": average}, "greedy": of_greedy}
    (folder / "summary.json").write_text(json.dumps({"benchmarks": {"test": numbers}}))
    rows = [
        {"id": name, "prompt": name, "correct": bool(value)} for name, values in rewards.items() for value in values
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "samples" / "test.parquet")


@pytest.fixture
def summary(tmp_path: Path) -> dict[str, Any]:
    for name, second in zip(MODELS, ([0, 0], [0, 1], [1, 0], [1, 1]), strict=True):
        write_evaluation(tmp_path / name, {"p": [0, 1], "q": [float(value) for value in second]}, greedy=0.5)
    write_evaluation(tmp_path / "sft-guided", {"p": [1, 1], "q": [1, 0]}, greedy=1.0)
    return build_summary(tmp_path, MODELS)


def test_summary_by_hand(summary: dict[str, Any], tmp_path: Path) -> None:
    averages = {name: score["avg_at_4"] for name, score in summary["scores"].items()}
    assert averages == {"base": 0.25, "sft": 0.5, "grpo": 0.5, "sgpo": 0.75}
    assert summary["scores"]["sgpo"]["greedy"] == 0.5
    assert summary["scores"]["sgpo"]["by_family"] == {"order": {"avg_at_4": 0.75, "greedy": 0.5}}
    assert summary["guided"] == {"sft": {"pass_rate": 0.75, "by_family": {"order": 0.75}}}
    assert summary["problems"] == 2
    assert set(summary["versions"]) == {"python", "sgpo", "torch", "transformers", "trl"}
    assert summary["sgpo_minus_grpo"]["mean"] == 0.25  # p: 0, q: 0.5


@pytest.mark.parametrize("fast", [True, False])
def test_table_fits_a_terminal(summary: dict[str, Any], fast: bool) -> None:
    """With the widest numbers, of all eight families, and with both guided columns."""
    by_family = {family: {"avg_at_4": 1.0, "greedy": 1.0} for family in TRAINED_FAMILIES}
    scores = {name: {**score, "by_family": by_family} for name, score in summary["scores"].items()}
    guided = {"pass_rate": 1.0, "by_family": dict.fromkeys(TRAINED_FAMILIES, 1.0)}
    console = Console(width=80, record=True, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    print_scores(console, {**summary, "scores": scores, "guided": dict.fromkeys(("base", "sft"), guided), "fast": fast})
    text = console.export_text()
    assert "75.0 / 50.0" in text
    assert "+25.0 points" in text
    words = " ".join(text.split())  # wherever the lines are broken
    assert ("only show that everything runs" in words) is fast
    assert ("This is one seed" in words) is not fast
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    rows = [line.split() for line in text.splitlines()]
    for family in TRAINED_FAMILIES:
        assert [family, *["100", "/", "100"] * 4, "100", "100"] in rows


def test_example_shows_problem_strategy_and_response(tmp_path: Path) -> None:
    row = {
        "id": "1",
        "prompt": "2+[x]=3",
        "answer": "1",
        "strategy": "undo",
        "response": "\\boxed{1}",
        "family": "order",
    }
    (tmp_path / "rl.jsonl").write_text(json.dumps(row) + "\n")
    console = Console(width=88, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    print_example(console, tmp_path / "rl.jsonl")
    text = console.export_text()
    assert all(part in text for part in ("2+[x]=3", "undo", "\\boxed{1}"))


def test_strategies_by_hand(tmp_path: Path) -> None:
    """Of three kept strategies one is a mistake of its family, and one is right, but for another family."""
    rng = random.Random(0)
    equation, order = FAMILIES["equation"], FAMILIES["order"]
    texts = [right_card(equation, rng, 0.0).text, mistaken_card(equation, rng).text, right_card(order, rng, 0.0).text]
    candidates = [
        [{"text": "s", "score": 0.9, "flags": []}, {"text": "b", "score": None, "flags": ["answer: 1", "answer: 2"]}],
        [{"text": "b", "score": 0.7, "flags": []}, {"text": "b", "score": None, "flags": ["format: no"]}],
        [{"text": "b", "score": 0.8, "flags": []}],
        [{"text": "b", "score": None, "flags": ["answer: 1"]}],
        [{"text": "b", "score": 0.2, "flags": []}],
    ]
    statuses = [("kept", None, score, text) for score, text in zip((0.9, 0.7, 0.8), texts, strict=True)]
    statuses += [("rejected", "r", None, None), ("failed", None, None, None)]
    rows = []
    for number, (given, (status, reason, score, text)) in enumerate(zip(candidates, statuses, strict=True)):
        own = {"id": str(number), "prompt": f"p{number}", "answer": "1", "family": "equation", "strategy": text}
        rows.append({**own, "status": status, "reason": reason, "score": score, "candidates": given})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = strategy_summary(tmp_path / "rows.jsonl")
    assert found == {
        "problems": 5,
        "kept": 3,
        "rejected": {"r": 1},
        "failed": 1,
        "mean_score": 0.8,
        "right": 1,
        "candidates": 7,
        "flagged": {"answer": 2, "format": 1},
        "mean_score_of_candidates": 0.65,
    }
    console = Console(width=88, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    print_strategies(console, found)
    text = console.export_text()
    assert "kept" in text
    assert "0.800" in text
    assert "rejected: r" in text
    assert "dropped 3 (2 answer, 1 format)" in text


# --- plot -----------------------------------------------------------------------------------------------------


def test_series_and_smoothing_by_hand() -> None:
    rows = [{"step": 1, "alpha": 0.5}, {"step": 2}, {"step": 3, "alpha": 0.25}, {"train_runtime": 1.0}]
    assert series(rows, "alpha") == ([1, 3], [0.5, 0.25])
    assert smoothed([1.0, 2.0]) == [1.0, 2.0]  # too short for a window
    assert smoothed([0.0] * 6 + [2.0] * 6) == [0.0] * 5 + [2 / 3, 4 / 3] + [2.0] * 5  # one neighbour to each side
    assert spread_labels([0.5, 0.52, 0.1], 0.1) == pytest.approx([0.5, 0.6, 0.1])


def test_a_half_written_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 1}\n{"st')
    assert read_metrics(path) == [{"step": 1}]


def test_plot_writes_both_files(tmp_path: Path) -> None:
    rows = [{"step": i, "reward/autonomous": i / 20, "alpha": 0.4, "reward/guided": 0.9} for i in range(1, 20)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training_plot({"sgpo": tmp_path / "metrics.jsonl", "grpo": tmp_path / "missing.jsonl"}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "plot.svg").read_text()
    assert "guided</" in svg
    assert ">GRPO</" not in svg


# --- everything -----------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_quickstart_runs(tmp_path: Path) -> None:
    output = tmp_path / "quickstart"
    command = [sys.executable, "-m", "sgpo", "quickstart", "--fast", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((output / "summary.json").read_text())
    families = set(summary["scores"]["base"]["by_family"])
    assert len(families) >= 6
    for name in MODELS:
        score = summary["scores"][name]
        assert 0 <= score["avg_at_4"] <= 1
        assert 0 <= score["greedy"] <= 1
        assert set(score["by_family"]) == families
    assert set(summary["guided"]) == {"base", "sft"}
    assert set(summary["seconds"]) == {
        "world",
        "strategies",
        "warm_up",
        "training",
        "evaluation",
        "idea",
        "report",
        "total",
    }
    assert summary["fast"] is True
    idea = summary["idea"]
    assert idea["problems"]["all"] == 12
    assert len(idea["tokens"]) == 5
    assert "The idea, on one problem that no model was trained on" in done.stdout
    strategies = summary["strategies"]
    assert (strategies["problems"], strategies["failed"], strategies["candidates"]) == (64, 0, 320)
    assert strategies["kept"] + sum(strategies["rejected"].values()) == 64
    assert strategies["right"] >= 0.95 * strategies["kept"] >= 0.95 * 0.9 * 64
    assert set(strategies["flagged"]) == {"answer", "intermediate", "computation"}
    assert "Strategies of 64 training problems" in done.stdout
    assert summary["configuration"]["sgpo"]["method"] == "sgpo"
    for name in ("sft", "grpo", "sgpo"):
        assert (output / name / "model.safetensors").exists()
    for name in ("grpo", "sgpo"):
        assert read_metrics(output / name / "metrics.jsonl")[-1]["step"] == 4
    pictures, others = ("training.png", "training.svg"), ("commands.sh", "miniworld/test_deeper.jsonl", "logs/sgpo.log")
    for name in ("report.html", *pictures, *others):
        assert (output / name).exists(), name
    assert "only show that everything runs" in " ".join(done.stdout.split())  # wherever the lines are broken
