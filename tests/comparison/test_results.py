"""Results, tables and pictures of comparisons, by hand-made inputs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from comparison_cases import BUDGET, ROWS, result, updates
from limits import largest_file
from token_view_cases import ListTokenizer, made_up
from view_cases import views_of, write_views

from sgpo.cli import main
from sgpo.comparison.collecting import counters, curves, dev_curve, short, training_result
from sgpo.comparison.pictures import draw_all, looks_of
from sgpo.comparison.results import append_result, read_results
from sgpo.comparison.run import newest_step
from sgpo.comparison.summary import notes_of, summarise
from sgpo.comparison.table import cells_of, markdown, write_table
from sgpo.comparison.trajectories import Source, band, read_source

# --- results --------------------------------------------------------------------------------------------------


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_result(path, result("b", 1, "grpo", [0.5]))
    with path.open("a") as file:
        file.write('{"base": "b", "se')
    assert len(read_results(path)) == 1
    append_result(path, result("b", 2, "grpo", [0.5]))
    assert [row["seed"] for row in read_results(path)] == [1, 2]
    append_result(path, result("b", 2, "grpo", [0.5]))
    with pytest.raises(ValueError, match="has two results of"):
        read_results(path)
    path.write_text("{}\n")
    with pytest.raises(ValueError, match=r"line 1 of .* is no result of sgpo compare: it needs base"):
        read_results(path)


def test_a_result_is_there_whole_or_the_error_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of a cell are deleted once its result is appended."""
    path = tmp_path / "results.jsonl"
    append_result(path, result("b", 1, "grpo", [0.5]))
    before = path.read_bytes()
    with largest_file(len(before) + 20), pytest.raises(OSError, match="File too large"):
        append_result(path, result("b", 2, "grpo", [0.5]))
    assert path.read_bytes() == before
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
    append_result(path, result("b", 2, "grpo", [0.5]))
    assert read_results(path) == [result("b", seed, "grpo", [0.5]) for seed in (1, 2)]


@pytest.mark.parametrize("every", [1, 2, 4])
def test_what_was_spent_by_hand(every: int) -> None:
    """Whatever the number of updates a line stands for."""
    spent = counters(updates(8, every), batch=48, updates_per_rollout=2)[-1]
    assert spent == {"step": 8, "samples": 192, "sampled_tokens": 400, "trained_tokens": 480, "seconds": 18.0}


def test_curves_are_means_of_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgpo.comparison.collecting.POINTS", 4)
    rows = updates(8)
    found = curves(rows, counters(rows, 48, 2))
    assert found["step"] == [2, 4, 6, 8]
    assert found["samples"] == [48, 96, 144, 192]
    assert found["reward/autonomous"] == pytest.approx([0.15, 0.35, 0.55, 0.75])
    assert "entropy" not in found


def test_a_run_is_collected(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"step": 0, "eval_avg_at_2": 0.25}, *updates(4)]
    rows += [{"step": 4, "eval_avg_at_2": 0.5}, {"step": 4, "train_loss": 0.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = training_result(tmp_path, 12, 4, 2)
    assert found["totals"]["completions"] == 96
    assert found["totals"]["seconds"] == {"sample": 4.0, "verify": 1.0, "assemble": 0.0, "optimise": 4.0}
    assert (found["dev"]["step"], found["dev"]["samples"], found["dev"]["score"]) == ([0, 4], [0, 96], [0.25, 0.5])
    assert found["final"] == {"reward/autonomous": 0.4}
    assert dev_curve(updates(4), []) == {}
    assert short(0.123456) == 0.1235
    assert newest_step(tmp_path / "metrics.jsonl") == 4
    assert newest_step(tmp_path / "none.jsonl") is None


# --- table ----------------------------------------------------------------------------------------------------


def test_table_by_hand() -> None:
    (found,) = summarise(ROWS, "grpo")
    assert [line.method for line in found.lines] == ["sft", "grpo", "grpo-8", "sgpo"]
    sft, grpo, _, sgpo = found.lines
    assert (sft.mean, sft.deviation, grpo.difference) == (0.25, None, None)
    assert sft.difference is not None
    assert (sft.difference.mean, sft.difference.cells) == (-0.25, 2)  # it stands for both seeds
    assert (sgpo.mean, sgpo.deviation) == (0.875, pytest.approx(0.125 * 2**0.5))
    assert sgpo.difference is not None
    assert sgpo.difference.mean == 0.375
    assert sgpo.adjusted_p is not None
    assert sgpo.adjusted_p >= sgpo.difference.p
    cells = cells_of(sgpo)
    assert cells[:5] == ["sgpo", "2", "12", "87.5 ± 17.7", "+37.5"]
    assert cells[-1] == "75.0 100.0"
    assert cells_of(grpo)[4:7] == ["", "", ""]


def test_several_base_models_are_told_apart() -> None:
    rows = [*ROWS, result("c", 1, "grpo", [0.0, 0.0], budget=BUDGET)]
    (found,) = summarise(rows, "grpo", ["grpo"])
    assert cells_of(found.lines[0])[-1] == "b: 50.0 50.0; c: 0.0"
    assert found.lines[0].mean == 0.25


def test_other_budgets_are_said() -> None:
    budgets = {"grpo": BUDGET, "sgpo": BUDGET, "grpo-8": {**BUDGET, "samples": 8, "max_steps": 100}}
    assert notes_of(budgets, "grpo") == [
        "grpo-8 has another budget than grpo: samples a problem 8 against 12, updates 100 against 150"
    ]


def test_table_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(ROWS, "grpo", tmp_path)
    text, shown = (tmp_path / "table.md").read_text(), capsys.readouterr().out
    assert (
        "### test: 2 problems, avg@4\n\nSmallest difference that such a comparison sees in four of five cases" in text
    )
    assert " points, by method.\n\n| method | cells | samples | mean ± sd | minus grpo |" in text
    assert "| sgpo | 2 | 12 | 87.5 ± 17.7 | +37.5 |" in text
    assert "- grpo-8 has another budget than grpo: samples a problem 8 against 12\n" in text
    assert "Grpo-8" not in shown
    for part in ("87.5 ± 17.7", "75.0 100.0", "cost of a cell", "Holm's correction is for 3 claims a set"):
        assert part in shown
    with pytest.raises(ValueError, match="there are no results yet"):
        write_table([], "grpo", tmp_path)
    assert markdown([], [], [], "grpo").startswith("### Cost of a cell")


# --- pictures -------------------------------------------------------------------------------------------------


def with_curves(row: dict[str, Any]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for line in updates(8):
        rows += [{**line, "surprisal": 0.1, "length/autonomous": 30.0, "alpha": 0.4, "reward/guided": 0.9}]
    spent = counters(rows, 48, 2)
    dev = [{"step": step, "eval_avg_at_1": row["sets"]["test"]["score"] + step / 100} for step in (0, 4, 8)]
    return {**row, "curves": curves(rows, spent), "dev": dev_curve(dev, spent)}


def test_bands_by_hand() -> None:
    rows = [with_curves(row) for row in ROWS if row["method"] == "sgpo"]
    found = band(rows, "dev", "score", "samples")
    assert found is not None
    assert found.x.tolist() == [0, 96, 192]
    assert found.mean == pytest.approx([0.875, 0.915, 0.955])
    assert found.low == pytest.approx([0.75, 0.79, 0.83])
    assert found.high == pytest.approx([1.0, 1.04, 1.08])
    assert band(rows, "dev", "nothing") is None


def test_looks_are_distinct_and_stay() -> None:
    names = ["sft", "grpo", "sgpo", *(f"m{i}" for i in range(16))]
    looks = looks_of(names)
    assert len({(look.color, str(look.dashes)) for look in looks.values()}) == len(names)
    assert looks["sgpo"] == looks_of(["sgpo"])["sgpo"]


def test_plot_draws_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row in ROWS:
        append_result(tmp_path / "results.jsonl", with_curves(row) if row["budget"] else row)
    assert main(["plot", str(tmp_path / "results.jsonl")]) == 0
    for name in ("cost", "dynamics", "scores"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "sgpo</" in (tmp_path / f"{name}.svg").read_text()
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF-")
    assert str(tmp_path / "cost.svg") in capsys.readouterr().out
    assert main(["plot", str(tmp_path / "results.jsonl"), "--methods", "luffy"]) == 2
    assert "there are no results of luffy; there are some of sft, grpo, grpo-8, sgpo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cells", "lines", "scores"),
    [
        ([("b", 1)], "Lines: single runs.", "over problems, for"),
        ([("b", 1), ("b", 2)], "Lines: means over seeds.", "over seeds and problems, for"),
        ([("b", 1), ("c", 1)], "Lines: means over base models.", "over problems, for"),
        (
            [("b", 1), ("b", 2), ("c", 1)],
            "Lines: means over base models and seeds.",
            "over seeds and problems, for",
        ),
    ],
)
def test_captions_say_what_was_repeated(cells: list[tuple[str, int]], lines: str, scores: str, tmp_path: Path) -> None:
    rows = [result(base, None, "sft", [0.0, 0.5]) for base in dict.fromkeys(base for base, _ in cells)]
    for method in ("grpo", "sgpo"):
        rows += [with_curves(result(base, seed, method, [0.5, 1.0], budget=BUDGET)) for base, seed in cells]
    draw_all(Source(rows, scored=True), tmp_path)
    assert f">{lines}" in (tmp_path / "cost.svg").read_text()
    text = (tmp_path / "scores.svg").read_text()
    assert scores in text
    assert ("; ticks: their mean" in text) == (len(cells) > 1)


def test_plot_draws_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "mine"
    run.mkdir()
    config = {
        "method": "grpo",
        "num_autonomous": 8,
        "num_guided": 4,
        "problems_per_rollout": 4,
        "updates_per_rollout": 2,
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in updates(8)))
    drawn = draw_all(read_source([run]), tmp_path / "plots")
    assert [path.name for path in drawn] == ["cost.png", "dynamics.png"]
    text = (tmp_path / "plots" / "dynamics.svg").read_text()
    assert "mine</" in text
    assert ">Lines: single runs, moving means over steps.</" in text
    words = [f" w{n}" if n % 3 else "\n$5_" for n in range(3 * 40)]
    for step, seed in ((0, 1), (50, 2)):
        answers = [made_up(range(2, 2 + len(words)), len(words), label=f"p{step}", seed=seed)]
        write_views(run, step, answers, ListTokenizer(words))
    source = read_source([run])
    assert source.target is not None
    assert [path.name for path in draw_all(source, tmp_path / "plots")] == ["cost.png", "dynamics.png", "steps.png"]
    answer = views_of(run, source.target.updates)[source.target.problem]["answer"]
    assert sum(answer["divergence"]) >= max(sum(views_of(run, n)[f"p{n}"]["answer"]["divergence"]) for n in (0, 50))
    (start, end), step = answer["steps"][1], source.target.steps[1]
    assert step.text == "".join(answer["texts"][start:end]).strip()
    assert step.divergence == pytest.approx(sum(answer["divergence"][start:end]) / (end - start))
    assert step.sft_loss == pytest.approx(sum(answer["sft"][start:end]) / (end - start))
    text = (tmp_path / "plots" / "steps.svg").read_text()
    assert "$5_ w4 w5</" in text
    assert "The first 16 of 40 steps." in text
    assert (tmp_path / "plots" / "steps.pdf").read_bytes().startswith(b"%PDF")
    assert main(["plot", str(tmp_path)]) == 2
    assert "is no folder of a training run: it has no metrics.jsonl" in capsys.readouterr().err
