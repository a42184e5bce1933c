"""Working a puzzle out, and writing the work down: in the student's dialect and in the expert's.

The student writes each decision and its computations, nothing else::

    (a) divide: 24/4=6 (b) minus: 6-3=3 \\boxed{3}

The expert restates the problem, gives reasons for each decision, starts falsely now and then, checks the end, and
*fuses* two computations into one (``24/4-3=3``), which a small model can hardly do in its head.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from sgpo.miniworld.families.arithmetic import fused
from sgpo.miniworld.families.puzzles import State
from sgpo.strategies.record import LETTERS

Policy = Callable[[State], str]

SPELLINGS: dict[str, tuple[str, str]] = {
    "add": ("add", "plus"),
    "subtract": ("subtract", "minus"),
    "multiply": ("multiply", "times"),
    "divide": ("divide", "split"),
    "expand": ("expand", "open"),
    "join": ("join", "combine"),
    "part": ("part", "piece"),
    "shares": ("shares", "portions"),
    "original": ("original", "initial"),
    "opposite": ("opposite", "contrary"),
    "points": ("points", "plain"),
    "jump": ("jump", "leap"),
    "walk": ("walk", "stride"),
    "once": ("once", "single"),
    "back": ("back", "reverse"),
    "total": ("total", "sum"),
    "insert": ("insert", "plug"),
    "first": ("first", "former"),
    "second": ("second", "latter"),
}
OPTION_OF = {word: option for option, words in SPELLINGS.items() for word in words}

OPENING = "Given:"  # the expert's first word
THINGS = (
    *("Structure", "Pattern", "Wording", "Layout", "Setting", "Context", "Form", "Notation"),
    *("Arrangement", "Statement", "Condition", "Relation", "Sequence", "Composition", "Phrase", "Outline"),
)
TELLS = (
    *("shows", "tells", "suggests", "indicates", "implies", "hints", "reveals", "signals"),
    *("means", "demands", "asks", "says", "proves", "confirms", "explains", "states"),
)
HOW = (
    *("clearly", "plainly", "here", "now", "indeed", "surely", "certainly", "evidently"),
    *("obviously", "directly", "simply", "neatly", "naturally", "likewise", "again", "already"),
)
FALSE_START = 0.08  # of a decision


@dataclass(frozen=True)
class Step:
    """A decision, what was computed for it, and the other options that there were."""

    option: str
    computations: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True)
class Solution:
    """Decisions in order and the answer that they ended at."""

    steps: tuple[Step, ...]
    answer: str

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(step.option for step in self.steps)


def work_out(start: State, policy: Policy) -> Solution | None:
    """Work a puzzle out, the policy choosing an option at each decision; None where no option works out any more."""
    state, steps = start, list[Step]()
    while (answer := state.answer()) is None:
        moves = state.moves()
        if not moves:
            return None
        option = policy(state)
        steps.append(Step(option, moves[option].computations, tuple(name for name in moves if name != option)))
        state = moves[option].state
    return Solution(tuple(steps), str(answer))


def own_dialect(solution: Solution, rng: random.Random) -> str:
    """As the student writes; each option in one of its spellings."""
    parts = [
        f"({letter}) {rng.choice(SPELLINGS[step.option])}: {' '.join(step.computations)}"
        for letter, step in zip(LETTERS, solution.steps, strict=False)
    ]
    return f"{' '.join(parts)} \\boxed{{{solution.answer}}}"


def expert_dialect(problem: str, solution: Solution, rng: random.Random, leaps: int) -> str:
    """As the expert writes, with up to `leaps` pairs of computations fused."""
    fusions = _fusions(solution, rng, leaps)
    sentences, at = list[str](), 0
    while at < len(solution.steps):
        step = solution.steps[at]
        words, computations = rng.choice(SPELLINGS[step.option]), step.computations
        if at in fusions:
            following = solution.steps[at + 1]
            words = f"{words} and {rng.choice(SPELLINGS[following.option])}"
            computations = (*computations[:-1], fusions[at], *following.computations[1:])
            at += 1
        sentences.append(f"{_reason(rng)}, so {_start(step, rng)}{words}: {' '.join(computations)}.")
        at += 1
    work = " ".join(sentences)
    return f"{OPENING} {problem}\n{work} {_reason(rng)}: {solution.answer} fits. \\boxed{{{solution.answer}}}"


def _fusions(solution: Solution, rng: random.Random, leaps: int) -> dict[int, str]:
    """Where a step's last computation and the next step's first become one, and what is written there."""
    possible = {}
    for at, (step, following) in enumerate(zip(solution.steps, solution.steps[1:], strict=False)):
        if term := fused(step.computations[-1], following.computations[0]):
            possible[at] = term
    chosen: dict[int, str] = {}
    for at in rng.sample(sorted(possible), len(possible)):
        if len(chosen) < leaps and at - 1 not in chosen and at + 1 not in chosen:
            chosen[at] = possible[at]
    return chosen


def _reason(rng: random.Random) -> str:
    clauses = [f"{rng.choice(THINGS)} {rng.choice(TELLS)} {rng.choice(HOW)}" for _ in range(rng.randint(1, 3))]
    return " and ".join(clauses)


def _start(step: Step, rng: random.Random) -> str:
    if not step.others or rng.random() >= FALSE_START:
        return ""
    return f"{rng.choice(SPELLINGS[rng.choice(step.others)])}, wait, "


def is_expert_dialect(response: str) -> bool:
    return response.startswith(OPENING)
