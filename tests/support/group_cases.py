"""Groups of rollouts with every kind of outcome."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from engine_cases import VOCABULARY
from method_cases import group_of

from sgpo.methods.records import ProblemRollouts
from sgpo.problems import Problem
from sgpo.sampling.records import Rollout

LONGEST = 20


def rollout_groups(experts: bool = True) -> list[ProblemRollouts]:
    """Five problems: mixed ones, one of equal rewards, one that is never solved alone, one without a target.

    In three of them completions of odd length have a bonus, whether they are correct or not.
    """
    source = torch.Generator().manual_seed(6)

    def ids(length: int) -> list[int]:
        return torch.randint(1, VOCABULARY, (length,), generator=source).tolist()

    def rollout(correct: bool, bonus: float) -> Rollout:
        completion = ids(int(torch.randint(1, LONGEST, (1,), generator=source)))
        reward = correct + bonus * (len(completion) % 2)
        return Rollout(
            completion, torch.full((len(completion),), -2.0), truncated=False, reward=reward, correct=correct
        )

    plans: list[tuple[Sequence[int], Sequence[int], int, float]] = [
        ((1, 0, 0, 0), (1, 1, 0), 1, 1.0),
        ((0, 0, 0, 0), (1, 1, 1), 1, 0.0),
        ((1, 1, 0, 1), (0, 1, 1), 0, 0.25),
        ((0, 1, 0, 0), (0, 0, 0), 1, 1.5),
        ((1, 1, 1, 1), (1, 0, 1), 1, 0.0),
    ]
    groups = []
    for number, (autonomous, guided, expert, bonus) in enumerate(plans):
        problem = Problem(str(number), "?", "1", strategy="s", response="r")
        rows = [rollout(bool(c), bonus) for c in autonomous], [rollout(bool(c), bonus) for c in guided]
        teacher = rollout(bool(expert), bonus)
        groups.append(group_of(problem, ids(5), ids(9), *rows, teacher if experts else None))
    return groups
