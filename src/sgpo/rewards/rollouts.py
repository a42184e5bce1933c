"""Rollouts, and what the reward functions say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sgpo.problems import Problem
from sgpo.rewards import Batch, Scores, reward_columns
from sgpo.sampling.records import Rollout


def reward_batch(
    rollouts: Sequence[Rollout],
    problems: Sequence[Problem],
    texts: Sequence[str],
    columns: Sequence[str],
    trainer_state: Any = None,
) -> Batch:
    """What reward functions are asked about; ``columns`` are those of the whole data set."""
    return Batch(
        [problem.prompt for problem in problems],
        texts,
        reward_columns(problems, columns),
        [rollout.completion_ids for rollout in rollouts],
        trainer_state,
    )


def with_scores(rollouts: Sequence[Rollout], scores: Scores) -> list[Rollout]:
    """The rollouts with what the reward functions say of them."""
    return [
        replace(
            rollout,
            reward=scores.rewards[place],
            correct=scores.correct[place],
            rewards={name: values[place] for name, values in scores.of_functions.items()},
            logged={name: values[place] for name, values in scores.columns.items()},
        )
        for place, rollout in enumerate(rollouts)
    ]
