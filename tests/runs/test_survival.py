"""A run that is killed at any moment, and resumed, is the straight run to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from kill_cases import KILLS
from places import SUPPORT
from safetensors.torch import load_file

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def runs(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a straight run, and each killed one after it was resumed."""
    folder = tmp_path_factory.mktemp("runs")
    script = SUPPORT / "kill_cases.py"
    done = subprocess.run(
        [sys.executable, str(script), str(checkpoint), str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def lines_of(run: Path) -> list[dict[str, Any]]:
    times = ("seconds/", "tokens_per_second/", "train_")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith(times)} for line in lines]


@pytest.mark.parametrize("kill", KILLS)
def test_killed_and_resumed(runs: Path, kill: str) -> None:
    straight, run = runs / "straight", runs / kill.replace(" ", "-")
    # The steps of two updates are logged as before each checkpoint and each third update.
    updates = [line["step"] for line in lines_of(straight) if "loss" in line]
    assert updates == [3, 4, 6, 8]
    assert lines_of(run)[:10] == lines_of(straight)[:10]
    for name, weight in load_file(straight / "checkpoint-8" / "model.safetensors").items():
        assert torch.equal(weight, load_file(run / "checkpoint-8" / "model.safetensors")[name]), name
    for file in ("optimizer.pt", "scheduler.pt"):
        one, other = (torch.load(folder / "checkpoint-8" / file) for folder in (straight, run))
        assert flat(one) == flat(other)
    files = sorted(path.name for path in (straight / "completions").glob("*.parquet"))
    assert len(files) == 4
    for file in files:
        assert pq.read_table(run / "completions" / file).equals(pq.read_table(straight / "completions" / file))
    views = sorted(path.name for path in (straight / "completions").glob("*.views.json"))
    assert len(views) == 4
    for file in views:
        assert (run / "completions" / file).read_text() == (straight / "completions" / file).read_text()
    left_over = {path.name for path in run.iterdir()} ^ {path.name for path in straight.iterdir()}
    # Killed before it could delete the older checkpoint, and there was no later one to do it.
    assert left_over == ({"checkpoint-4"} if kill == "before older ones are deleted" else set())


def flat(value: Any) -> Any:
    """A state with tensors as lists, which compare by value."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {name: flat(part) for name, part in value.items()}
    return [flat(part) for part in value] if isinstance(value, list | tuple) else value
