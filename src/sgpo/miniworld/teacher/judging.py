"""How the teacher rates strategies: by the four criteria, from the problem and the text alone, and not quite reliably.

Like any judge it is not told which kind a strategy is. It compares type, principle and steps with the ways of the
problem's family, whatever their wording, looks for numbers and for the answer in words, and errs: `NOISE` is added to
each criterion.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from sgpo.miniworld.cards import Recognised, named_by_principle, named_by_steps
from sgpo.miniworld.families import FAMILIES
from sgpo.miniworld.families.puzzles import Family, Puzzle, Rule, State, Way, right_decisions, valid_options
from sgpo.miniworld.numerals import number_in_words
from sgpo.miniworld.solutions import OPTION_OF
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
    family = FAMILIES[puzzle.family]
    found = named_by_principle(family, strategy.strategy)
    if found:
        return 1.0 if _are_routes(family, found.ways) else 0.0
    return 0.0 if _elsewhere(named_by_principle, strategy.strategy) else 0.3


def _steps(puzzle: Puzzle, strategy: Strategy) -> float:
    """1 for the rules of a route and nothing else; half of it with more, or for the right decisions of this problem.

    Wrong rules get a quarter of the share of decisions that they take rightly, wrong decisions a quarter of those
    before the first wrong one; mere advice gets a fifth.
    """
    family = FAMILIES[puzzle.family]
    found = named_by_steps(family, strategy.steps)
    if found and _are_routes(family, found.ways):
        return 0.5 if found.rest else 1.0
    if found:
        return 0.25 * _share_right(puzzle.start, found.ways[0].rule)
    if _elsewhere(named_by_steps, strategy.steps):
        return 0.0
    words = [re.match(r"[a-z]+", step) for step in strategy.steps]
    options = [OPTION_OF.get(word[0]) for word in words if word]
    if None in options or len(options) < len(words):
        return 0.2
    right, is_finished = right_decisions(puzzle.start, options)
    return 0.5 if is_finished else 0.25 * right / len(options)


def _are_routes(family: Family, ways: tuple[Way, ...]) -> bool:
    return all(way in family.routes for way in ways)


def _elsewhere(named: Callable[[Family, Any], Recognised | None], text: str | tuple[str, ...]) -> Recognised | None:
    """What a text names in any family; that of the problem has been asked before."""
    return next((found for family in FAMILIES.values() if (found := named(family, text))), None)


def _share_right(start: State, rule: Rule) -> float:
    """Of the decisions along a right path, those at which a rule names a valid option."""
    state, agreeing = start, list[bool]()
    while state.answer() is None:
        option, valid = rule(state), valid_options(state)
        agreeing.append(option in valid)
        state = state.moves()[option if option in valid else valid[0]].state
    return sum(agreeing) / len(agreeing)


def _secrecy(puzzle: Puzzle, strategy: Strategy) -> float:
    """The words of a card tell nothing: "one share" is no answer."""
    principle = _elsewhere(named_by_principle, strategy.strategy)
    steps = _elsewhere(named_by_steps, strategy.steps)
    text = f"{principle.rest if principle else strategy.strategy} {steps.rest if steps else ' '.join(strategy.steps)}"
    numbers, answer = set(_NUMBER.findall(text)), str(puzzle.start.truth())
    told = answer in numbers or re.search(rf"\b{number_in_words(int(answer))}\b", text)
    if told or "=" in text:
        return 0.0
    return 0.4 if numbers else 1.0
