"""AMPO (arXiv:2510.02227): GRPO, and where all completions fail, the most comprehensible of several experts' responses.

    problems with a correct completion:   GRPO with clipping on the G1 + G2 completions
    the others:                           two completions make room for the two responses e of largest r(e);
                                          their reward is 1 at least, their loss -A f(pi), f of LUFFY
    r(e) = mean over the tokens of the answer of pi(answer | q, e up to its answer)
    A = R - mean R of the whole group

How tokens are weighed is said in `sgpo.methods.expert`; completions are clipped, as in GRPO, responses are not. The
last two completions make room: they are drawn independently, so any two are as good as two at random.

Source: mix_off_policy_rollout in adaptive_mix_src/mix_dapo_trainer.py, mix_core_alg.py and exp_scripts/train_ampo.sh of
SII-Enigma/AMPO at b88d365; eps_low and eps_high are 0.2 there. Their second clip of ratios above 10 is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sgpo.methods.expert import ExpertOptions, bonus_per_token, group_rows
from sgpo.methods.grpo import outcome
from sgpo.methods.method import Method, all_autonomous
from sgpo.methods.options import ClipOptions
from sgpo.methods.records import Decision, ProblemRollouts, UpdateContext
from sgpo.sampling.records import Rollout
from sgpo.verification.answers import last_boxed

BOX = "\\boxed{"


@dataclass
class AMPOOptions(ExpertOptions, ClipOptions):
    """Those of methods with an expert, the clip range, and how many completions are replaced."""

    ampo_replaced: int = field(
        default=2, metadata={"help": "Completions that responses take the place of, where all fail."}
    )

    def refusals(self) -> Iterator[str]:
        yield from super().refusals()
        if not 1 <= self.ampo_replaced < self.num_samples:
            yield f"ampo_replaced is {self.ampo_replaced}; it must be at least 1 and below G1 + G2 ({self.num_samples})"


def decide(groups: Sequence[ProblemRollouts], options: AMPOOptions, update: UpdateContext) -> list[Decision]:
    """Of each problem one group, of which a part is replaced where it fails."""
    chosen = choose_responses(groups, options.ampo_replaced, update)
    pairs = [*zip(groups, chosen, strict=True)]
    mixed = [[*group.autonomous[: len(group.autonomous) - len(some)], *some] for group, some in pairs]
    bonus = bonus_per_token(mixed, options, update)
    decisions = []
    for (group, some), rollouts in zip(pairs, mixed, strict=True):
        of_experts = replace(group, experts=some)
        rows = group_rows(of_experts, rollouts, options, update.num_problems, bonus, term="surrogate")
        reason = f"{outcome(group)}{f'; {len(some)} responses take the place of as many' if some else ''}"
        decisions.append(Decision(rows, reason, metrics={"imitated_share": float(bool(some))}))
    return decisions


def choose_responses(groups: Sequence[ProblemRollouts], most: int, update: UpdateContext) -> list[list[Rollout]]:
    """The responses of each problem that enter its group, with a reward of 1 at least; none where it does not fail.

    All that have to be ranked are scored in one call.
    """
    failed = [[] if any(o.correct for o in group.autonomous) else group.experts for group in groups]
    ranked = [group for group, experts in zip(groups, failed, strict=True) if len(experts) > most]
    pairs = [pair for group in ranked for pair in answer_pairs(group, update.tokenizer)]
    scores = iter([float(found.logprobs.double().exp().mean()) for found in update.policy(pairs)])
    chosen = []
    for experts in failed:
        if len(experts) > most:
            of_each = [next(scores) for _ in experts]
            best = sorted(range(len(experts)), key=of_each.__getitem__, reverse=True)[:most]
            experts = [experts[place] for place in sorted(best)]
        chosen.append([replace(expert, reward=max(expert.reward, 1.0)) for expert in experts])
    return chosen


def answer_pairs(group: ProblemRollouts, tokenizer: Any) -> Iterator[tuple[list[int], list[int]]]:
    """(prompt and response up to its box, the right answer) of each response, in tokens."""
    answer = tokenizer(group.problem.answer, add_special_tokens=False)["input_ids"]
    for response in group.problem.responses:
        before = tokenizer(before_answer(response), add_special_tokens=False)["input_ids"]
        yield [*group.prompt_ids, *before], answer


def before_answer(response: str) -> str:
    """A response up to the content of its last box; one without gets the beginning of a box."""
    content = last_boxed(response)
    if content is None:
        return f"{response}\n{BOX}"
    return response[: response.rindex(f"{{{content}}}") + 1]


METHOD = Method(AMPOOptions, all_autonomous, decide, uses=("responses",))
