"""LUFFY (arXiv:2504.14945): one expert response in each group of GRPO, with a shaped loss; no clipping.

    L = sum over the tokens of   -A rho    on-policy     rho = pi / pi_old
                                 -A f(pi)  expert        f(p) = p / (p + 0.1)
        - c H

The group of a problem is G1 + G2 - 1 on-policy completions and the expert's response, whose reward is computed like any
other; A compares all of them. `sgpo.methods.expert` says how tokens are weighed.
"""

from __future__ import annotations

from collections.abc import Sequence

from sgpo.methods import expert
from sgpo.methods.arguments import MethodArguments
from sgpo.methods.expert import group_rows, with_entropy_bonus
from sgpo.methods.records import Assembly, ProblemRollouts, Scorer
from sgpo.problems import Problem

OPTIONS = expert.OPTIONS


def group_sizes(problem: Problem, config: MethodArguments) -> tuple[int, int]:
    return config.num_autonomous + config.num_guided - bool(problem.response), 0


def assemble(
    groups: Sequence[ProblemRollouts], scorer: Scorer, config: MethodArguments, *, num_problems: int | None = None
) -> Assembly:
    problems = num_problems or len(groups)
    rows = []
    for group in groups:
        mixed = [*group.autonomous, *([group.expert] if group.expert else [])]
        rows += group_rows(group, mixed, config, problems)
    return Assembly(with_entropy_bonus(rows, config), imitated=[group.expert is not None for group in groups])
