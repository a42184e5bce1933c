"""States, moves and rules.

A puzzle is worked on decision by decision. In each state several *options* can be applied; one is *valid* if what
it leads to still has the right answer and can be worked out to it. A *rule* looks at a state and names an option: the
rules of a family's routes name valid ones wherever their computations work out, those of its mistakes mostly do not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Protocol


class State(Hashable, Protocol):
    """What is left of a puzzle. States are immutable and hashable."""

    def answer(self) -> int | None:
        """The answer that stands there, or None while there is something to decide."""

    def truth(self) -> Fraction | None:
        """The answer that exact working leads to; None if there is none."""

    def moves(self) -> Mapping[str, Move]:
        """Every option that works out in the integers from -99 to 99."""


@dataclass(frozen=True)
class Move:
    """An option carried out: what is computed, and the state that it leads to."""

    computations: tuple[str, ...]
    state: State


Rule = Callable[[State], str]


@dataclass(frozen=True)
class Way:
    """A route or a mistake: its rule and the words of its card, with slots of interchangeable words ``{a|b|c}``."""

    name: str
    rule: Rule
    principle: str
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Puzzle:
    """A problem: ``Puzzle("units", "4 B=1 C. ...", Chain(...))``; of a composed one, `then` is the second family."""

    family: str
    text: str
    start: State
    then: str = ""


@dataclass(frozen=True)
class Family:
    """How puzzles of one kind are made and read, the ways to work on them, and how well notebooks do.

    `skill` is the probability that a notebook decides right, `hard_skill` that in states with the family's hard
    feature; `fidelity` is the probability that a worksheet decides as its card says.
    """

    name: str
    problem_type: str
    sample: Callable[[random.Random, int], Puzzle]
    read: Callable[[str], State | None]
    routes: tuple[Way, ...]
    mistakes: tuple[Way, ...]
    skill: float
    hard_skill: float
    is_hard: Callable[[State], bool]
    fidelity: float

    def skill_in(self, state: State) -> float:
        return self.hard_skill if self.is_hard(state) else self.skill


def valid_options(state: State) -> tuple[str, ...]:
    """The options after which the right answer can still be worked out, in the order of `moves`."""
    return _valid(state)


@lru_cache(maxsize=100_000)
def _valid(state: State) -> tuple[str, ...]:
    truth = state.truth()
    return tuple(name for name, move in state.moves().items() if move.state.truth() == truth and _ends(move.state))


@lru_cache(maxsize=100_000)
def _ends(state: State) -> bool:
    """Whether some way of right options works out to the end."""
    if state.answer() is not None:
        return True
    truth = state.truth()
    return any(move.state.truth() == truth and _ends(move.state) for move in state.moves().values())


def works_out(state: State) -> bool:
    """Whether the right answer can be worked out at all."""
    return state.truth() is not None and _ends(state)


def is_blocked(state: State, rule: Rule) -> bool:
    """Whether a route leaves the integers from -99 to 99 somewhere, so that something else must be done there."""
    while state.answer() is None:
        option = rule(state)
        if option not in valid_options(state):
            return True
        state = state.moves()[option].state
    return False


def has_choice(state: State, rule: Rule | None = None) -> bool:
    """Whether at some decision along the first valid options there are several valid ones."""
    while state.answer() is None:
        options = valid_options(state)
        if len(options) > 1:
            return True
        state = state.moves()[options[0]].state
    return False


def right_decisions(start: State, options: Sequence[str | None]) -> tuple[int, bool]:
    """How many options in a row are valid, and whether they are all and lead to the answer."""
    state = start
    for number, option in enumerate(options):
        if state.answer() is not None or option not in valid_options(state):
            return number, False
        state = state.moves()[option].state
    return len(options), state.answer() is not None


BLOCKED, CHOICE = 0.2, 0.6  # share of puzzles whose first route is blocked somewhere, that have several routes


def any_state(state: State, rule: Rule) -> bool:
    return True


def drawn_condition(rng: random.Random) -> Callable[[State, Rule], bool]:
    """What a puzzle has to fulfil, so that one route only, the other only, and several of them all occur."""
    share = rng.random()
    if share < BLOCKED:
        return is_blocked
    return has_choice if share < BLOCKED + CHOICE else any_state
