"""Comparisons at work: places, failing cells, adapters; and a real one that is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from comparison_cases import ROWS, result
from recipe_cases import SIZES, Write
from transformers import AutoModelForCausalLM

from sgpo.cli import main
from sgpo.command_runner import Command, Job
from sgpo.comparison.collecting import evaluation_result
from sgpo.comparison.devices import find_places, only_one
from sgpo.comparison.jobs import CellRun, all_jobs
from sgpo.comparison.plan import Cell, ComparisonPlan, make_plan
from sgpo.comparison.recipe import read_recipe
from sgpo.comparison.results import append_result, key_of, read_results
from sgpo.errors import UsageError
from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.models.adapters import chain_of
from sgpo.problems import save_problems


def test_places_are_cores_or_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in find_places(None, on_cpu=False)] == ["3", "5"]
    assert [place["CUDA_VISIBLE_DEVICES"] for place in find_places(3, on_cpu=False)] == ["3", "5", "3"]
    assert {place["CUDA_VISIBLE_DEVICES"] for place in find_places(None, on_cpu=True)} == {""}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("sgpo.comparison.devices.available_cores", lambda: 4)
    assert [place["OMP_NUM_THREADS"] for place in find_places(None, on_cpu=False)] == ["1"] * 4
    with pytest.raises(ValueError, match="--parallel is 0; it must be at least 1"):
        find_places(0, on_cpu=True)


def test_a_folder_has_one_comparison_at_a_time(tmp_path: Path) -> None:
    with only_one(tmp_path), pytest.raises(ValueError, match="a comparison is at work in"), only_one(tmp_path):
        pass
    with only_one(tmp_path) as lock:
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        left = subprocess.Popen(command, pass_fds=[lock])  # as after a kill of the comparison alone
    with pytest.raises(ValueError, match="or a command of one that was killed"), only_one(tmp_path):
        pass
    left.kill()
    left.wait()
    with only_one(tmp_path):
        pass


def broken() -> Iterator[Command]:
    raise OSError("a file is gone")
    yield Command("nothing", {})


def test_a_failed_cell_is_named_and_gives_exit_status_1(
    plan: ComparisonPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(tmp_path / "recipes" / "compare.yaml")
    row = result("base-101", 1, "grpo", [0.5], configuration=plan.configuration(plan.cells[1]))
    jobs = {"base-101/seed-1/sgpo": Job(iter([Command("nonsense", {})])), "good": Job(iter([]))}
    jobs["between"] = Job(broken())
    jobs["waiting"] = Job(iter([]), after=("base-101/seed-1/sgpo",))
    monkeypatch.setattr("sgpo.comparison.run.all_jobs", lambda *arguments, **keywords: jobs)
    append_result(plan.output / "results.jsonl", row)
    options = ["--seeds", "1", "2", "--parallel", "1", "--output", str(plan.output)]
    assert main(["compare", "--recipe", recipe, *options]) == 1
    shown = capsys.readouterr()
    assert "FAILED base-101/seed-1/sgpo ended with exit status 2. The end of its log:" in " ".join(shown.out.split())
    assert "sgpo: there is no command nonsense" in shown.out
    assert "50.0" in shown.out  # the table of what is there
    assert shown.err.endswith(
        "sgpo compare: 2 failed: base-101/seed-1/sgpo, between; waiting waited for them. The ends of their logs are "
        "above; the same command goes on with what is left\n"
    )


def test_a_damaged_file_of_a_cell_is_named(plan: ComparisonPlan, tmp_path: Path) -> None:
    state = CellRun(plan, plan.cells[1], lambda row: None, False)
    next(state.commands())
    state.state_path.write_text('{"seconds": ')
    with pytest.raises(UsageError, match=rf"^{state.state_path} is damaged \(Expecting value: line 1 column 13 .*del"):
        next(state.commands())
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "summary.json").write_text('{"benchmarks": {"test": {}}}')
    message = r"^the evaluation in .*evaluation is damaged \(.*test\.parquet is not there: evaluate again\); delete"
    with pytest.raises(UsageError, match=message):
        evaluation_result(tmp_path / "evaluation", ["test"])


def test_table_only_runs_nothing(write_recipe: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    for row in ROWS:
        append_result(tmp_path / "out" / "results.jsonl", row)
    assert main(["compare", "--recipe", str(write_recipe()), "--output", str(tmp_path / "out"), "--table-only"]) == 0
    assert "87.5 ± 17.7" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["results.jsonl", "table.md"]


def test_an_adapter_is_compared_as_any_base_model(
    write_recipe: Write, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warm-up goes on with the base's adapter, grpo with that of the warm-up, sgpo trains one on top of it."""
    peft = pytest.importorskip("peft")
    adapter, output = tmp_path / "adapter", tmp_path / "out"
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint), peft.LoraConfig(r=2))
    model.save_pretrained(adapter)
    for name in ("sft", "rl"):
        save_problems(problem_sets(seed=5, sizes=Sizes(**SIZES))[name], tmp_path / f"{name}.jsonl")
    files = {name: str(tmp_path / "rl.jsonl") for name in ("problems", "dev_problems")}
    files["sft_problems"] = str(tmp_path / "sft.jsonl")
    own = {"world": None, "base_models": [str(adapter)], "sets": {"own": str(tmp_path / "rl.jsonl")}, **files}
    path = write_recipe(**own, methods=["grpo", "sgpo"], options={"max_steps": 2, "warmup_steps": 0})
    sgpo = path.with_name("sgpo.yaml")
    sgpo.write_text(sgpo.read_text() + "use_peft: true\nlora_r: 2\nlora_target_modules: all-linear\n")
    sft = path.with_name("sft.yaml")
    sft.write_text(yaml.safe_dump({**yaml.safe_load(sft.read_text()), "num_train_epochs": 1}))
    plan = make_plan(read_recipe(str(path)), output, [1], [])
    rows: list[Any] = []
    for job in all_jobs(plan, plan.cells, rows.append, keep_models=True).values():
        for command in job.commands:
            assert main([*command.arguments, *([] if command.name == "eval" else ["--use_cpu", "true"])]) == 0
    assert [(row["method"], row["configuration"]["base"]) for row in rows] == [
        ("grpo", str(adapter)),
        ("sgpo", str(adapter)),
    ]
    warmup = output / "adapter" / "sft"
    assert chain_of(str(warmup)) == [str(warmup), str(checkpoint)]
    runs = [output / "cells" / "adapter" / "seed-1" / name / "run" for name in ("grpo", "sgpo")]
    assert chain_of(str(runs[0]))[1:] == [str(checkpoint)]
    assert chain_of(str(runs[1]))[1:] == [str(warmup), str(checkpoint)]
    assert rows[1]["configuration"]["method"]["use_peft"] is True


def compare_command(recipe: Path, output: Path) -> list[str]:
    command = [sys.executable, "-m", "sgpo", "compare", "--recipe", str(recipe), "--output", str(output)]
    return [*command, "--seeds", "1", "2", "--parallel", "2"]


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """A result without what depends on time."""
    kept = {name: row[name] for name in ("base", "seed", "method", "sets", "configuration")}
    measured = {name: values for name, values in row.get("curves", {}).items() if name != "seconds"}
    counts = {name: value for name, value in row["totals"].items() if name != "seconds"}
    return {**kept, "curves": measured, "totals": counts}


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.integration
def test_a_killed_comparison_goes_on_and_gives_the_same(write_recipe: Write, tmp_path: Path) -> None:
    recipe = write_recipe()
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = subprocess.run(compare_command(recipe, whole), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 cells, 0 of them finished; 2 at a time" in done.stdout

    process = subprocess.Popen(compare_command(recipe, cut), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    results, late = cut / "results.jsonl", cut / "cells" / "base-101" / "seed-2"
    wait_until(
        lambda: len(read_results(results)) >= 2 and bool(list(late.glob("*/run/checkpoint-*/checkpoint.json"))), process
    )
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "sgpo compare: stopped; the same command goes on with what is left" in errors
    before = results.read_bytes()
    finished = read_results(results)
    assert 2 <= len(finished) < 5
    logs = [cut / "logs" / f"{Cell.name_of(*key_of(row))}.log" for row in finished]
    times = [log.stat().st_mtime_ns for log in logs]

    done = subprocess.run(compare_command(recipe, cut), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"5 cells, {len(finished)} of them finished" in done.stdout
    assert results.read_bytes().startswith(before)
    rows = {(row["seed"], row["method"]): row for row in read_results(results)}
    expected = {(row["seed"], row["method"]): row for row in read_results(whole / "results.jsonl")}
    assert rows.keys() == expected.keys()
    assert len(rows) == 5
    for key, row in rows.items():
        assert comparable(row) == comparable(expected[key]), key
    assert times == [log.stat().st_mtime_ns for log in logs]  # finished cells were not run again
    assert any("after the first" in log.read_text() for log in (cut / "logs" / "base-101" / "seed-2").glob("*.log"))
    assert not list(cut.glob("cells/**/*.safetensors"))
    assert max(map(len, results.read_bytes().splitlines())) < 60_000
    assert (cut / "table.md").read_text().count("\n| ") >= 8
