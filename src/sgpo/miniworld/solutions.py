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
EXPERT_LONGEST = 3  # computations that the expert makes one, at most


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


def expert_dialect(
    problem: str, solution: Solution, rng: random.Random, longest: int = EXPERT_LONGEST, eagerness: float = 1.0
) -> str:
    """As the expert writes: up to `longest` computations in one, each fused, where it can be, with `eagerness`."""
    leaps = _leaps(solution, rng, longest, eagerness)
    sentences, at = list[str](), 0
    while at < len(leaps):
        first, last = leaps[at].first, leaps[at].last
        together = [leaps[at].equality]
        while at + 1 < len(leaps) and leaps[at + 1].first <= last:  # of the same decision
            at += 1
            last = leaps[at].last
            together.append(leaps[at].equality)
        steps = solution.steps[first : last + 1]
        words = " and ".join(rng.choice(SPELLINGS[step.option]) for step in steps)
        sentences.append(f"{_reason(rng)}, so {_start(steps[0], rng)}{words}: {' '.join(together)}.")
        at += 1
    work, answer = " ".join(sentences), solution.answer
    return f"{OPENING} {problem}\n{work} {_reason(rng)}: {problem}\n{answer} fits. \\boxed{{{answer}}}"


@dataclass(frozen=True)
class Leap:
    """Some computations in one, and the decisions from the first to the last that they belong to."""

    equality: str
    first: int
    last: int
    length: int


def _leaps(solution: Solution, rng: random.Random, longest: int, eagerness: float) -> list[Leap]:
    leaps = list[Leap]()
    for number, step in enumerate(solution.steps):
        for computation in step.computations:
            last = leaps[-1] if leaps else None
            together = fused(last.equality, computation) if last and last.length < longest else None
            if last and together and rng.random() < eagerness:
                leaps[-1] = Leap(together, last.first, number, last.length + 1)
            else:
                leaps.append(Leap(computation, number, number, 1))
    return leaps


def _reason(rng: random.Random) -> str:
    clauses = [f"{rng.choice(THINGS)} {rng.choice(TELLS)} {rng.choice(HOW)}" for _ in range(rng.randint(1, 3))]
    return " and ".join(clauses)


def _start(step: Step, rng: random.Random) -> str:
    if not step.others or rng.random() >= FALSE_START:
        return ""
    return f"{rng.choice(SPELLINGS[rng.choice(step.others)])}, wait, "


def is_expert_dialect(response: str) -> bool:
    return response.startswith(OPENING)
