"""Series and tank: steps that are repeated.

Two routes: *jump* over equal steps at once, or *walk* them one by one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from sgpo.miniworld.families.arithmetic import INVERSE, SUMS, exact, result_in, written
from sgpo.miniworld.families.puzzles import Family, Move, Puzzle, State, Way, works_out

Segment = tuple[int, str, int]  # how many times, method, operand


@dataclass(frozen=True)
class Journey:
    """Where one is, and the segments to come."""

    value: int
    segments: tuple[Segment, ...]

    def answer(self) -> int | None:
        return None if self.segments else self.value

    def truth(self) -> Fraction | None:
        value: Fraction | None = Fraction(self.value)
        for count, method, operand in self.segments:
            for _ in range(count):
                value = None if value is None else exact(method, value, operand)
        return value

    def moves(self) -> Mapping[str, Move]:
        count, method, operand = self.segments[0]
        candidates = {
            "jump": self._jump(count, method, operand),
            "walk": self._walk(count, method, operand),
            "once": self._walk(1, method, operand),
            "back": self._walk(count, INVERSE[method], operand),
            "total": self._total(count, method, operand),
        }
        return {name: self._move(parts) for name, parts in candidates.items() if parts}

    def _move(self, computations: tuple[str, ...]) -> Move:
        return Move(computations, Journey(result_in(computations[-1]), self.segments[1:]))

    def _jump(self, count: int, method: str, operand: int) -> tuple[str, ...] | None:
        """The steps together, then on the value: 3 times plus 4 is plus 12, twice times 3 is times 9."""
        if method in SUMS:
            return self._by_way_of(written("multiply", operand, count), method)
        return self._by_way_of(written("multiply", operand, operand), method) if count == 2 else None

    def _total(self, count: int, method: str, operand: int) -> tuple[str, ...] | None:
        return self._by_way_of(written("add", operand, count), method)

    def _by_way_of(self, together: str | None, method: str) -> tuple[str, ...] | None:
        if together is None:
            return None
        applied = written(method, self.value, result_in(together))
        return (together, applied) if applied else None

    def _walk(self, count: int, method: str, operand: int) -> tuple[str, ...] | None:
        value, computations = self.value, list[str]()
        for _ in range(count):
            computation = written(method, value, operand)
            if computation is None:
                return None
            computations.append(computation)
            value = result_in(computation)
        return tuple(computations)


def jump(state: State) -> str:
    return "jump"


def walk(state: State) -> str:
    return "walk"


def once(state: State) -> str:
    return "once"


def back(state: State) -> str:
    return "back"


def total(state: State) -> str:
    return "total"


def is_product(state: State) -> bool:
    return _next_method(state) not in SUMS


def goes_down(state: State) -> bool:
    return _next_method(state) == "subtract"


def _next_method(state: State) -> str:
    assert isinstance(state, Journey)
    return state.segments[0][1]


SERIES_WORDS = {"add": "up", "subtract": "down", "multiply": "times", "divide": "over"}
TANK_WORDS = {"add": "in", "subtract": "out"}


def _sampled(rng: random.Random, depth: int, methods: tuple[str, ...]) -> Journey:
    while True:
        segments = []
        for _ in range(depth):
            method = rng.choice(methods)
            is_sum = method in SUMS
            segments.append(
                (rng.randint(2, 3) if is_sum else 2, method, rng.randint(2, 12) if is_sum else rng.randint(2, 3))
            )
        state = Journey(rng.randint(1, 40), tuple(segments))
        if works_out(state) and (state.truth() or 0) >= 0:
            return state


def sample_series(rng: random.Random, depth: int) -> Puzzle:
    state = _sampled(rng, depth, ("add", "subtract", "add", "subtract", "multiply", "divide"))
    return Puzzle("series", series_text(state.value, state.segments), state)


def series_text(start: int | str, segments: tuple[Segment, ...]) -> str:
    parts = ", ".join(f"{count} steps {SERIES_WORDS[method]} {operand}" for count, method, operand in segments)
    return f"From {start}: {parts}. Where?"


_SERIES = re.compile(r"From (?P<start>\d+): (?P<segments>.+)\. Where\?")
_SERIES_METHODS = {word: method for method, word in SERIES_WORDS.items()}


def read_series(text: str) -> State | None:
    found = _SERIES.fullmatch(text)
    return found and _read_segments(found, r"(?P<count>\d+) steps (?P<word>\w+) (?P<operand>\d+)", _SERIES_METHODS)


def sample_tank(rng: random.Random, depth: int) -> Puzzle:
    state = _sampled(rng, depth, SUMS)
    parts = ", ".join(f"{count} cups of {operand} {TANK_WORDS[method]}" for count, method, operand in state.segments)
    return Puzzle("tank", f"A tank holds {state.value}: {parts}. How full?", state)


_TANK = re.compile(r"A tank holds (?P<start>\d+): (?P<segments>.+)\. How full\?")
_TANK_METHODS = {word: method for method, word in TANK_WORDS.items()}


def read_tank(text: str) -> State | None:
    found = _TANK.fullmatch(text)
    return found and _read_segments(found, r"(?P<count>\d+) cups of (?P<operand>\d+) (?P<word>\w+)", _TANK_METHODS)


def _read_segments(found: re.Match[str], pattern: str, methods: Mapping[str, str]) -> Journey | None:
    segments: list[Segment] = []
    for part in found["segments"].split(", "):
        read = re.fullmatch(pattern, part)
        if read is None or read["word"] not in methods:
            return None
        segments.append((int(read["count"]), methods[read["word"]], int(read["operand"])))
    return Journey(int(found["start"]), tuple(segments))


FAMILIES = (
    Family(
        "series",
        "steps that repeat",
        sample_series,
        read_series,
        (
            Way(
                "jump",
                jump,
                "{jump|leap} over equal steps {at once|together}",
                ("{see|find} what equal steps make {at once|together}", "{apply|use} it to where you are"),
            ),
            Way(
                "walk",
                walk,
                "{walk|take} equal steps one {by|after} one",
                ("{make|do} one step", "{make|do} the next one until all are {done|made}"),
            ),
        ),
        (
            Way(
                "once",
                once,
                "{make|do} each kind of step a single time",
                ("{make|do} one step", "{leave|skip} the others of its kind"),
            ),
            Way(
                "total",
                total,
                "{see|find} the total of a step and its {count|number}",
                ("{see|find} the total", "{apply|use} it to where you are"),
            ),
            Way(
                "back",
                back,
                "{turn|go} round and {make|do} the steps in reverse",
                ("{make|do} one step in reverse", "{make|do} the next one until all are {done|made}"),
            ),
        ),
        skill=0.72,
        hard_skill=0.12,
        is_hard=is_product,
        fidelity=0.89,
    ),
    Family(
        "tank",
        "a tank that is filled",
        sample_tank,
        read_tank,
        (
            Way(
                "jump",
                jump,
                "{put|pour} equal cups {at once|together}",
                ("{see|find} what equal cups make {at once|together}", "{apply|use} it to the tank"),
            ),
            Way(
                "walk",
                walk,
                "{put|pour} equal cups one {by|after} one",
                ("{put|pour} one cup", "{put|pour} the next one until all are {done|poured}"),
            ),
        ),
        (
            Way(
                "once",
                once,
                "{put|pour} one cup of each kind",
                ("{put|pour} one cup", "{leave|skip} the others of its kind"),
            ),
            Way(
                "back",
                back,
                "{turn|change} what comes in into what goes out",
                ("{put|pour} one cup in reverse", "{put|pour} the next one until all are {done|poured}"),
            ),
        ),
        skill=0.75,
        hard_skill=0.35,
        is_hard=goes_down,
        fidelity=0.87,
    ),
)
