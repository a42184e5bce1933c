"""`SGPOTrainer` in two processes (gloo)."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from places import SUPPORT
from processes import launch
from torch import Tensor
from view_cases import assert_same_views

SCRIPT = str(SUPPORT / "trainer_cases.py")


def run(case: str, checkpoint: Path, folder: Path, processes: int = 2) -> list[tuple[int, str]]:
    return launch([SCRIPT, case, str(checkpoint), str(folder)], processes)


def timeless(line: dict[str, Any]) -> dict[str, Any]:
    times = ("seconds/", "tokens_per_second/", "train_")
    return {name: value for name, value in line.items() if not name.startswith(times)}


def alone_and_both(case: str, checkpoint: Path, folder: Path) -> tuple[Any, list[Any]]:
    """What one process saved, and what each of two did."""
    for processes in (1, 2):
        for status, output in run(case, checkpoint, folder, processes):
            assert status == 0, output
    alone, *both = [torch.load(folder / f"{name}.pt", weights_only=False) for name in ("1-0", "2-0", "2-1")]
    return alone, both


def assert_same_gradients(found: Sequence[Tensor], expected: Sequence[Tensor], case: str = "") -> None:
    """Of two updates. The second policy is after an AdamW step, which rounds where a gradient is nearly 0."""
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert other.norm() > 1e-3
        tolerance = 1e-6 if step == 0 else 1e-4
        assert (one - other).double().norm() <= tolerance * other.double().norm(), case


def test_two_processes_train_as_one(checkpoint: Path, tmp_path: Path) -> None:
    alone, both = alone_and_both("union", checkpoint, tmp_path)
    for of_process in both:
        for case, (gradients, history, evaluated) in of_process.items():
            expected_gradients, expected_history, expected_evaluation = alone[case]
            assert_same_gradients(gradients, expected_gradients)
            for line, expected in zip(history, expected_history, strict=True):
                assert timeless(line) == pytest.approx(timeless(expected), rel=1e-4, abs=1e-6)
            assert evaluated == pytest.approx(expected_evaluation)
    assert_same_views(tmp_path / "run-10-always-2", tmp_path / "run-10-always-1")
    assert 0 < alone[10, "after_failure"][1][0]["target_share"] < alone[10, "always"][1][0]["target_share"]
    rows = (tmp_path / "run-10-always-2" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 2, 2, 2]  # updates, evaluation, totals, evaluation
    names = sorted(path.name for path in (tmp_path / "run-10-always-2").iterdir())
    assert names == ["completions", "config.yaml", "data.json", "metrics.jsonl", "report.html"]


@pytest.mark.integration
def test_two_processes_train_by_methods_of_other_papers_as_one(checkpoint: Path, tmp_path: Path) -> None:
    alone, both = alone_and_both("related", checkpoint, tmp_path)
    assert max(alone["hinted"]) > 0
    for of_process in both:
        assert of_process.pop("hinted") == pytest.approx(alone["hinted"])
        for method, gradients in of_process.items():
            assert_same_gradients(gradients, alone[method], method)


def test_two_processes_train_an_adapter_as_one(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    alone, both = alone_and_both("adapter", checkpoint, tmp_path)
    for of_process in both:
        assert_same_gradients(of_process, alone)


@pytest.mark.integration
def test_stopped_and_resumed(checkpoint: Path, tmp_path: Path) -> None:
    for status, output in run("resumed", checkpoint, tmp_path):
        assert status == 0, output
    for rank in range(2):
        said = torch.load(tmp_path / f"2-{rank}.pt", weights_only=False)
        assert said == f"stopped by Ctrl-C after 4 of 8 updates; the checkpoint is {tmp_path}/halves/checkpoint-4"
    lines = [
        [timeless(json.loads(row)) for row in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("straight", "halves")
    ]
    assert lines[0][:-1] == lines[1][:-1]
    assert len(lines[0]) == 10  # 8 updates, the evaluation at the end, totals
    files = json.loads((tmp_path / "halves" / "checkpoint-4" / "checkpoint.json").read_text())["files"]
    assert {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt", "model.safetensors"} <= set(files)


@pytest.mark.parametrize(
    ("case", "error"),
    [("failing_reward", "KeyError: 'level'"), ("failing_update", "MemoryError: no room for the update")],
)
def test_an_error_in_one_process_ends_both(checkpoint: Path, tmp_path: Path, case: str, error: str) -> None:
    """In a phase of its own, and where the other one waits for it. The launcher's time limit is that of a hang."""
    (status, output), (status_of_failed, output_of_failed) = run(case, checkpoint, tmp_path)
    assert (status, status_of_failed) == (3, 1), output + output_of_failed
    assert f"[rank1]: {error}" in output_of_failed
    assert output.strip().splitlines()[-1] == f"ProcessError: process 1 failed, which ends the run: {error}"


def test_a_process_that_is_killed_ends_the_other(checkpoint: Path, tmp_path: Path) -> None:
    (status, output), (killed, _) = run("killed", checkpoint, tmp_path)
    assert (status, killed) == (3, -signal.SIGKILL), output
    said = "ProcessError: another process of the run is gone and left no report: it was killed, perhaps"
    assert output.strip().splitlines()[-1].startswith(said)


@pytest.mark.integration
def test_a_model_that_accelerate_did_not_shard_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    for status, output in run("sharding", checkpoint, tmp_path):
        assert status != 0
        assert "fsdp was asked for, but the model is a DistributedDataParallel" in output
