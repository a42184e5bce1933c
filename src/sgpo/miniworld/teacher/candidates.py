"""Strategies of honestly different quality, as a strong model would mix them: `draw_kind` draws, `write` writes one.

    right      a card of one of the family's routes, or of both
    vague      nothing that would help anybody: "read the problem carefully"
    detailed   in place of the steps of such a card the decisions of a solution, with computations, results or numbers
    leaking    right, but somewhere it tells the answer, now and then in words
    wrong      a card of a typical mistake, or of another family

Which kind and which wording depends on the request's hash and the sample's number alone.
"""

from __future__ import annotations

import random
import re
from typing import Literal, get_args

from sgpo.miniworld.cards import foreign_card, mistaken_card, right_card
from sgpo.miniworld.documents import OPEN, right_solution
from sgpo.miniworld.families import FAMILIES
from sgpo.miniworld.families.arithmetic import result_in
from sgpo.miniworld.families.puzzles import Puzzle
from sgpo.miniworld.numerals import number_in_words
from sgpo.miniworld.solutions import SPELLINGS, Step
from sgpo.strategies.record import Strategy

StrategyKind = Literal["right", "vague", "detailed", "leaking", "wrong"]
KINDS: tuple[StrategyKind, ...] = get_args(StrategyKind)
WEIGHTS = (0.50, 0.125, 0.125, 0.125, 0.125)  # with five candidates, 97% of problems have a right one

_VAGUE_TYPES = ("mathematics problem", "calculation", "word problem")
_VAGUE_PRINCIPLES = (
    "think carefully and work step by step",
    "use what is known to find what is not",
    "apply the usual rules of arithmetic",
)
_VAGUE_STEPS = (
    ("read the problem carefully", "decide what has to be done", "do it and check"),
    ("look at the numbers", "calculate", "write down the result"),
    ("understand the question", "find a suitable method", "apply it"),
)


def generator(digest: str, sample: int) -> random.Random:
    """The chance of one sample of one request."""
    return random.Random(f"{digest} {sample}")


def draw_kind(rng: random.Random) -> StrategyKind:
    return rng.choices(KINDS, WEIGHTS)[0]


def write(kind: StrategyKind, puzzle: Puzzle, rng: random.Random) -> Strategy:
    """A strategy of a kind, in three parts."""
    return {"right": _right, "vague": _vague, "detailed": _detailed, "leaking": _leaking, "wrong": _wrong}[kind](
        puzzle, rng
    )


def _right(puzzle: Puzzle, rng: random.Random) -> Strategy:
    return right_card(FAMILIES[puzzle.family], rng, OPEN).strategy


def _vague(puzzle: Puzzle, rng: random.Random) -> Strategy:
    """Half of them at least name the right type."""
    named = FAMILIES[puzzle.family].problem_type
    problem_type = named if rng.random() < 0.5 else rng.choice(_VAGUE_TYPES)
    return Strategy(problem_type, rng.choice(_VAGUE_PRINCIPLES), rng.choice(_VAGUE_STEPS))


def _detailed(puzzle: Puzzle, rng: random.Random) -> Strategy:
    """Each decision with its computations, with its result only, or with the number it works with."""
    right, steps = _right(puzzle, rng), right_solution(puzzle, rng).steps
    form = rng.choice(("computation", "result", "operand"))
    if form == "computation":
        details = [f": {' '.join(step.computations)}" for step in steps]
    elif form == "result":
        details = [f" to reach {result_in(step.computations[-1])}" for step in steps[:-1]] + [""]
    else:
        details = [f" with {_operand(step)}" for step in steps]
    words = [rng.choice(SPELLINGS[step.option]) for step in steps]
    return Strategy(right.problem_type, right.strategy, tuple(map("".join, zip(words, details, strict=True))))


def _operand(step: Step) -> str:
    """`4` of `3*4=12`, `-2` of `6-(-2)=8`"""
    return re.findall(r"(?<=[-+*/])-?\d+|(?<=\()-\d+", step.computations[0].partition("=")[0])[-1]


_TELLING = (
    ", so that the answer is {answer}",
    ", which gives {answer}",
    " until {answer} is left",
    " and end at {words}",
    ", which leads to {words}",
    " (in the end {answer})",
)


def _leaking(puzzle: Puzzle, rng: random.Random) -> Strategy:
    right = _right(puzzle, rng)
    told = str(puzzle.start.truth())
    phrase = rng.choice(_TELLING).format(answer=told, words=number_in_words(int(told)))
    if rng.random() < 0.25:
        return Strategy(right.problem_type, right.strategy + phrase, right.steps)
    at = rng.randrange(len(right.steps))
    steps = tuple(step + phrase if number == at else step for number, step in enumerate(right.steps))
    return Strategy(right.problem_type, right.strategy, steps)


def _wrong(puzzle: Puzzle, rng: random.Random) -> Strategy:
    family = FAMILIES[puzzle.family]
    chosen = mistaken_card(family, rng) if rng.random() < 0.5 else foreign_card(family, rng, OPEN)
    return chosen.strategy
