"""GRPO on autonomous completions alone, as many as SGPO samples in all (the paper's "SFT+GRPO").

J = 1/B sum_problems 1/G sum_i 1/|o_i| sum_t min(rho A_i, clip(rho, 1 - eps_low, 1 + eps_high) A_i)     (Eq. 1)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sgpo.methods.arguments import MethodArguments
from sgpo.methods.records import Assembly, ProblemRollouts, Scorer, TrainingSequence
from sgpo.methods.weights import group_advantages
from sgpo.problems import Problem

OPTIONS = ("eps_low", "eps_high")


def group_sizes(problem: Problem, config: MethodArguments) -> tuple[int, int]:
    return config.num_autonomous + config.num_guided, 0


def assemble(
    groups: Sequence[ProblemRollouts], scorer: Scorer, config: MethodArguments, *, num_problems: int | None = None
) -> Assembly:
    problems = num_problems or len(groups)
    return Assembly([row for group in groups for row in surrogate_rows(group, num_problems=problems)])


def surrogate_rows(group: ProblemRollouts, *, num_problems: int) -> list[TrainingSequence]:
    """The autonomous group with the weights A_i / (B G1 |o_i|) of Eq. 1; equal rewards weigh nothing."""
    rewards = torch.tensor([rollout.reward for rollout in group.autonomous], dtype=torch.float64)
    advantages = group_advantages(rewards).tolist()
    rows = []
    for rollout, advantage in zip(group.autonomous, advantages, strict=True):
        share = 1 / (num_problems * len(group.autonomous) * len(rollout.completion_ids))
        rows.append(group.row("surrogate", rollout, advantage * share))
    return rows
