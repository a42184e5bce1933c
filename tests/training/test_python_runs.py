"""A run from Python leaves the files that one from the command line leaves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.cli import main
from sgpo.configuration import NOT_SAVED
from sgpo.problems import Problem, save_problems
from sgpo.training.arguments import TrainArguments
from sgpo.training.sft import WarmupConfig, build_warmup_trainer

PROBLEMS = [Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), "\\boxed{0}", "Steps: (a) add") for n in range(8)]


def configuration(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_training_writes_its_configuration(
    checkpoint: Path, make_config: Callable[..., SGPOConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same as the command, but for the problems; a command takes it again, and sgpo plot draws the run."""
    trainer = SGPOTrainer(str(checkpoint), make_config(eval_strategy="no"), train_dataset=PROBLEMS)
    trainer.train()
    run, problems = tmp_path / "run", tmp_path / "problems.jsonl"
    save_problems(PROBLEMS, problems)
    assert (run / "config.yaml").read_text().splitlines()[:2] == [
        "# Written by a run in Python, whose problems, reward functions and adapter have no name here. A command takes",
        "# this file with --problems FILE, with --rewards where the reward is not math_reward, and with --use_peft.",
    ]
    saved = configuration(run)
    assert (saved["model"], saved["num_autonomous"], saved["max_steps"]) == (str(checkpoint), 3, 2)
    assert not NOT_SAVED & saved.keys()

    again = ["train", "--config", str(run / "config.yaml"), "--problems", str(problems)]
    assert main([*again, "--output_dir", str(tmp_path / "again")]) == 0
    of_command = configuration(tmp_path / "again")
    different = {name for name in of_command if of_command[name] != saved.get(name, "absent")}
    of_the_command = {each.name for each in dataclasses.fields(TrainArguments)} - {"model"} - NOT_SAVED
    assert different - {"output_dir", "logging_dir"} == of_the_command
    lines = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]) for folder in (run, tmp_path / "again")]
    assert lines[0]["loss"] == lines[1]["loss"]
    assert main(["plot", str(run), str(tmp_path / "again"), "--output", str(tmp_path / "pictures")]) == 0
    assert list((tmp_path / "pictures").glob("*.png"))


def test_a_refused_run_writes_no_configuration(
    checkpoint: Path, make_config: Callable[..., SGPOConfig], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1}\n')
    trainer = SGPOTrainer(str(checkpoint), make_config(), train_dataset=PROBLEMS)
    with pytest.raises(ValueError, match="holds another run"):
        trainer.train()
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_warm_up_writes_its_configuration(checkpoint: Path, tmp_path: Path) -> None:
    args = WarmupConfig(
        output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none", max_steps=1, disable_tqdm=True, max_length=256
    )
    build_warmup_trainer(str(checkpoint), args, PROBLEMS).train()
    saved = configuration(tmp_path / "run")
    assert (saved["model"], saved["max_length"], saved["validation_share"]) == (str(checkpoint), 256, 0.1)
