"""Percent: a price that rises and falls by parts of itself.

Two routes: find the *part* and add or subtract it, or count the *shares* that are left together (a fall by 25% leaves
3 of 4).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from sgpo.miniworld.families.arithmetic import INVERSE, LIMIT, SUMS, result_in, written
from sgpo.miniworld.families.puzzles import Family, Move, Puzzle, State, Way, works_out

FRACTIONS = {10: (1, 10), 20: (1, 5), 25: (1, 4), 50: (1, 2), 75: (3, 4), 40: (2, 5)}
Change = tuple[str, int]  # add or subtract, and per cent


@dataclass(frozen=True)
class Price:
    """The present price, the first one, and the changes to come."""

    value: int
    first: int
    changes: tuple[Change, ...]

    def answer(self) -> int | None:
        return None if self.changes else self.value

    def truth(self) -> Fraction | None:
        value = Fraction(self.value)
        for method, percent in self.changes:
            value += (1 if method == "add" else -1) * value * percent / 100
        return value

    def moves(self) -> Mapping[str, Move]:
        method, percent = self.changes[0]
        candidates = {
            "part": self._part(method, percent, self.value),
            "shares": self._shares(method, percent),
            "original": self._part(method, percent, self.first) if self.value != self.first else None,
            "opposite": self._part(INVERSE[method], percent, self.value),
            "points": _computed([written(method, self.value, percent)]),
        }
        return {name: self._move(parts) for name, parts in candidates.items() if parts}

    def _move(self, computations: tuple[str, ...]) -> Move:
        return Move(computations, Price(result_in(computations[-1]), self.first, self.changes[1:]))

    def _part(self, method: str, percent: int, base: int) -> tuple[str, ...] | None:
        share = _share(base, percent)
        return share and _computed([*share, written(method, self.value, result_in(share[-1]))])

    def _shares(self, method: str, percent: int) -> tuple[str, ...] | None:
        numerator, denominator = FRACTIONS[percent]
        left = denominator + (numerator if method == "add" else -numerator)
        one = written("divide", self.value, denominator)
        if one is None or left == 1:
            return (one,) if one else None
        return _computed([one, written("multiply", result_in(one), left)])


def _share(base: int, percent: int) -> tuple[str, ...] | None:
    numerator, denominator = FRACTIONS[percent]
    one = written("divide", base, denominator)
    if one is None or numerator == 1:
        return (one,) if one else None
    return _computed([one, written("multiply", result_in(one), numerator)])


def _computed(computations: list[str | None]) -> tuple[str, ...] | None:
    written_out = tuple(c for c in computations if c is not None)
    return written_out if len(written_out) == len(computations) else None


def part(state: State) -> str:
    return "part"


def shares(state: State) -> str:
    return "shares"


def points(state: State) -> str:
    return "points"


def original(state: State) -> str:
    return "original" if "original" in state.moves() else "part"


def opposite(state: State) -> str:
    return "opposite"


def falls(state: State) -> bool:
    assert isinstance(state, Price)
    return state.changes[0][0] == "subtract"


PRICE_WORDS = {"add": "rises by", "subtract": "falls by"}


def sample_percent(rng: random.Random, depth: int) -> Puzzle:
    while True:
        start = rng.randint(4, 95)
        changes = _changes(rng, depth, start)
        if changes and works_out(state := Price(start, start, changes)):
            return Puzzle("percent", percent_text(start, changes), state)


def _changes(rng: random.Random, depth: int, start: int) -> tuple[Change, ...] | None:
    """Changes that keep the price whole, or None where they lead to a price that has no part."""
    changes, value = list[Change](), start
    for _ in range(depth):
        possible = [
            (method, percent)
            for method in SUMS
            for percent in FRACTIONS
            if value * percent % 100 == 0 and 0 < _changed(value, method, percent) <= LIMIT
        ]
        if not possible:
            return None
        changes.append(rng.choice(possible))
        value = _changed(value, *changes[-1])
    return tuple(changes)


def _changed(value: int, method: str, percent: int) -> int:
    return value + (1 if method == "add" else -1) * value * percent // 100


def percent_text(start: int | str, changes: tuple[Change, ...]) -> str:
    return f"A price of {start} {', '.join(f'{PRICE_WORDS[m]} {p}%' for m, p in changes)}. Price?"


_PERCENT = re.compile(r"A price of (?P<start>\d+) (?P<changes>[a-z].+)\. Price\?")


def read_percent(text: str) -> State | None:
    if not (found := _PERCENT.fullmatch(text)):
        return None
    changes: list[Change] = []
    for change in found["changes"].split(", "):
        read = re.fullmatch(r"(rises|falls) by (\d+)%", change)
        if read is None or int(read[2]) not in FRACTIONS:
            return None
        changes.append(("add" if read[1] == "rises" else "subtract", int(read[2])))
    return Price(int(found["start"]), int(found["start"]), tuple(changes))


FAMILIES = (
    Family(
        "percent",
        "changes by per cent",
        sample_percent,
        read_percent,
        (
            Way(
                "part",
                part,
                "{find|take} the part of the {present|current} price {each|every} time",
                ("{find|take} the part", "{let|have} it {join|leave} the price"),
            ),
            Way(
                "shares",
                shares,
                "{count|tally} the {shares|portions} of the {present|current} price that are there after the change",
                ("{find|take} one {share|portion}", "{count|tally} how many there are"),
            ),
        ),
        (
            Way(
                "points",
                points,
                "{read|take} per cent as {points|units} of the price",
                ("{find|take} the number", "{let|have} it {join|leave} the price"),
            ),
            Way(
                "original",
                original,
                "{find|take} the part of the {original|first} price {each|every} time",
                ("{find|take} the part of the {original|first} price", "{let|have} it {join|leave} the price"),
            ),
            Way(
                "opposite",
                opposite,
                "{read|take} a rise as a fall and a fall as a rise",
                ("{find|take} the part", "{let|have} it go the {other|opposite} way"),
            ),
        ),
        skill=0.75,
        hard_skill=0.38,
        is_hard=falls,
        fidelity=0.87,
    ),
)
