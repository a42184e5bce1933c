"""Scaf-GRPO (arXiv:2510.19807): GRPO, and where all completions fail, the one that needed the smallest hint joins them.

    hints       problem_type, type_and_strategy, whole_strategy, informed (the expert's response)
    sampled     one completion of each of the first G2 hints; of the bare prompt the rest of G1 + G2
    replaced    where no completion is correct, the last one, by the correct completion h of the smallest hint
    J           = 1/B sum_problems 1/G sum_i 1/|o_i| sum_t min(rho A_i, clip(rho) A_i),   A_i = (R_i - mean) / std

The row of h keeps the prompt with the hint: rho = pi(h | q, hint) / pi_old(h | q, hint). So the policy learns to use
hints, and what it learns without them is the other completions' part of the advantage. During the first
`scaf_exempt_updates` nothing is replaced; what is sampled with hints then is not used.

Source: hint_mix_grpo/trainer/ray_trainer.py (fit, build_new_message) and sh/hint_mix_grpo/bs256_6k_mix.sh of
JIA-Lab-research/Scaf-GRPO at ac9f99e, with replace_num 1, replace_hint_prompt False and eps_low = eps_high = 0.2; 50
rollout batches of four updates are exempt there. What differs: hints are sampled there once a problem has failed, so
for fewer problems; four of knowledge and four of the solution alone, in words of their own, where here are three and
one; all tokens of a micro-batch weigh alike; and a second clip, of ratios above 3 where A < 0, is left out. The first
completion makes room there, here the last: they are drawn independently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sgpo.methods.grpo import outcome, surrogate_rows
from sgpo.methods.method import Method, Work
from sgpo.methods.opsd import INFORMED, informed_prompt
from sgpo.methods.options import ClipOptions
from sgpo.methods.records import Decision, ProblemRollouts, UpdateContext
from sgpo.problems import Problem
from sgpo.prompts import AUTONOMOUS, GUIDED, PROMPTS, Messages, PromptOf, guided_messages
from sgpo.strategies.record import Strategy, StrategyFormatError, parse_strategy


def hint_of(text: Callable[[Strategy], str]) -> PromptOf:
    """A prompt with a part of the strategy, where a strategy in three parts is."""

    def prompt(problem: Problem, system_prompt: str | None) -> Messages | None:
        try:
            parts = parse_strategy(problem.strategy or "")
        except StrategyFormatError:
            return None
        return guided_messages(problem.prompt, text(parts), system_prompt)

    return prompt


HINTS: Mapping[str, PromptOf] = {  # from the smallest to the largest
    "problem_type": hint_of(lambda parts: f"Problem type: {parts.problem_type}"),
    "type_and_strategy": hint_of(lambda parts: f"Problem type: {parts.problem_type}\nStrategy: {parts.strategy}"),
    "whole_strategy": PROMPTS[GUIDED],
    INFORMED: informed_prompt,
}


@dataclass
class ScafGRPOOptions(ClipOptions):
    """Those of GRPO, and when hints begin."""

    scaf_exempt_updates: int = field(default=0, metadata={"help": "Updates before the first hint is learnt."})

    def refusals(self) -> Iterator[str]:
        yield from super().refusals()
        if not 1 <= self.num_guided <= len(HINTS):
            yield f"num_guided is {self.num_guided}; it is the number of hints here, 1 to {len(HINTS)}"
        if self.scaf_exempt_updates < 0:
            yield f"scaf_exempt_updates is {self.scaf_exempt_updates}; it must be 0 or positive"


def with_hints(problem: Problem, options: ScafGRPOOptions) -> dict[str, int]:
    """One completion of each of the first G2 hints that the problem has, of the bare prompt the others of G1 + G2."""
    hints = [name for name, prompt in HINTS.items() if prompt(problem, None) is not None][: options.num_guided]
    return {AUTONOMOUS: options.num_samples - len(hints), **dict.fromkeys(hints, 1)}


def decide(groups: Sequence[ProblemRollouts], options: ScafGRPOOptions, update: UpdateContext) -> list[Decision]:
    """Of each problem the autonomous group, in which a hinted completion takes a place where it fails."""
    exempt = update.state["updates"] < options.scaf_exempt_updates
    update.state["updates"] += 1
    hints = [None if exempt else smallest_hint(group) for group in groups]
    return [hinted_decision(*pair, update.num_problems) for pair in zip(groups, hints, strict=True)]


def smallest_hint(group: ProblemRollouts) -> str | None:
    """The hint that led to a correct completion; None where none is needed, and where none did."""
    if any(rollout.correct for rollout in group.autonomous):
        return None
    return next((name for name in HINTS if any(rollout.correct for rollout in group.groups.get(name, []))), None)


def hinted_decision(group: ProblemRollouts, hint: str | None, num_problems: int) -> Decision:
    own = group.autonomous
    if hint is None:
        return Decision(surrogate_rows(group, num_problems), outcome(group), metrics={"hinted_share": 0.0})
    (hinted,) = group.groups[hint]
    rows = surrogate_rows(group, num_problems, [*((AUTONOMOUS, rollout) for rollout in own[:-1]), (hint, hinted)])
    reason = f"none of {len(own)} autonomous completions is correct; that with {hint} takes the place of one"
    return Decision(rows, reason, metrics={"hinted_share": 1.0, "hint_level": [*HINTS].index(hint) + 1.0})


def work(options: ScafGRPOOptions) -> Work:
    """G1 completions are learnt; those of the hints are only sampled, or take the place of one."""
    return Work(sampled=options.num_samples, learnt=options.num_autonomous, ratios=options.num_autonomous)


METHOD = Method(ScafGRPOOptions, with_hints, decide, prompts=HINTS, state=lambda options: {"updates": 0}, work=work)
