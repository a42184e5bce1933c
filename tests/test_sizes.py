"""Sizes that nobody wrote fit small data and short contexts; written ones are kept, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.cli import main
from sgpo.problems import Problem, save_problems
from sgpo.sizes import Default, as_written, fitted_to_context, fitted_to_problems

PROBLEMS = [Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), "\\boxed{0}", "Steps: (a) add") for n in range(13)]


@pytest.fixture
def unwritten(tmp_path: Path) -> SGPOConfig:
    return SGPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none", disable_tqdm=True)


@pytest.fixture
def student(checkpoint: Path, tmp_path: Path) -> Path:
    """A model with a context of 512 tokens, of which every fourth ends a completion."""
    folder = tmp_path / "student"
    shutil.copytree(checkpoint, folder)
    generation = folder / "generation_config.json"
    ends = list(range(1, 400, 4))
    generation.write_text(json.dumps({**json.loads(generation.read_text()), "eos_token_id": ends}))
    return folder


# --- the rules ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "length"), [(512, 256), (8192, 4096), (32_767, 16_383), (32_768, 16_384), (131_072, 16_384)]
)
def test_half_of_a_short_context_is_for_the_completion(
    unwritten: SGPOConfig, tokens: int, length: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = fitted_to_context(unwritten, tokens, "the model's context")
    assert fitted.max_completion_length == length
    assert unwritten.max_completion_length == 16_384
    line = (
        f"max_completion_length is {length}, not the default of 16384: half of the model's context of {tokens} tokens."
    )
    assert capsys.readouterr().out.splitlines() == ([line] if length < 16_384 else [])


@pytest.mark.parametrize(
    ("count", "updates", "batch", "why"),
    [
        (12, 2, 12, "there are 12 problems."),
        (13, 2, 12, "there are 13 problems, and a rollout batch has equal parts for 2 updates."),
        (127, 4, 124, "there are 127 problems, and a rollout batch has equal parts for 4 updates."),
        (128, 2, 128, ""),
        (5000, 2, 128, ""),
        (1, 2, 128, ""),  # cannot be mended here, and is refused
    ],
)
def test_a_rollout_batch_has_all_of_few_problems(
    unwritten: SGPOConfig, count: int, updates: int, batch: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    unwritten.updates_per_rollout = updates
    fitted = fitted_to_problems(unwritten, count)
    assert fitted.problems_per_rollout == batch
    assert unwritten.problems_per_rollout == 128
    assert capsys.readouterr().out == (why and f"problems_per_rollout is {batch}, not the default of 128: {why}\n")
    if why:
        assert fitted.per_device_train_batch_size == batch // updates


def test_written_sizes_stay_also_those_that_equal_the_default(
    tmp_path: Path, unwritten: SGPOConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"max_completion_length": 16_384, "problems_per_rollout": 128}
    written = SGPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, **sizes)
    for args in (written, as_written(unwritten)):
        assert fitted_to_context(args, 512, "the model's context") is args
        assert fitted_to_problems(args, 12) is args
    assert isinstance(unwritten.problems_per_rollout, Default)
    assert capsys.readouterr().out == ""


# --- runs ---------------------------------------------------------------------------------------------------


def test_a_configuration_serves_data_of_other_sizes_again(student: Path, unwritten: SGPOConfig) -> None:
    sizes = [
        SGPOTrainer(str(student), unwritten, train_dataset=PROBLEMS[:count]).args.problems_per_rollout
        for count in (4, 12)
    ]
    assert sizes == [4, 12]


def test_what_was_written_and_does_not_fit_is_refused(student: Path, tmp_path: Path) -> None:
    args = SGPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none", problems_per_rollout=128)
    with pytest.raises(
        ValueError, match=r"^12 problems do not fill a rollout batch of 128; lower problems_per_rollout"
    ):
        SGPOTrainer(str(student), args, train_dataset=PROBLEMS[:12])
    args = SGPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match=r"^1 problem cannot be parted among 2 updates; give more problems, or lower"):
        SGPOTrainer(str(student), args, train_dataset=PROBLEMS[:1])


@pytest.fixture
def train(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Trains from the command line; returns the output folder."""
    monkeypatch.chdir(tmp_path)
    save_problems(PROBLEMS, "problems.jsonl")
    source = ["--model", str(student), "--problems", "problems.jsonl", "--learning_rate", "0.01"]

    def run(name: str, *options: str, given: list[str] = source) -> Path:
        common = ["--output_dir", name, "--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true"]
        assert main(["train", *given, *common, "--num_autonomous", "3", "--num_guided", "2", *options]) == 0
        return tmp_path / name

    return run


def test_a_run_that_goes_on_has_the_same_sizes(train: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    """With the command that began it, and with its config.yaml, it is the run that would have been."""
    straight = train("straight", "--max_steps", "4")
    assert capsys.readouterr().out.splitlines()[:3] == [
        "max_completion_length is 256, not the default of 16384: half of the model's context of 512 tokens.",
        "13 of 13 problems have a strategy.",
        "problems_per_rollout is 12, not the default of 128: there are 13 problems, and a rollout batch has equal "
        "parts for 2 updates.",
    ]
    saved = yaml.safe_load((straight / "config.yaml").read_text())
    assert (saved["max_completion_length"], saved["problems_per_rollout"]) == (256, 12)

    weights: list[dict[str, Any]] = [load_file(straight / "model.safetensors")]
    halves = train("halves", "--max_steps", "2")
    train("halves", "--max_steps", "4", "--resume")
    weights.append(load_file(halves / "model.safetensors"))
    again = train("again", "--max_steps", "2")
    capsys.readouterr()
    train("again", "--max_steps", "4", "--resume", given=["--config", str(again / "config.yaml")])
    assert "not the default" not in capsys.readouterr().out
    weights.append(load_file(again / "model.safetensors"))
    for other in weights[1:]:
        assert all((value == other[name]).all() for name, value in weights[0].items())
