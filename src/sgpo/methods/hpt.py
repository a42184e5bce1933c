"""HPT (arXiv:2509.04419): SFT on the expert's response where the policy fails, GRPO without clipping elsewhere.

    problems whose pass rate is at most the gate:   -k log pi   over the expert's response, and no RL
    the others:                                     -A rho      over G1 + G2 on-policy completions
                                                    - c H       over all of them

k is ``hpt_sft_coefficient``. Its term is the mean over the expert tokens of the update in the authors' code; with
``normalization: grpo`` the mean over problems of the mean over each response. The rest is said in
`sgpo.methods.expert`. The authors also leave out updates whose gradient is too large: ``skip_grad_norm``.
"""

from __future__ import annotations

from collections.abc import Sequence

from sgpo import distributed
from sgpo.methods import expert
from sgpo.methods.arguments import MethodArguments
from sgpo.methods.expert import group_rows, with_entropy_bonus
from sgpo.methods.records import Assembly, ProblemRollouts, Scorer, TrainingSequence
from sgpo.methods.weights import pass_rate

OPTIONS = (*expert.OPTIONS, "hpt_gate", "hpt_sft_coefficient")


def assemble(
    groups: Sequence[ProblemRollouts], scorer: Scorer, config: MethodArguments, *, num_problems: int | None = None
) -> Assembly:
    problems = num_problems or len(groups)
    imitated = [is_imitated(group, config) for group in groups]
    tokens = distributed.total(
        sum(len(g.expert.completion_ids) for g, chosen in zip(groups, imitated, strict=True) if chosen and g.expert)
    )
    rows: list[TrainingSequence] = []
    for group, chosen in zip(groups, imitated, strict=True):
        if chosen and group.expert:
            share = 1 / (problems * len(group.expert.completion_ids))
            authors = config.normalization == "authors"
            weight = config.hpt_sft_coefficient * (1 / tokens if authors else share)
            bonus = config.entropy_coefficient * share
            rows.append(group.row("likelihood", group.expert, weight, entropy_bonus=bonus))
        else:
            rows += group_rows(group, group.autonomous, config, problems)
    return Assembly(with_entropy_bonus(rows, config), imitated=imitated)


def is_imitated(group: ProblemRollouts, config: MethodArguments) -> bool:
    return group.expert is not None and pass_rate(group.autonomous) <= config.hpt_gate
