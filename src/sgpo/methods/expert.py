"""What LUFFY and HPT share: a group without clipping, the expert's response as a row, and an entropy bonus.

Their authors' code weighs tokens in a way of its own (docs/method.md), which is the default; ``normalization: grpo``
weighs them as GRPO does here. With B problems, G rows of a problem and a row of |o| tokens:

                      advantage A          a token of the group     entropy bonus a token
    authors           R - mean             A / L_max                c / (tokens of all rows of the update)
    grpo              (R - mean) / std     A / (B G |o|)            c / (B G |o|)

L_max is the largest length of a completion, c the entropy coefficient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from sgpo import distributed
from sgpo.methods.arguments import MethodArguments
from sgpo.methods.records import ProblemRollouts, TrainingSequence
from sgpo.methods.weights import group_advantages
from sgpo.sampling.records import Rollout

OPTIONS = ("normalization", "entropy_coefficient")


def group_rows(
    group: ProblemRollouts, rollouts: Sequence[Rollout], config: MethodArguments, problems: int
) -> list[TrainingSequence]:
    """One row for each rollout of the group; that of the expert is shaped, the others have an unclipped ratio."""
    authors = config.normalization == "authors"
    rewards = torch.tensor([rollout.reward for rollout in rollouts], dtype=torch.float64)
    rows = []
    for rollout, advantage in zip(rollouts, group_advantages(rewards, std=not authors).tolist(), strict=True):
        share = 1 / (problems * len(rollouts) * len(rollout.completion_ids))
        weight = advantage / config.max_completion_length if authors else advantage * share
        term = "shaped" if rollout is group.expert else "ratio"
        bonus = 0.0 if authors else config.entropy_coefficient * share
        rows.append(group.row(term, rollout, weight, entropy_bonus=bonus))
    return rows


def with_entropy_bonus(rows: Sequence[TrainingSequence], config: MethodArguments) -> list[TrainingSequence]:
    """The authors' mean over the tokens of all rows; with the other normalisation rows have their bonus already."""
    if config.normalization != "authors":
        return list(rows)
    tokens = distributed.total(sum(len(row.completion_ids) for row in rows))
    return [replace(row, entropy_bonus=config.entropy_coefficient / tokens) for row in rows]
