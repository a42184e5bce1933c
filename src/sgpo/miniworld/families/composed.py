"""Two puzzles in a row: the answer of the first is the number that the second starts with."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from sgpo.miniworld.families.chains import Chain, powers_text
from sgpo.miniworld.families.linear import sample_equation, sample_story
from sgpo.miniworld.families.operations import forward_operations
from sgpo.miniworld.families.puzzles import Move, Puzzle, State, works_out
from sgpo.miniworld.families.series import Journey, sample_series, series_text


@dataclass(frozen=True)
class Composed:
    """The first puzzle's state; the second's waits for its starting value."""

    first: State
    second: Chain | Journey

    def answer(self) -> int | None:
        return None

    def truth(self) -> Fraction | None:
        value = self.first.truth()
        if value is None or value.denominator != 1:
            return None
        return replace(self.second, value=int(value)).truth()

    def moves(self) -> Mapping[str, Move]:
        return {name: Move(move.computations, self._led_to(move.state)) for name, move in self.first.moves().items()}

    def _led_to(self, state: State) -> State:
        value = state.answer()
        return Composed(state, self.second) if value is None else replace(self.second, value=value)


def sample_composed(rng: random.Random, depths: tuple[int, int]) -> Puzzle:
    """A puzzle of two families, made with `depths` operations and segments."""
    while True:
        first = rng.choice((sample_equation, sample_story))(rng, depths[0])
        value = first.start.truth()
        second, text = rng.choice((_powers, _series))(rng, depths[1], int(value or 0))
        state = Composed(first.start, second)
        if works_out(state):
            then = "powers" if isinstance(second, Chain) else "series"
            return Puzzle(first.family, f"{_stated(first.text)} {text}", state, then)


def _stated(text: str) -> str:
    """The first problem as what is given about x, in words that pretraining has."""
    return f"{text}." if text.endswith(tuple("0123456789")) else f"{text.removesuffix('?')} is x."


def _powers(rng: random.Random, depth: int, start: int) -> tuple[Chain, str]:
    operations, _ = forward_operations(rng, depth, start)
    return Chain(0, tuple(operations)), powers_text("a^x", operations)


def _series(rng: random.Random, depth: int, start: int) -> tuple[Journey, str]:
    state = sample_series(rng, depth).start
    assert isinstance(state, Journey)
    return replace(state, value=0), series_text("x", state.segments)
