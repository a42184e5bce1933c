"""HPT (arXiv:2509.04419): SFT on the expert's response where the policy fails, GRPO without clipping elsewhere.

    problems whose pass rate is at most the gate:   -k log pi   over the expert's response, and no RL
    the others:                                     -A rho      over G1 + G2 on-policy completions
                                                    - c H       over all of them

k is ``hpt_sft_coefficient``. Its term is the mean over the expert tokens of the update in the authors' code; with
``normalization: grpo`` the mean over problems of the mean over each response. The rest is said in
`sgpo.methods.expert`. The authors also leave out updates whose gradient is too large: ``skip_grad_norm``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sgpo.methods.expert import ExpertOptions, bonus_per_token, count_tokens, group_rows
from sgpo.methods.grpo import outcome
from sgpo.methods.method import Method, all_autonomous
from sgpo.methods.options import negative
from sgpo.methods.records import Decision, ProblemRollouts, TrainingSequence, UpdateContext
from sgpo.methods.weights import pass_rate
from sgpo.sampling.records import correct_of


@dataclass
class HPTOptions(ExpertOptions):
    """Those of methods with an expert, and when and how much it is imitated."""

    hpt_gate: float = field(
        default=0.0, metadata={"help": "The expert is imitated where the pass rate is at most this."}
    )
    hpt_sft_coefficient: float = field(default=1.0, metadata={"help": "Weight of the imitation."})

    def refusals(self) -> Iterator[str]:
        yield from super().refusals()
        yield from negative(self, "hpt_gate", "hpt_sft_coefficient")
        if not self.hpt_gate < 1:
            yield f"hpt_gate is {self.hpt_gate}; it is a pass rate and must be below 1"


def decide(groups: Sequence[ProblemRollouts], options: HPTOptions, update: UpdateContext) -> list[Decision]:
    """Of each problem either the expert's response or the autonomous group."""
    imitated = [group.experts[:1] if is_imitated(group, options) else [] for group in groups]
    expert_tokens = update.total(count_tokens(imitated))
    learnt = [some or group.autonomous for some, group in zip(imitated, groups, strict=True)]
    bonus = bonus_per_token(learnt, options, update)
    decisions = []
    for group, some in zip(groups, imitated, strict=True):
        if some:
            rows = [imitation(group, options, update.num_problems, expert_tokens, bonus)]
        else:
            rows = group_rows(group, group.autonomous, options, update.num_problems, bonus)
        reason = f"{outcome(group)}: {'the expert is imitated' if some else 'RL'}"
        decisions.append(Decision(rows, reason, metrics={"imitated_share": float(bool(some))}))
    return decisions


def imitation(
    group: ProblemRollouts, options: HPTOptions, num_problems: int, expert_tokens: int, bonus: float
) -> TrainingSequence:
    """The row of the expert's response.

    Args:
        expert_tokens: of all responses that are imitated in the update.
        bonus: of `bonus_per_token`.
    """
    expert = group.experts[0]
    share = 1 / (num_problems * len(expert.completion_ids))
    weight = options.hpt_sft_coefficient * (1 / expert_tokens if options.like_authors else share)
    of_entropy = bonus if options.like_authors else options.entropy_coefficient * share
    return group.row("likelihood", expert, weight, entropy_bonus=of_entropy)


def is_imitated(group: ProblemRollouts, options: HPTOptions) -> bool:
    """Whether the policy fails, and there is an expert's response."""
    return bool(group.experts) and float(pass_rate(correct_of(group.autonomous))) <= options.hpt_gate


METHOD = Method(HPTOptions, all_autonomous, decide, uses=("response",))
