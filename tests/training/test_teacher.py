"""Copies of the policy: what they share with it, how a teacher follows, and that an update learns from it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trainer_setup import MakeTrainer
from transformers import AutoModelForCausalLM, TrainerCallback

from sgpo.problems import Problem
from sgpo.training.config import SGPOConfig
from sgpo.training.preflight import TEACHER, check_kept_state
from sgpo.training.teacher import FollowPolicy, TeacherPolicy, frozen_copy


@pytest.fixture
def policy(checkpoint: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)


def move(model: Any, by: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)


def test_it_goes_a_part_of_its_way_to_the_policy(policy: Any) -> None:
    start, teacher = copy.deepcopy(policy), TeacherPolicy(policy, 0.25)
    move(policy, 1.0)
    teacher.follow(policy)
    teacher.follow(policy)
    for first, found in zip(start.parameters(), teacher.model.parameters(), strict=True):
        torch.testing.assert_close(found, first + 1 - 0.75**2, rtol=0, atol=1e-6)


def test_one_that_stays_is_not_saved(policy: Any, tmp_path: Path) -> None:
    start, teacher = copy.deepcopy(policy), TeacherPolicy(policy, 0.0)
    move(policy, 1.0)
    teacher.follow(policy)
    teacher.save(tmp_path)
    teacher.load(tmp_path)
    assert not any(tmp_path.iterdir())
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), teacher.model.parameters(), strict=True))


def test_a_checkpoint_gives_it_back(policy: Any, tmp_path: Path) -> None:
    saved, other = TeacherPolicy(policy, 0.5), TeacherPolicy(policy, 0.5)
    move(policy, 1.0)
    saved.follow(policy)
    saved.save(tmp_path)
    other.load(tmp_path)
    pairs = zip(saved.model.parameters(), other.model.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    assert (tmp_path / TEACHER).is_file()


def test_a_copy_shares_what_is_not_trained(policy: Any) -> None:
    adapted: Any = get_peft_model(policy, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="gaussian"))
    copied = dict(frozen_copy(adapted).named_parameters())
    for name, parameter in adapted.named_parameters():
        assert (copied[name] is parameter) == (not parameter.requires_grad)
        assert torch.equal(copied[name], parameter)
        assert not copied[name].requires_grad
    assert any(parameter.requires_grad for parameter in adapted.parameters())


def test_it_follows_after_the_last_update_of_a_rollout_batch(policy: Any) -> None:
    teacher, followed = TeacherPolicy(policy, 0.5), list[int]()
    teacher.follow = lambda _: followed.append(step)  # type: ignore[method-assign]
    for step in range(1, 7):
        FollowPolicy(teacher, 3).on_step_end(None, SimpleNamespace(global_step=step), None, model=policy)
    assert followed == [3, 6]


class Weights(TrainerCallback):
    """The sum of the policy's weights after each update."""

    def __init__(self) -> None:
        self.policies: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.policies.append(total(model))


def total(model: Any) -> float:
    return sum(float(parameter.detach().double().sum()) for parameter in model.parameters())


SIZES: dict[str, Any] = {"num_guided": 0, "learning_rate": 1e-2, "eval_strategy": "no"}


def test_sdpo_learns_from_a_moving_average(make_trainer: MakeTrainer) -> None:
    rates: dict[str, Any] = {"sdpo_teacher_update_rate": 0.25, "updates_per_rollout": 2, "max_steps": 4}
    trainer = make_trainer(method="sdpo", **rates, **SIZES)
    start, weights = total(trainer.model), Weights()
    trainer.add_callback(weights)
    trainer.train()
    assert trainer.teacher is not None
    _, second, _, fourth = weights.policies
    assert abs(fourth - start) > 0.1
    expected = 0.75 * (0.75 * start + 0.25 * second) + 0.25 * fourth
    assert total(trainer.teacher.model) == pytest.approx(expected, abs=1e-3)


def test_what_the_teacher_changes(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    """Before the first update it is the policy, whatever the rate; afterwards the divergence is another one."""
    found, solved = {}, [replace(problem, response="Both are added.") for problem in problems]
    for rate in (0.0, 1.0):
        rates: dict[str, Any] = {"opsd_teacher_update_rate": rate, "updates_per_rollout": 1, "max_steps": 2}
        trainer = make_trainer(solved, method="opsd", overwrite=True, **rates, **SIZES)
        trainer.train()
        found[rate] = [line["divergence"] for line in trainer.state.log_history if "divergence" in line]
    assert found[0.0][0] == pytest.approx(found[1.0][0], rel=1e-5)
    assert abs(found[0.0][1] - found[1.0][1]) > 1e-3 * found[1.0][1]


@pytest.mark.parametrize("method", ["opsd", "sdpo"])
@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_rates_that_are_no_part_of_a_way(make_config: Callable[..., SGPOConfig], method: str, rate: float) -> None:
    with pytest.raises(ValueError, match=f"{method}_teacher_update_rate is {rate}; it must be between 0 and 1"):
        make_config(method=method, **{f"{method}_teacher_update_rate": rate})


def test_an_old_checkpoint_without_a_teacher_is_refused(make_config: Callable[..., SGPOConfig], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"has no teacher.safetensors: .* set sdpo_teacher_update_rate: 1, or begin a new"
    ):
        check_kept_state(tmp_path, make_config(method="sdpo"))
    check_kept_state(tmp_path, make_config(method="sdpo", sdpo_teacher_update_rate=1.0))


@pytest.mark.parametrize("frozen", [False, True])
def test_it_computes_as_the_policy_does_in_bfloat16(make_trainer: MakeTrainer, problems: Any, frozen: bool) -> None:
    """Equal prompts, before the first update: no divergence. Also where some weights are frozen, in bfloat16."""
    solved = [replace(problem, response="Both are added.") for problem in problems]
    rates: dict[str, Any] = {"opsd_teacher_update_rate": 0.0, "updates_per_rollout": 1, "max_steps": 1, "bf16": True}
    trainer = make_trainer(solved, method="opsd", **rates, **SIZES)
    if frozen:
        for parameter in trainer.model.model.layers[0].parameters():
            parameter.requires_grad_(False).data = parameter.data.bfloat16()
        trainer.teacher = TeacherPolicy(trainer.model, 0.0)
    sample = trainer._sample

    def with_equal_prompts(*arguments: Any) -> Any:
        return [replace(g, prompts={**g.prompts, "informed": g.prompt_ids}) for g in sample(*arguments)]

    trainer._sample = with_equal_prompts  # type: ignore[method-assign]
    trainer.train()
    (divergence,) = [line["divergence"] for line in trainer.state.log_history if "divergence" in line]
    assert abs(divergence) < 1e-7


def test_a_copy_is_not_divided(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    solved = [replace(problem, response="Both are added.") for problem in problems]
    with pytest.raises(
        ValueError, match=r"method opsd keeps a copy of the policy \(.*not divided: leave fsdp, deepspeed"
    ):
        make_trainer(solved, method="opsd", fsdp="full_shard", **SIZES)
    present = make_trainer(solved, method="opsd", opsd_teacher_update_rate=1.0, **SIZES)
    assert not present.method.copies(present.options)
