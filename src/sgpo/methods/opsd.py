"""OPSD (arXiv:2601.18734): on its own completions the policy is drawn to itself with a solution in the prompt.

    L = mean over all tokens o_t of the autonomous completions of an update of
        D( pi(. | q, o_<t),  sg pi(. | q, e, o_<t) )

e is the expert's response, D the Jensen-Shannon divergence (beta = 0.5), or one of the two KL. Rewards take no part.
Completions are the student's own, where SGPO distils a guided one; all tokens count, where SGPO leaves out large d_t.

The teacher is the policy before training (rate 0), a moving average of the policy, or the present policy (rate 1).

Source: opsd_trainer.py, data_collator.py and scripts of siyan-zhao/OPSD at 590ec26: --fixed_teacher of the runs that
they report, --ema_decay 0.999, and the default of their code. There the temperature of sampling, 1.1, divides the
logits of the loss too; here probabilities are those of temperature 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sgpo.methods.expert import count_tokens
from sgpo.methods.grpo import outcome
from sgpo.methods.method import Method, Work, all_autonomous
from sgpo.methods.options import MethodOptions, not_among, without_ratios
from sgpo.methods.records import Decision, ProblemRollouts, UpdateContext
from sgpo.problems import Problem
from sgpo.prompts import Messages, student_messages

INFORMED = "informed"  # the prompt with the response
TEMPLATE = (
    "Problem:\n{problem}\n\nA reference solution:\n{response}\n\nSolve the problem step by step, in your own words."
)
TERM_OF_DIVERGENCE = {
    "jensen_shannon": "jensen_shannon_distillation",
    "reverse_kl": "reverse_distillation",
    "forward_kl": "distillation",
}


@dataclass
class DivergenceOptions(MethodOptions):
    """Those of every method, and the divergence from a teacher, of OPSD and SDPO."""

    divergence: str = field(
        default="jensen_shannon",
        metadata={"help": "'jensen_shannon', 'reverse_kl' or 'forward_kl'."},
    )

    delta = math.inf  # no option: all tokens count

    def refusals(self) -> Iterator[str]:
        yield from super().refusals()
        yield from not_among(self, {"divergence": list(TERM_OF_DIVERGENCE)})
        yield from without_ratios(self)


def outside_of_rates(options: MethodOptions, name: str) -> Iterator[str]:
    """A refusal for a rate that is no part of a way."""
    if not 0 <= getattr(options, name) <= 1:
        yield f"{name} is {getattr(options, name)}; it must be between 0 and 1"


@dataclass
class OPSDOptions(DivergenceOptions):
    """Those of methods that distil all tokens, and how fast the teacher follows."""

    opsd_teacher_update_rate: float = field(
        default=0.0,
        metadata={"help": "0: the teacher stays the policy before training; 1: it is the present policy."},
    )

    def refusals(self) -> Iterator[str]:
        yield from super().refusals()
        yield from outside_of_rates(self, "opsd_teacher_update_rate")


def informed_prompt(problem: Problem, system_prompt: str | None) -> Messages | None:
    """The teacher's prompt: the problem and its first response."""
    if not problem.responses:
        return None
    return student_messages(TEMPLATE.format(problem=problem.prompt, response=problem.responses[0]), system_prompt)


def decide(groups: Sequence[ProblemRollouts], options: OPSDOptions, update: UpdateContext) -> list[Decision]:
    """Every completion of each problem that has a response."""
    learnt = [group.autonomous if INFORMED in group.prompts else [] for group in groups]
    weight = 1 / max(1, update.total(count_tokens(learnt)))
    term = TERM_OF_DIVERGENCE[options.divergence]
    return [
        Decision(
            [group.row(term, rollout, weight, teacher=INFORMED) for rollout in rollouts],
            f"{outcome(group)}; {'all are distilled' if rollouts else 'no response'}",
        )
        for group, rollouts in zip(groups, learnt, strict=True)
    ]


def work_of_distillation(options: MethodOptions) -> Work:
    """G1 + G2 completions without a ratio, all with a teacher; scored is the teacher's side of each."""
    count = options.num_samples
    return Work(sampled=count, learnt=count, ratios=0, scored=count, taught=count)


METHOD = Method(
    OPSDOptions,
    all_autonomous,
    decide,
    prompts={INFORMED: informed_prompt},
    work=work_of_distillation,
    teacher_update_rate=lambda options: options.opsd_teacher_update_rate,
)
