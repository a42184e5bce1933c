"""SGPOConfig and SGPOTrainer: defaults, and what they refuse."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trainer_setup import MakeTrainer

from sgpo.problems import Problem
from sgpo.training import trainer as trainer_module
from sgpo.training.config import SGPOConfig
from sgpo.training.trainer import SGPOTrainer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": "ppo"},
            r"method is 'ppo'; choose one of ampo, grpo, hpt, luffy, opsd, scaf_grpo, sdpo, sgpo, srft",
        ),
        ({"target_selection": "max"}, r"target_selection is 'max'; choose one of sum, mean"),
        ({"guidance": "never"}, r"guidance is 'never'; choose one of always, after_failure"),
        ({"without_strategy": "keep"}, r"without_strategy is 'keep'; choose one of autonomous, drop"),
        ({"num_autonomous": 1}, r"num_autonomous must be at least 2"),
        ({"num_guided": 0}, r"num_guided must be at least 1 for sgpo; .* use method: grpo"),
        ({"problems_per_rollout": 7}, r"problems_per_rollout \(7\) must be a multiple of updates_per_rollout \(2\)"),
        ({"updates_per_rollout": 0}, r"must be a multiple of updates_per_rollout \(0\)"),
        ({"gradient_accumulation_steps": 2}, r"gradient_accumulation_steps must be 1: .* max_tokens_per_microbatch"),
        ({"delta": 0.0}, r"delta must be positive; for no clipping write delta: .inf"),
        ({"problems_per_rollout": 0}, r"problems_per_rollout \(0\) must be a multiple"),
        ({"save_strategy": "steps", "save_steps": 3}, r"save_steps \(3\) must be a multiple of updates_per_rollout"),
        ({"save_strategy": "steps", "save_steps": 0.5}, r"save_steps \(0\.5\) must be a multiple"),
        ({"max_steps": 3}, r"max_steps \(3\) must be a multiple of updates_per_rollout \(2\)"),
        (
            {"parallelism_config": {"cp_size": 2}},
            r"context parallelism \(cp_size 2\) is not supported: the losses",
        ),
        ({"parallelism_config": {"sp_size": 4}}, r"Ulysses parallelism \(sp_size 4\) is not supported"),
    ],
)
def test_configuration_refuses(make_config: Callable[..., SGPOConfig], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


def test_what_the_launcher_divides_is_refused_too(
    make_config: Callable[..., SGPOConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARALLELISM_CONFIG_CP_SIZE", "2")  # without effect, unless the next is true
    assert make_config().max_steps == 2
    monkeypatch.setenv("ACCELERATE_USE_PARALLELISM_CONFIG", "true")
    with pytest.raises(ValueError, match=r"context parallelism \(cp_size 2\) is not supported"):
        make_config()


def test_configuration_accepts_the_edges(make_config: Callable[..., SGPOConfig]) -> None:
    make_config(method="grpo", num_guided=0)
    make_config(delta=math.inf)
    make_config(save_strategy="no", save_steps=3)
    make_config(save_strategy="steps", save_steps=4, max_steps=-1)
    config = make_config(problems_per_rollout=12, updates_per_rollout=3, max_steps=6)
    assert config.per_device_train_batch_size == 4


def test_configuration_has_the_defaults_of_the_paper(tmp_path: Path) -> None:
    config = SGPOConfig(output_dir=str(tmp_path), use_cpu=True)
    expected = {
        "method": "sgpo",
        "num_autonomous": 8,
        "num_guided": 4,
        "problems_per_rollout": 128,
        "updates_per_rollout": 2,
        "per_device_train_batch_size": 64,
        "max_completion_length": 16384,
        "temperature": 1.0,
        "top_p": 0.95,
        "eps_low": 0.2,
        "eps_high": 0.28,
        "delta": 1.0,
        "alpha_scale": 0.5,
        "alpha_smoothing": 0.1,
        "alpha_max": 0.8,
        "target_selection": "sum",
        "without_strategy": "autonomous",
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "num_train_epochs": 10.0,
        "eval_samples": 4,
        "eval_temperature": 0.6,
        "eval_top_p": 0.95,
    }
    assert {name: getattr(config, name) for name in expected} == expected


def test_problems_without_any_strategy_are_refused(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    bare = [replace(p, strategy=None) for p in problems]
    with pytest.raises(ValueError, match=r"method sgpo needs strategies, and no problem has one; .* method: grpo"):
        make_trainer(train_dataset=bare)
    make_trainer(train_dataset=bare, method="grpo")


def test_problems_without_a_strategy_are_counted_or_dropped(
    make_trainer: MakeTrainer, problems: list[Problem], capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_trainer().train_dataset == problems
    assert "7 of 8 problems have a strategy." in capsys.readouterr().out
    dropped = make_trainer(without_strategy="drop", problems_per_rollout=4)
    assert dropped.train_dataset == [p for p in problems if p.strategy]


def test_tokenizer_without_chat_template_is_refused(
    make_config: Callable[..., SGPOConfig], checkpoint: Path, tokenizer: Any, problems: list[Problem]
) -> None:
    for attribute, message in (("chat_template", "no chat template"), ("eos_token", "no eos_token")):
        changed = copy.deepcopy(tokenizer)
        setattr(changed, attribute, None)
        with pytest.raises(ValueError, match=message):
            SGPOTrainer(str(checkpoint), make_config(), train_dataset=problems, processing_class=changed)


def test_the_engine_is_asked_once_and_not_before_the_data(
    make_config: Callable[..., SGPOConfig],
    checkpoint: Path,
    problems: list[Problem],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server may take minutes to answer."""
    asked: list[SGPOConfig] = []
    monkeypatch.setattr(trainer_module, "check_engine", asked.append)
    args = make_config(problems_per_rollout=8)
    with pytest.raises(ValueError, match="6 problems do not fill a rollout batch of 8"):
        SGPOTrainer(str(checkpoint), args, problems[:6])
    assert asked == []
    SGPOTrainer(str(checkpoint), args, problems)
    assert [each.output_dir for each in asked] == [args.output_dir]


def test_too_few_problems_are_refused_at_once(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    with pytest.raises(ValueError, match="6 problems do not fill a rollout batch of 8; lower problems_per_rollout"):
        make_trainer(train_dataset=problems[:6])


def test_what_was_not_given_is_asked_for(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    with pytest.raises(ValueError, match="evaluation needs an eval_dataset"):
        trainer.evaluate()
    trainer.train_dataset = None
    with pytest.raises(ValueError, match="training needs a train_dataset"):
        trainer.get_train_dataloader()


@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_checkpointing_by_either_name_reaches_the_layers(make_trainer: MakeTrainer, name: str) -> None:
    """The version of transformers that veRL needs reads the second name alone."""
    calls: list[int] = []
    for checkpointing in (False, True):
        calls.append(0)
        trainer = make_trainer(**{name: checkpointing}, completions_steps=0, overwrite=True)
        trainer.model.get_decoder().layers[0].self_attn.register_forward_hook(lambda *_: calls.append(calls.pop() + 1))
        trainer.train()
    assert calls[1] > calls[0]  # the layer ran again in the backward pass
