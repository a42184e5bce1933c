"""A run that goes on from a checkpoint gives what a run without a stop gives."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_setup import MakeTrainer, lines_of
from transformers import AutoModelForCausalLM

from sgpo.problems import Problem
from sgpo.training.config import SGPOConfig
from sgpo.training.trainer import SGPOTrainer


def parity_reward(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float(len(completion) % 2) for completion in completions]


def rare_reward(completions: Sequence[str], **columns: Any) -> list[float]:
    """About half of the groups fail; wrong completions differ in what they get."""
    return [1.0 if len(completion) % 8 == 0 else len(completion) % 8 / 16 for completion in completions]


RESPONSES = ("so \\boxed{1}", "\\boxed{1}", "add: \\boxed{1}")


@pytest.fixture
def make_sampling_trainer(
    make_config: Callable[..., SGPOConfig], checkpoint: Path, problems: list[Problem], tmp_path: Path
) -> MakeTrainer:
    """With the sampler of every run, in a folder."""

    def make(folder: str, **changes: Any) -> SGPOTrainer:
        # 12 problems, 4 a rollout batch: an epoch has 6 updates
        copies = [
            Problem(f"{p.id} {n}", f"{p.prompt}+{n}", "1", RESPONSES[0], p.strategy, more_responses=RESPONSES[1:])
            for n in (1, 2)
            for p in problems
        ]
        values = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None, "learning_rate": 1e-3, **changes}
        if values.get("method") == "scaf_grpo":
            values |= {"num_autonomous": 2, "num_guided": 4, "scaf_exempt_updates": 2}
        config = make_config(output_dir=str(tmp_path / folder), max_completion_length=9, **values)
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        # Every fourth token ends a completion, or a model with random weights would hardly ever end one.
        model.generation_config.eos_token_id = list(range(1, model.config.vocab_size, 4))
        reward = rare_reward if config.method in ("ampo", "scaf_grpo") else parity_reward
        return SGPOTrainer(model, config, train_dataset=copies[:12], reward_funcs=reward)

    return make


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of updates, without what no two runs share."""
    times = re.compile(r"seconds/|tokens_per_second/|.*(runtime|per_second|flos)")
    return [{k: v for k, v in line.items() if not times.match(k)} for line in lines if "loss" in line]


def assert_same_weights(left: Any, right: Any) -> None:
    for (name, one), other in zip(left.named_parameters(), right.parameters(), strict=True):
        assert torch.equal(one, other), name


# What shows that the parts of the method that a problem may leave out took part.
TOOK_PART = {
    "sgpo": "target_share",
    "srft": "imitated_share",
    "ampo": "imitated_share",
    "opsd": "divergence",
    "sdpo": "taught_share",
    "scaf_grpo": "hinted_share",
}


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        *((method, {}) for method in TOOK_PART),
        ("sgpo", {"guidance": "after_failure", "num_autonomous": 2, "num_guided": 4, "seed": 2}),
    ],
    ids=lambda value: "" if value == {} else value if isinstance(value, str) else "after a failure",
)
def test_resumed_run_equals_the_straight_one(
    make_sampling_trainer: MakeTrainer, method: str, changes: dict[str, Any]
) -> None:
    """From a checkpoint within an epoch (4), and over the end of the epoch (6)."""
    straight = make_sampling_trainer("straight", method=method, max_steps=8, **changes)
    straight.train()
    lines = without_times(lines_of(straight))
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert len({line["grad_norm"] for line in lines}) == 8
    assert 0.0 not in {line["grad_norm"] for line in lines}
    assert all(max(line[TOOK_PART[method]] for line in half) > 0 for half in (lines[:4], lines[4:]))
    first = make_sampling_trainer("halves", method=method, max_steps=4, **changes)
    before = copy.deepcopy(first.model)
    first.train()
    second = make_sampling_trainer("halves", method=method, max_steps=8, **changes)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 8
    assert without_times(lines_of(second)) == lines
    assert_same_weights(second.model, straight.model)
    moved = [(a - b).abs().max() for a, b in zip(before.parameters(), straight.model.parameters(), strict=True)]
    assert max(moved) > 1e-3


def test_repeated_steps_are_not_written_twice(make_sampling_trainer: MakeTrainer) -> None:
    """A run that goes on from before its end, as after a crash."""
    first = make_sampling_trainer("crashed", max_steps=6)
    first.train()
    lines = without_times(lines_of(first))
    second = make_sampling_trainer("crashed", max_steps=6)
    second.train(resume_from_checkpoint=str(Path(first.args.output_dir) / "checkpoint-2"))
    assert without_times(lines_of(second)) == lines
    assert_same_weights(second.model, first.model)
