"""How the teacher rates strategies: by the four criteria, from the problem and the text alone, and not quite reliably.

Like any judge it is not told which kind a strategy is. It works the problem out, compares type, principle and methods
with its own, looks for numbers and for the answer in words, and errs: `NOISE` is added to each criterion.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from sgpo.miniworld.documents import teacher_solution
from sgpo.miniworld.families import ARITHMETIC, FAMILIES, Puzzle
from sgpo.miniworld.numerals import number_in_words
from sgpo.strategies.record import Strategy, StrategyFormatError, parse_strategy

NOISE = 0.15  # each criterion is misjudged by up to so much, evenly spread
_NUMBER = re.compile(r"-?\d+")


def ratings(puzzle: Puzzle, text: str, digest: str) -> tuple[float, float, float, float]:
    """Problem type, strategy, steps, nothing revealed: each 0 to 1, rounded to hundredths."""
    try:
        exact = _exact_ratings(puzzle, parse_strategy(text))
    except StrategyFormatError:
        exact = (0.0, 0.0, 0.0, 1.0)
    rng = random.Random(f"{digest} {text}")
    first, second, third, fourth = (round(min(1.0, max(0.0, r + rng.uniform(-NOISE, NOISE))), 2) for r in exact)
    return first, second, third, fourth


def scores(puzzle: Puzzle, texts: Sequence[str], digest: str) -> list[float]:
    """The mean of the four criteria for each candidate."""
    return [round(sum(ratings(puzzle, text, digest)) / 4, 2) for text in texts]


def _exact_ratings(puzzle: Puzzle, strategy: Strategy) -> tuple[float, float, float, float]:
    return _type(puzzle, strategy), _principle(puzzle, strategy), _steps(puzzle, strategy), _secrecy(puzzle, strategy)


def _type(puzzle: Puzzle, strategy: Strategy) -> float:
    return 1.0 if strategy.problem_type == FAMILIES[puzzle.family].problem_type else 0.0


def _principle(puzzle: Puzzle, strategy: Strategy) -> float:
    """General advice is not wrong, only of little help."""
    if strategy.strategy.startswith(FAMILIES[puzzle.family].principle):
        return 1.0
    others = [family.principle for family in FAMILIES.values()]
    return 0.0 if strategy.strategy in others else 0.3


def _steps(puzzle: Puzzle, strategy: Strategy) -> float:
    """1 for the right methods and nothing else, half of it with more; little for wrong steps or mere advice."""
    named = [re.match(r"[a-z]+", step) for step in strategy.steps]
    methods = [found[0] if found and found[0] in ARITHMETIC else None for found in named]
    if not any(methods):
        return 0.5 if strategy.steps == FAMILIES[puzzle.family].rule else 0.2
    right = teacher_solution(puzzle).methods
    agreeing = sum(a == b for a, b in zip(methods, right, strict=False)) / max(len(methods), len(right))
    if agreeing < 1:
        return 0.25 * agreeing  # one wrong step leads to a wrong end
    return 1.0 if strategy.steps == right else 0.5


def _secrecy(puzzle: Puzzle, strategy: Strategy) -> float:
    numbers = set(_NUMBER.findall(strategy.text))
    answer = teacher_solution(puzzle).answer
    told = answer in numbers or re.search(rf"\b{number_in_words(int(answer))}\b", strategy.text)
    if told or "=" in strategy.text:
        return 0.0
    return 0.4 if numbers else 1.0
