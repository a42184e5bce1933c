"""Correct is a judgement of its own: a format reward or a small weight changes advantages, not what is correct."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from method_cases import decided, scores

from sgpo.problems import Problem
from sgpo.prompts import encode_prompts, guided_messages, student_messages
from sgpo.rewards import math_reward
from sgpo.sampling.records import Rollout
from sgpo.training.config import SGPOConfig
from sgpo.training.metrics import group_metrics
from sgpo.training.trainer import SGPOTrainer

PROBLEMS = [
    Problem("a", "Compute 3+4", "7", response="\\boxed{7}", strategy="Steps: (a) add"),
    Problem("b", "Compute 5+4", "9", response="\\boxed{9}", strategy="Steps: (a) add"),
]
# Of each problem three autonomous and two guided answers; "cut" has reached the length limit.
ANSWERS = {
    "a": (["\\boxed{7}", "\\boxed{8}", "8"], ["\\boxed{7}", "\\boxed{8}"]),
    "b": (["\\boxed{8}", "\\boxed{1}", "\\boxed{9} cut"], ["\\boxed{8}", "\\boxed{9} cut"]),
}
CORRECT = {"a": ([True, False, False], [True, False]), "b": ([False] * 3, [False] * 2)}


def has_box(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float("boxed" in completion) for completion in completions]


def says_seven(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float("7" in completion) for completion in completions]


@pytest.fixture
def make_trainer(
    make_config: Callable[..., SGPOConfig], checkpoint: Path, tokenizer: Any, scripted_sampler: Any
) -> Callable[..., SGPOTrainer]:
    def rollout(text: str) -> Rollout:
        ids = tokenizer(text.removesuffix(" cut"), add_special_tokens=False)["input_ids"]
        ids = ids if text.endswith("cut") else [*ids, tokenizer.eos_token_id]
        return Rollout(ids, torch.full((len(ids),), -1.0), truncated=text.endswith("cut"))

    def make(rewards: Any, weights: Sequence[float] | None = None, **changes: Any) -> SGPOTrainer:
        script = {}
        for problem in PROBLEMS:
            bare, guided = ANSWERS[problem.id]
            for messages, texts in (
                (student_messages(problem.prompt), bare + guided),
                (guided_messages(problem.prompt, problem.strategy or ""), guided),
            ):
                (ids,) = encode_prompts(tokenizer, [messages])
                script[tuple(ids)] = [rollout(text) for text in texts]
        return SGPOTrainer(
            str(checkpoint),
            make_config(**{"problems_per_rollout": 2, "updates_per_rollout": 1, **changes}),
            train_dataset=PROBLEMS,
            eval_dataset=PROBLEMS,
            reward_funcs=rewards,
            reward_weights=weights,
            processing_class=tokenizer,
            sampler=scripted_sampler(script),
        )

    return make


def assembled(trainer: SGPOTrainer) -> Any:
    groups = trainer._verify(trainer._sample(PROBLEMS))
    scorer = lambda pairs: [scores([-1.0]) for _ in pairs]  # noqa: E731
    return groups, decided(trainer.method, groups, trainer.options, scorer)


ALPHA = 0.5 * (1 / 2 - 1 / 3 + 0.1) / (1 / 3 + 0.1)


@pytest.mark.parametrize(
    ("rewards", "weights"),
    [
        ([math_reward, has_box], [1.0, 1.0]),  # a wrong answer in a box has a reward of 1
        ([math_reward, has_box], [0.5, 0.2]),  # a right one has 0.7
        ([math_reward], [0.1]),
        ([says_seven], [1.0]),  # the only function, whichever it is
    ],
)
def test_targets_and_alpha_follow_what_is_correct(
    make_trainer: Callable[..., SGPOTrainer], rewards: Any, weights: Any
) -> None:
    _, assembly = assembled(make_trainer(rewards, weights))
    assert assembly.metric("target_share") == [True, False]
    assert assembly.alphas == pytest.approx([ALPHA, 0.0], rel=1e-12)


def test_the_gate_of_hpt_counts_correct_answers(make_trainer: Callable[..., SGPOTrainer]) -> None:
    trainer = make_trainer([math_reward, has_box], method="hpt", num_autonomous=3, num_guided=0)
    _, assembly = assembled(trainer)
    assert assembly.metric("imitated_share") == [False, True]


def test_an_evaluation_counts_correct_answers(make_trainer: Callable[..., SGPOTrainer]) -> None:
    """Problem a: two of four answers; b: none, one having been cut off. Rewards: 1.5 .5 0 1.5, and .5 .5 0 .5."""
    metrics = make_trainer([math_reward, has_box], [1.0, 0.5], eval_samples=4).evaluate()
    assert metrics["eval_avg_at_4"] == 0.25
    assert metrics["eval_pass_at_4"] == 0.5


def test_no_telling_what_is_correct_is_refused_at_the_start(make_trainer: Callable[..., SGPOTrainer]) -> None:
    with pytest.raises(ValueError, match="which of the reward functions has_box, says_seven says what is correct"):
        make_trainer([has_box, says_seven])
    with pytest.raises(ValueError, match="correctness names box, which is none of the reward functions"):
        make_trainer([has_box, math_reward], correctness=["box"])


def test_a_named_function_says_what_is_correct(make_trainer: Callable[..., SGPOTrainer]) -> None:
    groups, assembly = assembled(make_trainer([has_box, math_reward], correctness=["has_box"]))
    assert [[rollout.correct for rollout in group.guided] for group in groups] == [[True, True], [True, False]]
    assert assembly.metric("target_share") == [True, True]


def test_rollouts_keep_the_reward_beside_what_is_correct(make_trainer: Callable[..., SGPOTrainer]) -> None:
    groups, assembly = assembled(make_trainer([math_reward, has_box], [1.0, 0.5]))
    for group in groups:
        assert ([r.correct for r in group.autonomous], [r.correct for r in group.guided]) == CORRECT[group.problem.id]
    assert [r.reward for group in groups for r in group.autonomous] == [1.5, 0.5, 0.0, 0.5, 0.5, 0.0]
    # The advantages are those of the rewards: b has no correct answer, and yet something to learn.
    of_b = [row.weights > 0 for row in assembly.sequences if row.term == "surrogate"][3:]
    assert of_b == [True, True, False]
    metrics = group_metrics(groups, assembly.decisions).values()
    assert metrics["reward/autonomous"] == 0.5
    assert metrics["pass_rate/autonomous"] == pytest.approx(1 / 6)
    assert metrics["pass_rate/guided"] == 0.25
