"""Gradients of the trainer: those of the reference, and at limits that must hold."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from trainer_setup import DELTA, MakeTrainer, Recorder, Reference, Script, assert_same_gradient, gradient_of, updates_of

from sgpo.problems import Problem
from sgpo.training.trainer import SGPOTrainer

CAP = 0.003  # low, as the script calls the probabilities in the sampler high
# GRPO is the same reference at alpha = 0, on problems that all have as many completions.
RUNS_OF_THE_REFERENCE: dict[str, tuple[int, dict[str, Any], float]] = {
    "sgpo": (8, {}, 0.8),
    "grpo": (6, {"method": "grpo", "num_guided": 0, "problems_per_rollout": 6}, 0.0),
    "importance": (8, {"importance_cap": CAP}, 0.8),
}


@pytest.mark.parametrize("run", RUNS_OF_THE_REFERENCE)
def test_gradients_of_both_updates_equal_the_reference(
    make_trainer: MakeTrainer,
    problems: list[Problem],
    with_strategy: list[Problem],
    tokenizer: Any,
    script: Script,
    run: str,
) -> None:
    """Through train(): a rollout batch of two updates, an AdamW step between them."""
    count, changes, alpha_max = RUNS_OF_THE_REFERENCE[run]
    used = problems if count == len(problems) else with_strategy[:count]
    trainer, recorder = make_trainer(used, **changes), Recorder()
    trainer.add_callback(recorder)
    trainer.train()
    assert len(recorder.gradients) == 2
    assert len(trainer.sampler.calls) == 1  # type: ignore[attr-defined]
    sampled_from = recorder.policies[0]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    parts = updates_of(trainer, used, tokenizer)
    bounds = (1 - trainer.args.eps_low, 1 + trainer.args.eps_high)
    for update, (policy, actual, part) in enumerate(zip(recorder.policies, recorder.gradients, parts, strict=True)):
        reference = Reference(tokenizer, script, trainer.args, alpha_max)
        loss, expected = reference.gradient(policy, sampled_from, part)
        assert_same_gradient(actual, expected)
        assert losses[update] == pytest.approx(loss, abs=1e-5)
        # Guards: both sides of every threshold occur, and no value so near that rounding could decide.
        assert {d <= DELTA for d in reference.divergences} == {True, False}
        assert min(abs(d - DELTA) for d in reference.divergences) > 1e-3
        assert min(abs(rho - bound) for rho in reference.ratios for bound in bounds) > 1e-5
        if run == "importance":
            assert min(reference.corrections) < 0.9 * CAP
            assert reference.corrections.count(CAP) > 1
        moved = [rho for rho in reference.ratios if abs(rho - 1) > 0.05]
        assert bool(moved) == (update > 0)
        if update > 0:
            assert min(moved) < bounds[0]
            assert max(moved) > bounds[1]
            assert any(bounds[0] < rho < bounds[1] for rho in moved)


@pytest.mark.parametrize("max_tokens", [1, 150, 100_000])
def test_gradient_does_not_depend_on_the_token_budget(
    make_trainer: MakeTrainer, problems: list[Problem], max_tokens: int
) -> None:
    gradients = []
    for budget in (400, max_tokens):
        trainer = make_trainer()
        trainer.args.max_tokens_per_microbatch = budget  # also one so small that every row is a micro-batch of its own
        updates = trainer._decide(trainer._verify(trainer._sample(problems)))
        trainer._optimise(trainer.model, updates[0])
        gradients.append(gradient_of(trainer.model))
    assert_same_gradient(gradients[1], gradients[0], 2e-6)


def gradients_of_both_parts(trainer: SGPOTrainer, problems: list[Problem]) -> list[Tensor]:
    """Without a step between, so both are of the policy that sampled."""
    trainer._updates = trainer._decide(trainer._verify(trainer._sample(problems)))
    gradients = []
    for update in trainer._updates:
        trainer.model.zero_grad()
        trainer._optimise(trainer.model, update)
        gradients.append(gradient_of(trainer.model))
    return gradients


@pytest.fixture
def with_strategy(problems: list[Problem]) -> list[Problem]:
    return [p for p in problems if p.strategy][:6]


def grpo_gradients(make_trainer: MakeTrainer, problems: list[Problem]) -> list[Tensor]:
    """On the first three completions, those that sgpo draws without a strategy."""
    return gradients_of_both_parts(make_trainer(method="grpo", num_guided=0, problems_per_rollout=6), problems)


def test_alpha_zero_gives_the_gradient_of_grpo(make_trainer: MakeTrainer, with_strategy: list[Problem]) -> None:
    ours = gradients_of_both_parts(make_trainer(alpha_max=0.0, problems_per_rollout=6), with_strategy)
    for actual, expected in zip(ours, grpo_gradients(make_trainer, with_strategy), strict=True):
        assert_same_gradient(actual, expected, 1e-7)
    other = gradients_of_both_parts(make_trainer(problems_per_rollout=6), with_strategy)
    assert (other[0] - ours[0]).norm() > 0.01 * ours[0].norm()  # guards: alpha above 0 makes a difference


def test_equal_prompts_have_no_divergence_and_no_gradient(
    make_trainer: MakeTrainer, with_strategy: list[Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The strategy put away: both sides are one distribution, and the guided completions stay what they were."""
    trainer = make_trainer(problems_per_rollout=6)
    for layer in trainer.model.model.layers:
        layer.self_attn.attention_dropout = 0.1  # of a model configured with it; no pass of the loss has dropout
    groups = trainer._sample(with_strategy)
    monkeypatch.setattr(trainer, "_sample", lambda problems: [unguided(group) for group in groups])
    ours = gradients_of_both_parts(trainer, with_strategy)
    assert any(row.term == "distillation" for update in trainer._updates for row in update.rows)
    # Not to the last bit: the policy's pass has other rows beside the target's, the teacher's has not.
    assert trainer.logbook.take()["divergence"] == pytest.approx(0.0, abs=1e-7)
    for actual, expected in zip(ours, grpo_gradients(make_trainer, with_strategy), strict=True):
        assert_same_gradient(actual, expected, 1e-6)


def unguided(group: Any) -> Any:
    return replace(group, prompts={**group.prompts, "guided": group.prompt_ids})


def test_updates_without_any_weight_change_nothing(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    hopeless = [Problem(f"p{7 + 8 * n}", problems[7].prompt, str(n), strategy=problems[7].strategy) for n in range(8)]
    trainer = make_trainer(train_dataset=hopeless, max_steps=4)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    assert trainer.state.global_step == 4
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in entries] == [0.0] * 4
    assert [entry["zero_variance_share"] for entry in entries] == [1.0] * 4
    assert all(math.isfinite(v) for entry in entries for v in entry.values())
