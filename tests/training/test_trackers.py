"""Trackers for real: what a run logs arrives in each, without network, in a temporary folder.

Trackio refuses the Pillow of constraints/default.txt; its test runs in the environment of constraints/trackio.txt.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.integrations import integration_utils

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.problems import Problem
from sgpo.training.trackers import MODULES

PROBLEMS = [Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), "-", f"Steps: (a) add {n}") for n in range(8)]
METRICS = ("loss", "grad_norm", "reward/autonomous", "alpha", "entropy", "clipped_share/low", "seconds/sample")
BLOCK, HEADER = 32_768, 7  # of the files of Weights & Biases, which are those of LevelDB's log

Lines = list[dict[str, Any]]
TrainWith = Callable[[str], Lines]


def parity(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float(len(completion) % 2) for completion in completions]


@pytest.fixture
def train_with(
    make_config: Callable[..., SGPOConfig], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainWith:
    """Two updates in an empty folder, which is home as well; gives the lines of metrics.jsonl."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens

    def train(tracker: str) -> Lines:
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        # Every fourth token ends a completion, or a model with random weights would hardly ever end one.
        model.generation_config.eos_token_id = list(range(1, model.config.vocab_size, 4))
        config = make_config(
            report_to=tracker, max_completion_length=9, learning_rate=1e-3, run_name="first", delta=3.0
        )
        trainer = SGPOTrainer(model, config, PROBLEMS, reward_funcs=parity)
        trainer.train()
        text = (Path(config.output_dir) / "metrics.jsonl").read_text()
        return [line for line in map(json.loads, text.splitlines()) if "loss" in line]

    return train


def assert_same(lines: Lines, tracked: dict[int, dict[str, float]], rel: float = 1e-12) -> None:
    assert [line["step"] for line in lines] == [1, 2] == sorted(tracked)
    for line in lines:
        expected = {f"train/{name}": line[name] for name in METRICS if name in line}
        assert len(expected) > 4
        assert {name: tracked[line["step"]][name] for name in expected} == pytest.approx(expected, rel=rel)


def test_all_trackers_of_transformers_are_known() -> None:
    assert list(MODULES) == sorted(integration_utils.INTEGRATION_TO_CALLBACK)


def test_tensorboard_gets_the_metrics(train_with: TrainWith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    lines = train_with("tensorboard")
    (folder,) = {path.parent for path in (tmp_path / "board").rglob("events*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    tracked: dict[int, dict[str, float]] = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            tracked.setdefault(event.step, {})[name] = event.value
    assert_same(lines, tracked, rel=1e-6)  # float32


def test_weights_and_biases_gets_the_metrics(
    train_with: TrainWith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    lines = train_with("wandb")
    wandb.teardown()
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    tracked: dict[int, dict[str, float]] = {}
    for values in histories(file):
        tracked.setdefault(values["train/global_step"], {}).update(values)
    assert_same(lines, tracked)
    assert list((tmp_path / "here").iterdir()) == []


def histories(file: Path) -> Iterator[dict[str, Any]]:
    """What was logged, each call of `wandb.log` by itself."""
    from wandb.proto import wandb_internal_pb2

    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.HasField("history"):
            items = record.history.item
            yield {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def records(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log; a record that does not fit into a block is in parts (types 2, 3 and 4)."""
    at, whole = HEADER, b""  # the file begins with a header of its own
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        at += HEADER
        whole += data[at : at + length]
        at += length
        if kind in (1, 4):
            yield whole
            whole = b""


@pytest.mark.trackio
def test_trackio_gets_the_metrics(train_with: TrainWith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    lines = train_with("trackio")
    (file,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT run_name, metrics FROM metrics ORDER BY id").fetchall()
    tracked: dict[int, dict[str, float]] = {}
    for name, text in rows:
        assert name == "first"
        values = json.loads(text)
        tracked.setdefault(values["train/global_step"], {}).update(values)
    assert_same(lines, tracked)
    assert list((tmp_path / "here").iterdir()) == []
