"""Strategies of honestly different quality, as a strong model would mix them: `draw_kind` draws, `write` writes one.

    right      the problem's type, its principle, and its methods in order
    vague      nothing that would help anybody: "read the problem carefully"
    detailed   the solution copied into the steps, with its numbers or with its results
    leaking    right, but somewhere it tells the answer, now and then in words
    wrong      right for another kind of problem, or the typical misconception of this one

Which kind and which wording depends on the request's hash and the sample's number alone.
"""

from __future__ import annotations

import random
import re
from typing import Literal, get_args

from sgpo.miniworld.documents import Solution, notebook_policy, teacher_solution, work_out
from sgpo.miniworld.families import ARITHMETIC, FAMILIES, Chain, Puzzle, options
from sgpo.miniworld.numerals import number_in_words
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
    family = FAMILIES[puzzle.family]
    return Strategy(family.problem_type, family.principle, teacher_solution(puzzle).methods)


def _vague(puzzle: Puzzle, rng: random.Random) -> Strategy:
    """Half of them at least name the right type."""
    named = FAMILIES[puzzle.family].problem_type
    problem_type = named if rng.random() < 0.5 else rng.choice(_VAGUE_TYPES)
    return Strategy(problem_type, rng.choice(_VAGUE_PRINCIPLES), rng.choice(_VAGUE_STEPS))


def _detailed(puzzle: Puzzle, rng: random.Random) -> Strategy:
    """Each step with its computation, with its result only, or with the number it works with."""
    right = _right(puzzle, rng)
    solution = teacher_solution(puzzle)
    form = rng.choice(("computation", "result", "operand"))
    if form == "computation":
        details = [f": {computation}" for computation in solution.computations]
    elif form == "result":
        details = [f" to reach {_result(computation)}" for computation in solution.computations[:-1]] + [""]
    else:
        details = [f" with {operand}" for operand in _operands(puzzle)]
    steps = tuple(f"{method}{detail}" for method, detail in zip(right.steps, details, strict=True))
    return Strategy(right.problem_type, right.strategy, steps)


def _result(computation: str) -> str:
    """`9` of `3*3=9`; of what is left of an expression, `5+7/7`, its first number."""
    found = re.search(r"=(-?\d+)$|^(-?\d+)", computation)
    if found is None:
        raise ValueError(f"no number in {computation!r}")
    return found[1] or found[2]


def _operands(puzzle: Puzzle) -> list[int]:
    state, operands = puzzle.start, list[int]()
    for method in teacher_solution(puzzle).methods:
        if isinstance(state, Chain):
            operands.append(state.links[0].operand)
        else:
            operands.append(state.numbers[state.methods.index(method) + 1])
        state = options(state)[method].state
    return operands


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
    told = teacher_solution(puzzle).answer
    phrase = rng.choice(_TELLING).format(answer=told, words=number_in_words(int(told)))
    if rng.random() < 0.25:
        return Strategy(right.problem_type, right.strategy + phrase, right.steps)
    at = rng.randrange(len(right.steps))
    steps = tuple(step + phrase if number == at else step for number, step in enumerate(right.steps))
    return Strategy(right.problem_type, right.strategy, steps)


def _wrong(puzzle: Puzzle, rng: random.Random) -> Strategy:
    """Another family's strategy, or (half of them) this one's type with the methods of a misconception."""
    own = FAMILIES[puzzle.family]
    solution = solution_with_slips(puzzle, rng)
    if rng.random() < 0.5 and solution.methods != teacher_solution(puzzle).methods:
        return Strategy(own.problem_type, own.principle, solution.methods)
    other = FAMILIES[rng.choice([name for name in FAMILIES if name != puzzle.family])]
    steps = tuple(rng.choice(list(ARITHMETIC)) for _ in teacher_solution(puzzle).methods)
    return Strategy(other.problem_type, other.principle, steps)


def solution_with_slips(puzzle: Puzzle, rng: random.Random) -> Solution:
    """A solution with the typical misconceptions, carried through to its end; right where they come to nothing."""
    for _ in range(20):  # a wrong path can get stuck
        if solution := work_out(puzzle, notebook_policy(puzzle, rng)):
            return solution
    return teacher_solution(puzzle)
