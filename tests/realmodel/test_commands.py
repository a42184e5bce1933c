"""The commands with a pretrained chat model: evaluation, warm-up, training of all weights and of an adapter, resuming.

SGPO_REAL_MODEL=FOLDER python -m pytest -m realmodel tests/realmodel/test_commands.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from sgpo.cli import main

pytestmark = pytest.mark.realmodel
QUIET = ["--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true"]
LORA = ["--use_peft", "true", "--lora_r", "8", "--lora_target_modules", "all-linear"]
TRAIN = [
    "--seen_problems", "allow", "--problems_per_rollout", "4", "--num_autonomous", "3", "--num_guided", "2",
    "--max_completion_length", "32", "--save_steps", "2", "--completions_steps", "2",
]  # fmt: skip


def evaluate(model: Path, problems: Path, output: Path, *options: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and samples of one greedy answer to each problem."""
    given = ["--model", str(model), "--problems", str(problems), "--k", "1", "--temperature", "0"]
    assert main(["eval", *given, "--max_completion_length", "32", "--output", str(output), *options]) == 0
    rows = Dataset.from_parquet(str(output / "samples" / "problems.parquet")).to_list()
    return json.loads((output / "summary.json").read_text()), rows


@pytest.fixture(scope="module")
def warm(real_model: Path, problems_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model after a warm-up on the problems' short solutions, of all weights."""
    folder = tmp_path_factory.mktemp("runs") / "warm"
    given = ["sft", "--model", str(real_model), "--problems", str(problems_file), "--output_dir", str(folder), *QUIET]
    schedule = ["--max_steps", "10", "--per_device_train_batch_size", "8", "--learning_rate", "1e-4"]
    saving = ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    assert main([*given, *schedule, *saving, "--activation_checkpointing", "false", "--logging_steps", "1"]) == 0
    return folder


def test_a_warm_up_teaches_the_form_of_the_answer(
    real_model: Path, warm: Path, problems_file: Path, tmp_path: Path
) -> None:
    """Before it no answer stands in a box; after it nearly all do, and some are right."""
    state, model = (load_file(folder / "model.safetensors") for folder in (warm, real_model))
    assert state.keys() == model.keys()
    assert "lm_head.weight" not in state  # it is the embedding
    assert {value.dtype for value in state.values()} == {torch.float32}
    before, _ = evaluate(real_model, problems_file, tmp_path / "before")
    after, rows = evaluate(warm, problems_file, tmp_path / "after")
    guided, _ = evaluate(warm, problems_file, tmp_path / "guided", "--guided")
    scores = [each["benchmarks"]["problems"] for each in (before, after, guided)]
    assert scores[0]["average"] == 0.0
    assert scores[0]["verdicts"]["unparsed"] == 16
    for score in scores[1:]:
        assert score["average"] >= 0.5
        assert score["truncated"] <= 0.25
    assert sum(row["completion"].endswith("}") for row in rows) >= 8  # an end token is no part of the text


def test_training_of_all_weights(warm: Path, problems_file: Path, tmp_path: Path) -> None:
    """Adam moves each weight by at most the learning rate and hardly more in each of its first updates."""
    rate, output = 1e-5, tmp_path / "full"
    given = ["train", "--model", str(warm), "--problems", str(problems_file), "--output_dir", str(output)]
    options = ["--max_steps", "2", "--learning_rate", str(rate), "--save_strategy", "no"]
    assert main([*given, *QUIET, *TRAIN, *options]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (warm, output))
    assert before.keys() == after.keys()
    changes = {name: (after[name] - before[name]).abs().max().item() for name in before}
    assert 0.5 * rate < max(changes.values()) < 2.5 * rate
    check_lines(output, updates=2, mismatch=1e-4)


def test_training_of_an_adapter_in_bfloat16_goes_on_after_an_interruption(
    warm: Path, problems_file: Path, tmp_path: Path
) -> None:
    """The weights after resuming are those of the straight run, bit for bit."""
    straight, halves = tmp_path / "straight", tmp_path / "halves"

    def train(output: Path, *more: str) -> None:
        given = ["train", "--model", str(warm), "--problems", str(problems_file), "--output_dir", str(output)]
        options = ["--max_steps", "4", "--learning_rate", "1e-4", "--bf16", "true"]
        assert main([*given, *QUIET, *TRAIN, *LORA, *options, *more]) == 0

    train(straight)
    shutil.copytree(straight, halves)
    shutil.rmtree(halves / "checkpoint-4")
    (halves / "adapter_model.safetensors").unlink()
    train(halves, "--resume", "true")
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (straight, halves))
    assert len(one) == 2 * 7 * 30
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert all(value.abs().max() > 0 for name, value in one.items() if "lora_B" in name)
    check_lines(straight, updates=4, mismatch=0.05)
    summary, _ = evaluate(straight, problems_file, tmp_path / "scores", "--dtype", "bfloat16", "--guided")
    assert summary["benchmarks"]["problems"]["average"] >= 0.4


def check_lines(run: Path, *, updates: int, mismatch: float) -> None:
    """What was measured is possible.

    Args:
        mismatch: bound on the mean difference of sampler's and trainer's log-probabilities, nats.
    """
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [*range(1, updates + 1)]
    for line in steps:
        assert 0 < line["grad_norm"] < 100
        assert 0.05 < line["entropy"] < 3
        assert 5 < line["length/autonomous"] <= 32
        assert 0 <= line["reward/autonomous"] == line["pass_rate/autonomous"] <= 1
        assert line.get("divergence", 0.1) > 0
    first_of_batches = steps[::2]
    assert all(line["sampler_mismatch"] < mismatch for line in first_of_batches)
    assert max(line["reward/autonomous"] for line in steps) > 0
