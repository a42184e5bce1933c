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
from sgpo.training.metrics import read_metrics

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
    schedule = ["--max_steps", "12", "--per_device_train_batch_size", "8", "--learning_rate", "1e-4"]
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
    for each in (before, after, guided):
        print(json.dumps(each["benchmarks"]["problems"]))
    print([row["completion"] for row in rows])
