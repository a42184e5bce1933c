"""What the trainer samples, and the rewards that it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trainer_setup import PLANS, MakeTrainer, Script, full_reward, last_digit_reward

from sgpo.problems import Problem
from sgpo.rewards import VERIFIER, choose_rewards
from sgpo.training.config import SGPOConfig
from sgpo.training.trainer import SGPOTrainer


def test_both_groups_are_sampled_in_one_call(
    make_trainer: MakeTrainer, problems: list[Problem], script: Script
) -> None:
    trainer = make_trainer(temperature=0.9, top_p=0.8, seed=7)
    groups = trainer._sample(problems)
    [(requests, sampling, seed)] = trainer.sampler.calls  # type: ignore[attr-defined]
    assert [request.count for request in requests] == [3, 3, 3, 5, 3, 3, 3, 3] + [2] * 7
    assert (sampling.max_new_tokens, sampling.temperature, sampling.top_p) == (12, 0.9, 0.8)
    assert [group.problem for group in groups] == problems
    for group in groups:
        assert group.autonomous == script[tuple(group.prompt_ids)]
        if group.problem.strategy:
            assert group.guided == script[tuple(group.prompts["guided"])]
            assert group.prompts["guided"] != group.prompt_ids
        else:
            assert (group.guided, list(group.prompts)) == ([], ["autonomous"])
    trainer.state.global_step = 1
    assert trainer._sampling_seed() == seed  # the same rollout batch
    trainer.state.global_step = 2
    assert trainer._sampling_seed() != seed


def test_an_empty_strategy_is_none(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    trainer = make_trainer()
    (group,) = trainer._sample([replace(problems[3], strategy="")])
    assert (len(group.autonomous), group.guided, list(group.prompts)) == (5, [], ["autonomous"])


def test_a_prompt_is_the_chat_template_and_nothing_more(
    make_trainer: MakeTrainer, problems: list[Problem], tokenizer: Any
) -> None:
    group = make_trainer()._sample(problems[:1])[0]
    system = "Please reason step by step, and put your final answer within \\boxed{}."
    assert tokenizer.decode(group.prompt_ids) == f"<|system|>{system}<|end|><|user|>Compute 0+3<|end|><|assistant|>"
    assert tokenizer.decode(group.prompts["guided"]) == (
        f"<|system|>{system}<|end|><|user|>Strategy for this kind of problem:\nSteps: (a) add\n\nProblem:\nCompute 0+3"
        "<|end|><|assistant|>"
    )


def test_rewards_are_those_of_the_plans(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    """A truncated completion gets 0 although its text is right."""
    trainer = make_trainer()
    for group, plans in zip(trainer._verify(trainer._sample(problems)), PLANS, strict=True):
        assert [rollout.reward for rollout in group.autonomous] == [full_reward(plan) for plan in plans[0]]
        assert [rollout.reward for rollout in group.guided] == [full_reward(plan) for plan in plans[1]]
        assert [rollout.truncated for rollout in group.guided] == [plan[0] == "cut" for plan in plans[1]]


def test_verdicts_are_logged_as_shares(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    trainer = make_trainer()
    trainer._verify(trainer._sample(problems))
    # another reward asks no verifier
    assert not any(name.startswith("verdicts/") for name in trainer.logbook.take())
    trainer.rewards = VERIFIER
    trainer._verify(trainer._sample(problems))
    shares = {name: value for name, value in trainer.logbook.take().items() if name.startswith("verdicts/")}
    assert list(shares) == ["verdicts/correct", "verdicts/wrong", "verdicts/unparsed", "verdicts/timeout"]
    assert shares["verdicts/timeout"] == 0.0
    assert sum(shares.values()) == pytest.approx(1.0)


def test_reward_functions_get_columns_and_weights(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    seen: dict[str, list[Any]] = {}

    def level(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
        seen.update(columns, prompts=list(prompts), completions=list(completions))
        return [float(value) for value in columns["level"]]

    trainer = make_trainer()
    trainer.rewards = choose_rewards([last_digit_reward, level], [0.5, 0.25], "last_digit_reward")
    groups = trainer._verify(trainer._sample(problems))
    counts = [len(plans[0]) + len(plans[1]) for plans in PLANS]
    assert seen["answer"] == [p.answer for p, count in zip(problems, counts, strict=True) for _ in range(count)]
    assert seen["prompts"] == [p.prompt for p, count in zip(problems, counts, strict=True) for _ in range(count)]
    assert not any("<|end|>" in completion for completion in seen["completions"])
    for number, (group, plans) in enumerate(zip(groups, PLANS, strict=True)):
        for rollout, plan in zip(group.autonomous + group.guided, plans[0] + plans[1], strict=True):
            assert rollout.reward == (0.0 if plan[0] == "cut" else 0.5 * full_reward(plan) + 0.25 * number)


def test_reward_weights_are_given_to_the_constructor(
    make_config: Callable[..., SGPOConfig],
    checkpoint: Path,
    problems: list[Problem],
    script: Script,
    scripted_sampler: Any,
) -> None:
    trainer = SGPOTrainer(
        str(checkpoint),
        make_config(problems_per_rollout=8, correctness=["last_digit_reward"]),
        train_dataset=problems,
        reward_funcs=[last_digit_reward, last_digit_reward],
        reward_weights=[1.0, -0.25],
        sampler=scripted_sampler(script),
    )
    group = trainer._verify(trainer._sample(problems))[0]
    assert [rollout.reward for rollout in group.autonomous] == [0.75, 0.0, 0.0]
