"""SDPO (arXiv:2601.20802): the policy is drawn to itself with another of its own correct completions in the prompt.

    L = mean over all tokens o_t of the completions of an update that have such another one, g, of
        D( pi(. | q, o_<t),  sg pi(. | q, g, o_<t) )

g is the first correct completion of the group that is not o itself; D the Jensen-Shannon divergence (alpha = 0.5), or
one of the two KL. Rewards take no other part, and a completion may be correct or not.

Source: compute_self_distillation_loss in verl/trainer/ppo/core_algos.py, ray_trainer.py and config/actor/actor.yaml of
lasgroup/SDPO at 0e6d510, without feedback of an environment. The teacher is a moving average of the policy, which goes
on after every rollout batch (teacher_update_rate 0.05). Their divergence is of the 100 likeliest tokens and the rest as
one; here it is of the full vocabulary. Their importance weights, which are 1 where the policy that samples is the
present one, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from sgpo.methods.expert import count_tokens
from sgpo.methods.grpo import outcome
from sgpo.methods.method import Method, all_autonomous
from sgpo.methods.opsd import TERM_OF_DIVERGENCE, DivergenceOptions, outside_of_rates, work_of_distillation
from sgpo.methods.records import Decision, ProblemRollouts, UpdateContext
from sgpo.prompts import encode_prompts, student_messages
from sgpo.sampling.records import Rollout, decode
from sgpo.verification.answers import after_thinking

SOLVED_TEMPLATE = "{problem}\n\nA correct solution:\n\n{solution}\n\nNow solve the problem correctly."


@dataclass
class SDPOOptions(DivergenceOptions):
    """Those of methods that distil all tokens, how fast the teacher follows, and how long its prompt may be."""

    sdpo_teacher_update_rate: float = field(
        default=0.05,
        metadata={"help": "How far the teacher goes towards the policy after each rollout batch."},
    )
    sdpo_prompt_length: int = field(
        default=10_240, metadata={"help": "Tokens of a prompt with a solution; beyond it nothing is distilled."}
    )

    def refusals(self) -> Iterator[str]:
        yield from super().refusals()
        yield from outside_of_rates(self, "sdpo_teacher_update_rate")
        if self.sdpo_prompt_length < 1:
            yield f"sdpo_prompt_length is {self.sdpo_prompt_length}; it must be at least 1"


def decide(groups: Sequence[ProblemRollouts], options: SDPOOptions, update: UpdateContext) -> list[Decision]:
    """Every completion that has a correct one beside it."""
    taught = [
        [(o, ids) for o, ids in teachers(group, update) if len(ids) <= options.sdpo_prompt_length] for group in groups
    ]
    weight = 1 / max(1, update.total(count_tokens([[o for o, _ in some] for some in taught])))
    term = TERM_OF_DIVERGENCE[options.divergence]
    decisions = []
    for group, some in zip(groups, taught, strict=True):
        rows = [replace(group.row(term, o, weight), teacher_prompt_ids=ids) for o, ids in some]
        share = len(some) / max(1, len(group.autonomous))
        decisions.append(
            Decision(rows, f"{outcome(group)}; {len(some)} are distilled", metrics={"taught_share": share})
        )
    return decisions


def teachers(group: ProblemRollouts, update: UpdateContext) -> list[tuple[Rollout, list[int]]]:
    """Each completion beside which there is a correct one, and the prompt that holds the first of these, in tokens."""
    correct = [o for o in group.autonomous if o.correct][:2]
    if not correct:
        return []
    prompts = encode_prompts(
        update.tokenizer,
        [
            student_messages(
                SOLVED_TEMPLATE.format(problem=group.problem.prompt, solution=after_thinking(text).strip()),
                update.system_prompt,
            )
            for text in decode(correct, update.tokenizer)
        ],
    )
    found = []
    for o in group.autonomous:
        if o is not correct[0]:
            found.append((o, prompts[0]))
        elif len(correct) > 1:
            found.append((o, prompts[1]))
    return found


METHOD = Method(
    SDPOOptions,
    all_autonomous,
    decide,
    work=work_of_distillation,
    teacher_update_rate=lambda options: options.sdpo_teacher_update_rate,
)
