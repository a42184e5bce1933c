"""The evaluation within training: its numbers, and when it takes place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from trainer_setup import MakeTrainer, lines_of

from sgpo.problems import Problem


def test_evaluation_logs_avg_at_k(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    chosen = [problems[0], problems[2], problems[5]]  # rewards 1 0, 1 cut, 1 1 of the first two completions
    trainer = make_trainer(eval_dataset=chosen, eval_samples=2, eval_temperature=0.3, eval_top_p=0.7)
    metrics = trainer.evaluate()
    assert metrics["eval_avg_at_2"] == pytest.approx(2 / 3)
    assert metrics["eval_standard_error"] == pytest.approx(math.sqrt((1 / 36 + 1 / 36 + 1 / 9) / 2 / 3))
    assert metrics["eval_truncated"] == pytest.approx(1 / 6)
    assert metrics["eval_length"] == pytest.approx((5 + 4 + 5 + 7 + 5 + 3) / 6)
    requests, sampling, _ = trainer.sampler.calls[0]  # type: ignore[attr-defined]
    assert [request.count for request in requests] == [2, 2, 2]
    assert (sampling.temperature, sampling.top_p) == (0.3, 0.7)
    assert lines_of(trainer)[-1]["eval_avg_at_2"] == pytest.approx(2 / 3)


def test_evaluation_during_training(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    trainer = make_trainer(eval_dataset=problems[:2], eval_strategy="steps", eval_steps=2, eval_samples=3, max_steps=4)
    trainer.train()
    assert [line["step"] for line in lines_of(trainer) if "eval_avg_at_3" in line] == [2, 4]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, [4]),
        ({"eval_strategy": "no"}, []),
        ({"eval_strategy": "steps", "eval_steps": 3}, [3, 4]),  # as transformers has it
        ({"eval_strategy": "steps", "eval_steps": 2, "eval_at_end": True}, [2, 4]),
        ({"eval_strategy": "epoch", "eval_at_end": True, "max_steps": 6, "problems_per_rollout": 6}, [2, 4, 6]),
        ({"eval_strategy": "no", "eval_at_end": True}, [4]),
        ({"eval_at_end": False}, []),
    ],
)
def test_evaluation_problems_without_a_schedule_are_for_the_end(
    make_trainer: MakeTrainer, problems: list[Problem], changes: dict[str, Any], steps: list[int]
) -> None:
    values = {"eval_samples": 2, "max_steps": 4, "save_strategy": "steps", **changes}
    trainer = make_trainer(eval_dataset=problems[:2], **values)
    trainer.train()
    assert [line["step"] for line in lines_of(trainer) if "eval_avg_at_2" in line] == steps
    assert Path(trainer.args.output_dir, f"checkpoint-{values['max_steps']}").is_dir()
    saved = yaml.safe_load(Path(trainer.args.output_dir, "config.yaml").read_text())
    again = make_trainer(eval_dataset=problems[:2], **{name: saved[name] for name in ("eval_strategy", "eval_at_end")})
    assert (again.args.eval_strategy, again.args.eval_at_end) == (saved["eval_strategy"], saved["eval_at_end"])


def test_without_evaluation_problems_the_end_has_no_evaluation(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.train()
    assert not [line for line in lines_of(trainer) if any(name.startswith("eval_") for name in line)]
