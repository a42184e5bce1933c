"""Validation during training: avg@k every so many updates, and the checkpoint that had the best stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.evaluation.evaluate import Evaluation, Sample
from sgpo.problems import Problem

PROBLEMS = [Problem(f"p{i}", f"Compute {i}+1", str(i + 1)) for i in range(8)]


def length_reward(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float(len(completion) % 2) for completion in completions]


@pytest.fixture
def train(
    make_config: Callable[..., SGPOConfig], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SGPOTrainer]:
    """Train for 6 updates; the evaluations after 2, 4 and 6 find these numbers of correct samples of 4."""

    def run(correct: list[int], **changes: Any) -> SGPOTrainer:
        upcoming = iter(correct)

        def scripted(*arguments: Any, k: int, **keywords: Any) -> Evaluation:
            right = next(upcoming)
            return Evaluation([Sample(PROBLEMS[0], "", float(i < right), i < right, False, 3) for i in range(k)], k)

        monkeypatch.setattr("sgpo.training.trainer.evaluate", scripted)
        evaluation = {"eval_strategy": "steps", "eval_steps": 2, "eval_samples": 4}
        config = make_config(method="grpo", max_steps=6, learning_rate=1e-3, **evaluation, **changes)
        model = AutoModelForCausalLM.from_pretrained(checkpoint)
        # Every fourth token ends a completion, or a model with random weights would hardly ever end one.
        model.generation_config.eos_token_id = list(range(1, model.config.vocab_size, 4))
        trainer = SGPOTrainer(
            model, config, train_dataset=PROBLEMS, eval_dataset=PROBLEMS[:1], reward_funcs=length_reward
        )
        trainer.train()
        return trainer

    return run


def checkpoints(trainer: SGPOTrainer) -> set[str]:
    return {path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*")}


def test_only_better_checkpoints_are_written_with_best(train: Callable[..., SGPOTrainer]) -> None:
    trainer = train([1, 3, 2], save_strategy="best")
    assert checkpoints(trainer) == {"checkpoint-2", "checkpoint-4"}
    assert trainer.state.best_metric == 0.75
    assert trainer.state.best_global_step == 4


def test_the_best_one_outlives_the_limit(train: Callable[..., SGPOTrainer]) -> None:
    trainer = train(
        [3, 1, 2], save_strategy="steps", save_steps=2, save_total_limit=2, metric_for_best_model="avg_at_4"
    )
    assert checkpoints(trainer) == {"checkpoint-2", "checkpoint-6"}  # the best and the last


def test_the_best_one_can_be_loaded_at_the_end(train: Callable[..., SGPOTrainer]) -> None:
    trainer = train([1, 3, 2], save_strategy="steps", save_steps=2, load_best_model_at_end=True)
    best = AutoModelForCausalLM.from_pretrained(Path(trainer.args.output_dir) / "checkpoint-4").state_dict()
    last = AutoModelForCausalLM.from_pretrained(Path(trainer.args.output_dir) / "checkpoint-6").state_dict()
    found = trainer.model.state_dict()
    assert all(found[name].equal(best[name]) for name in best)
    assert not all(found[name].equal(last[name]) for name in last)


def test_the_metric_follows_from_k(make_config: Callable[..., SGPOConfig]) -> None:
    evaluation = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "best", "updates_per_rollout": 2}
    config = make_config(eval_samples=8, **evaluation)
    assert (config.metric_for_best_model, config.greater_is_better) == ("avg_at_8", True)
    config = make_config(metric_for_best_model="length", greater_is_better=False, **evaluation)
    assert (config.metric_for_best_model, config.greater_is_better) == ("length", False)
    assert make_config().metric_for_best_model is None
