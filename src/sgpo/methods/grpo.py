"""GRPO on autonomous completions alone, as many as SGPO samples in all (the paper's "SFT+GRPO").

J = 1/B sum_problems 1/G sum_i 1/|o_i| sum_t min(rho A_i, clip(rho, 1 - eps_low, 1 + eps_high) A_i)     (Eq. 1)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgpo.methods.method import Method, all_autonomous
from sgpo.methods.options import ClipOptions
from sgpo.methods.records import Decision, ProblemRollouts, TrainingSequence, UpdateContext
from sgpo.methods.weights import surrogate_weights
from sgpo.prompts import AUTONOMOUS
from sgpo.sampling.records import Rollout, correct_of, lengths_of, rewards_of


@dataclass
class GRPOOptions(ClipOptions):
    """Those of every method, and the clip range."""


def decide(groups: Sequence[ProblemRollouts], options: GRPOOptions, update: UpdateContext) -> list[Decision]:
    """The autonomous group of each problem."""
    return [Decision(surrogate_rows(group, update.num_problems), outcome(group)) for group in groups]


def surrogate_rows(
    group: ProblemRollouts, num_problems: int, members: Sequence[tuple[str, Rollout]] | None = None
) -> list[TrainingSequence]:
    """The autonomous group with the weights A_i / (B G1 |o_i|) of Eq. 1; equal rewards weigh nothing.

    Args:
        members: other completions in its place, each with the name of the prompt that it is learnt after.
    """
    members = [(AUTONOMOUS, o) for o in group.autonomous] if members is None else members
    rollouts = [o for _, o in members]
    weights = surrogate_weights(rewards_of(rollouts), lengths_of(rollouts), num_problems=num_problems)
    return [
        group.row("surrogate", o, weight, prompt=prompt)
        for (prompt, o), weight in zip(members, weights.tolist(), strict=True)
    ]


def outcome(group: ProblemRollouts) -> str:
    """What came of the autonomous group, in words."""
    rollouts = group.autonomous
    said = f"{int(correct_of(rollouts).sum())} of {len(rollouts)} autonomous completions are correct"
    return f"{said}; equal rewards weigh nothing" if len({o.reward for o in rollouts}) == 1 else said


METHOD = Method(GRPOOptions, all_autonomous, decide)
