"""What the plug-in for veRL refuses, and the options that it reads; veRL itself is not needed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from places import ROOT

from sgpo.integrations.verl.settings import REFUSED, check_config, chosen, updates_per_rollout
from sgpo.methods.registry import METHODS

FOLDER = ROOT / "src" / "sgpo" / "integrations" / "verl"
SHIPPED = yaml.safe_load((FOLDER / "config" / "plugin.yaml").read_text())
GOOD: dict[str, Any] = {
    "sgpo": SHIPPED["sgpo"],
    "data": {"train_batch_size": 128},
    "actor_rollout_ref": {
        "actor": {**SHIPPED["actor_rollout_ref"]["actor"], "ppo_mini_batch_size": 64, "fsdp_config": {}},
        "rollout": {**SHIPPED["actor_rollout_ref"]["rollout"], "temperature": 1.0, "calculate_log_probs": True},
        "model": {"use_fused_kernels": False, "lora_rank": 0},
    },
    "algorithm": SHIPPED["algorithm"],
    "trainer": {"use_v1": True, **SHIPPED["trainer"]},
}


def with_value(place: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(GOOD)
    *path, last = place.split(".")
    section = config
    for key in path:
        section = section.setdefault(key, {})
    section[last] = value
    return config


def test_the_shipped_configuration_is_accepted_and_means_the_papers_defaults() -> None:
    found = check_config(GOOD)
    assert found.method is METHODS["sgpo"]
    assert found.options == METHODS["sgpo"].options()
    assert updates_per_rollout(GOOD) == 2


@pytest.mark.parametrize("method", ["luffy", "hpt", "path/to/file.py:METHOD"])
def test_another_method_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"on veRL there are sgpo and grpo.*sgpo train"):
        chosen({"method": method})


def test_a_typo_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sgpo\.detla is no option here"):
        chosen({"method": "sgpo", "detla": 1.0})


def test_an_option_of_sgpo_alone_stands_at_its_default_under_grpo() -> None:
    section = {**SHIPPED["sgpo"], "method": "grpo"}
    assert chosen(section).options.num_samples == 12
    with pytest.raises(ValueError, match=r"sgpo\.delta is no option of grpo: leave it at 1\.0"):
        chosen({**section, "delta": 3.0})


def test_refusals_of_the_method_reach_the_user() -> None:
    with pytest.raises(ValueError, match="delta must be positive"):
        chosen({"method": "sgpo", "delta": 0.0})
    with pytest.raises(ValueError, match="leave such problems out"):
        chosen({"method": "sgpo", "without_strategy": "drop"})
    with pytest.raises(ValueError, match="which samples once a step"):
        chosen({"method": "sgpo", "guidance": "after_failure"})


WRONG = {
    "actor_rollout_ref.actor.strategy": "megatron",
    "actor_rollout_ref.rollout.temperature": 0.6,
    "actor_rollout_ref.rollout.name": "sglang",
    "actor_rollout_ref.rollout.calculate_log_probs": False,
    "actor_rollout_ref.actor.use_dynamic_bsz": False,
    "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype": "fp16",
    "actor_rollout_ref.actor.entropy_coeff": 0.001,
    "algorithm.adv_estimator": "gae",
    "algorithm.rollout_correction.rollout_is": "token",
    "trainer.use_v1": False,
    "trainer.v1.trainer_mode": "colocate_async",
}
FLAGS = ("enable", "enabled", "use_", "shuffle", "offload_policy", "bypass_mode", "rollout_rs")


@pytest.mark.parametrize("place", [place for place, _, _ in REFUSED])
def test_what_the_plugin_does_not_do_is_refused_by_name(place: str) -> None:
    value = WRONG.get(place, True if any(flag in place.rpartition(".")[2] for flag in FLAGS) else 2)
    with pytest.raises(ValueError, match=rf"{place} is ".replace(".", r"\.")):
        check_config(with_value(place, value))


def test_the_number_of_completions_follows_from_the_options() -> None:
    assert check_config(with_value("actor_rollout_ref.rollout.n", 12)).options.num_samples == 12
    with pytest.raises(ValueError, match=r"rollout\.n is 8, and sgpo\.num_autonomous \+ sgpo\.num_guided is 12"):
        check_config(with_value("actor_rollout_ref.rollout.n", 8))


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train_batch_size \(128\) must be a multiple"):
        check_config(with_value("actor_rollout_ref.actor.ppo_mini_batch_size", 48))


def test_all_that_cannot_work_is_said_in_one_message() -> None:
    config = with_value("sgpo.method", "luffy")
    config["actor_rollout_ref"]["model"]["use_fused_kernels"] = True
    with pytest.raises(ValueError, match="2 things cannot work"):
        check_config(config)
