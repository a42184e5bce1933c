"""LUFFY (arXiv:2504.14945): one expert response in each group of GRPO, with a shaped loss; no clipping.

    L = sum over the tokens of   -A rho    on-policy     rho = pi / pi_old
                                 -A f(pi)  expert        f(p) = p / (p + 0.1)
        - c H

The group of a problem is G1 + G2 - 1 on-policy completions and the expert's response, whose reward is computed like any
other; A compares all of them. `sgpo.methods.expert` says how tokens are weighed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sgpo.methods.expert import ExpertOptions, bonus_per_token, group_rows
from sgpo.methods.grpo import outcome
from sgpo.methods.method import Method, Work
from sgpo.methods.records import Decision, ProblemRollouts, UpdateContext
from sgpo.problems import Problem
from sgpo.prompts import AUTONOMOUS


@dataclass
class LUFFYOptions(ExpertOptions):
    """Those of methods with an expert."""

    def refusals(self) -> Iterator[str]:
        yield from super().refusals()
        if self.num_samples < 3:
            yield "luffy has one completion less than the others: G1 + G2 must be at least 3"


def samples(problem: Problem, options: LUFFYOptions) -> dict[str, int]:
    return {AUTONOMOUS: options.num_samples - bool(problem.responses)}


def decide(groups: Sequence[ProblemRollouts], options: LUFFYOptions, update: UpdateContext) -> list[Decision]:
    """Of each problem one group, the expert's response among them."""
    mixed = [[*group.autonomous, *group.experts[:1]] for group in groups]
    bonus = bonus_per_token(mixed, options, update)
    return [
        Decision(
            group_rows(group, rollouts, options, update.num_problems, bonus),
            f"{outcome(group)}; {'with' if group.experts else 'without'} an expert's response",
            metrics={"imitated_share": float(bool(group.experts))},
        )
        for group, rollouts in zip(groups, mixed, strict=True)
    ]


def work(options: LUFFYOptions) -> Work:
    """The completions and the response; that has no ratio."""
    sampled = options.num_samples - 1
    return Work(sampled, learnt=sampled + 1, ratios=sampled)


METHOD = Method(LUFFYOptions, samples, decide, uses=("response",), work=work)
