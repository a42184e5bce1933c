"""Two equations with two unknowns.

Two routes: *eliminate* y by adding or subtracting the equations, or *insert* the first, solved for x, into the second.
What is found is put into one of the equations where the other unknown is asked.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from sgpo.miniworld.families.arithmetic import ARITHMETIC, INVERSE, SUMS, result_in, written
from sgpo.miniworld.families.puzzles import Family, Move, Puzzle, State, Way, works_out

Equation = tuple[int, int, int]  # a, b, c of a*x + b*y = c


@dataclass(frozen=True)
class System:
    """Two equations, nothing done yet; ``asked`` is x or y."""

    equations: tuple[Equation, Equation]
    asked: str

    def answer(self) -> int | None:
        return None

    def truth(self) -> Fraction | None:
        (a, b, c), (d, e, f) = self.equations
        determinant = a * e - b * d
        if not determinant:
            return None
        return Fraction(c * e - b * f if self.asked == "x" else a * f - c * d, determinant)

    def moves(self) -> Mapping[str, Move]:
        candidates = {method: self._combined(method) for method in SUMS} | {"insert": self._inserted()}
        return {name: move for name, move in candidates.items() if move}

    def _combined(self, method: str) -> Move | None:
        """As if y fell out, whether it does or not."""
        (a, _, c), (d, _, f) = self.equations
        parts = written(method, a, d), written(method, c, f)
        return self._solved("x", parts)

    def _inserted(self) -> Move | None:
        """x = c - b*y in the second: (e - d*b)*y = f - d*c; only where x stands alone in the first."""
        (a, b, c), (d, e, f) = self.equations
        if a != 1:
            return None
        products = [written("multiply", number, d) for number in (b, c)] if d != 1 else []
        if None in products:
            return None
        return self._solved("y", (*products, written("subtract", e, d * b), written("subtract", f, d * c)))

    def _solved(self, name: str, parts: tuple[str | None, ...]) -> Move | None:
        computations = tuple(part for part in parts if part)
        if len(computations) < len(parts):
            return None
        coefficient, value = (result_in(part) for part in computations[-2:])
        return (
            Move(computations, settled(coefficient, value, name, self.equations, self.asked)) if coefficient else None
        )


@dataclass(frozen=True)
class Single:
    """``coefficient * name = value``."""

    coefficient: int
    value: int
    name: str
    equations: tuple[Equation, Equation]
    asked: str

    def answer(self) -> int | None:
        return None

    def truth(self) -> Fraction | None:
        return _other(Fraction(self.value, self.coefficient), self.name, self.equations[0], self.asked)

    def moves(self) -> Mapping[str, Move]:
        moves = {}
        for method in ARITHMETIC:
            if (computation := written(method, self.value, self.coefficient)) is not None:
                value = result_in(computation)
                moves[method] = Move((computation,), settled(1, value, self.name, self.equations, self.asked))
        return moves


@dataclass(frozen=True)
class Known:
    """``name = value``: the answer, or to be put into an equation for the other unknown."""

    value: int
    name: str
    equations: tuple[Equation, Equation]
    asked: str

    def answer(self) -> int | None:
        return self.value if self.name == self.asked else None

    def truth(self) -> Fraction | None:
        return _other(Fraction(self.value), self.name, self.equations[0], self.asked)

    def moves(self) -> Mapping[str, Move]:
        candidates = {
            name: self._put(equation) for name, equation in zip(("first", "second"), self.equations, strict=True)
        }
        return {name: move for name, move in candidates.items() if move}

    def _put(self, equation: Equation) -> Move | None:
        factor, coefficient = equation[:2] if self.name == "x" else equation[1::-1]
        product = written("multiply", self.value, factor) if factor != 1 else None
        if product is None and factor != 1:
            return None
        difference = written("subtract", equation[2], self.value * factor)
        if difference is None:
            return None
        value = result_in(difference)
        computations = (product, difference) if product else (difference,)
        return Move(computations, settled(coefficient, value, self.asked, self.equations, self.asked))


def settled(coefficient: int, value: int, name: str, equations: tuple[Equation, Equation], asked: str) -> State:
    """A coefficient of 1 needs no decision."""
    if coefficient == 1:
        return Known(value, name, equations, asked)
    return Single(coefficient, value, name, equations, asked)


def _other(value: Fraction, name: str, equation: Equation, asked: str) -> Fraction:
    if name == asked:
        return value
    a, b, c = equation
    return (c - a * value) / b if name == "x" else (c - b * value) / a


def eliminate(state: State) -> str:
    if isinstance(state, System):
        return _falling_out(state)
    return "divide" if isinstance(state, Single) else "first"


def insert(state: State) -> str:
    if isinstance(state, System):
        return "insert" if "insert" in state.moves() else _falling_out(state)
    return "divide" if isinstance(state, Single) else "second"


def swap(state: State) -> str:
    return INVERSE[_falling_out(state)] if isinstance(state, System) else eliminate(state)


def remove(state: State) -> str:
    return "subtract" if isinstance(state, Single) else eliminate(state)


def subtracts(state: State) -> bool:
    return isinstance(state, System) and _falling_out(state) == "subtract"


def _falling_out(system: System) -> str:
    (_, b, _), (_, e, _) = system.equations
    return "subtract" if b == e else "add"


def sample_systems(rng: random.Random, depth: int) -> Puzzle:
    """Of 2 to 4 decisions: x asked; y asked with coefficient 1; y asked with a larger one."""
    while True:
        x, y = rng.randint(1, 12), rng.randint(1, 12)
        size = 1 if depth == 3 else rng.randint(2, 3)
        b, e = size, rng.choice((size, -size))
        a, d = (rng.randint(1, 4) if rng.random() < 0.4 else 1), rng.randint(1, 4)
        c, f = a * x + b * y, d * x + e * y
        state = System(((a, b, c), (d, e, f)), "x" if depth <= 2 else "y")
        if a != d and 0 < c <= 60 and 0 < f <= 60 and works_out(state):
            return Puzzle("systems", f"{_written((a, b, c))}, {_written((d, e, f))}. {state.asked}?", state)


def _written(equation: Equation) -> str:
    a, b, c = equation
    return f"{_term(a, 'x')}{'+' if b > 0 else '-'}{_term(abs(b), 'y')}={c}"


def _term(coefficient: int, name: str) -> str:
    return name if coefficient == 1 else f"{coefficient}{name}"


_SYSTEM = re.compile(r"(\d*)x([+-]\d*)y=(\d+), (\d*)x([+-]\d*)y=(\d+)\. ([xy])\?")


def read_systems(text: str) -> State | None:
    if not (found := _SYSTEM.fullmatch(text)):
        return None
    a, b, c, d, e, f = (_coefficient(part) for part in found.groups()[:6])
    return System(((a, b, c), (d, e, f)), found[7])


def _coefficient(text: str) -> int:
    return int(f"{text}1") if text in ("", "+", "-") else int(text)


FAMILIES = (
    Family(
        "systems",
        "two equations with two unknowns",
        sample_systems,
        read_systems,
        (
            Way(
                "eliminate",
                eliminate,
                "{let|make} y {vanish|disappear} between the equations",
                (
                    "{compare|check} the signs of y: subtract if equal, add if not",
                    "divide, then {put|use} it in the first",
                ),
            ),
            Way(
                "insert",
                insert,
                "{solve|rearrange} the first for x and {insert|plug} it into the second",
                ("{insert|plug} it if x is alone", "divide, then {put|use} it in the second"),
            ),
        ),
        (
            Way(
                "swap",
                swap,
                "{let|make} y {double|pile} up between the equations",
                (
                    "{compare|check} the signs of y: add if equal, subtract if not",
                    "divide, then {put|use} it in the first",
                ),
            ),
            Way(
                "remove",
                remove,
                "{let|make} y {vanish|disappear}, then {remove|drop} the factor",
                (
                    "{compare|check} the signs of y: subtract if equal, add if not",
                    "subtract the factor, then {put|use} it in the first",
                ),
            ),
        ),
        skill=0.85,
        hard_skill=0.45,
        is_hard=subtracts,
        fidelity=0.65,
    ),
)
