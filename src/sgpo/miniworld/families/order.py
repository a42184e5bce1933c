"""Order of operations: products before sums, and which product first where there are two.

At most one `*` and one `/` stand in an expression, so that naming the operation names the place.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from sgpo.miniworld.families.arithmetic import (
    ARITHMETIC,
    PRODUCTS,
    SUMS,
    SYMBOL,
    SYMBOL_METHOD,
    exact,
    result_in,
    written,
)
from sgpo.miniworld.families.puzzles import Family, Move, Puzzle, State, Way, works_out


@dataclass(frozen=True)
class Expression:
    """Numbers and the operations between them."""

    numbers: tuple[int, ...]
    methods: tuple[str, ...]

    def answer(self) -> int | None:
        return None if self.methods else self.numbers[0]

    def truth(self) -> Fraction | None:
        numbers, methods = [Fraction(n) for n in self.numbers], list(self.methods)
        while methods:
            at = next((i for i, m in enumerate(methods) if m in PRODUCTS), 0)
            value = exact(methods[at], numbers[at], numbers[at + 1])
            if value is None:
                return None
            numbers[at : at + 2], methods[at : at + 1] = [value], []
        return numbers[0]

    def moves(self) -> Mapping[str, Move]:
        """By the operation's name; of several sums of one kind the leftmost is carried out."""
        moves = {}
        for method in ARITHMETIC:
            if method in self.methods and (move := self._reduced(method)):
                moves[method] = move
        return moves

    def _reduced(self, method: str) -> Move | None:
        at = self.methods.index(method)
        computation = written(method, self.numbers[at], self.numbers[at + 1])
        if computation is None:
            return None
        value = result_in(computation)
        numbers = (*self.numbers[:at], value, *self.numbers[at + 2 :])
        return Move((computation,), Expression(numbers, self.methods[:at] + self.methods[at + 1 :]))


def write_expression(numbers: tuple[int, ...], methods: tuple[str, ...]) -> str:
    return str(numbers[0]) + "".join(f"{SYMBOL[m]}{n}" for m, n in zip(methods, numbers[1:], strict=True))


def _first(methods: tuple[str, ...], kinds: tuple[str, ...]) -> str | None:
    return next((method for method in methods if method in kinds), None)


def front(state: State) -> str:
    methods = _expression(state).methods
    return _first(methods, PRODUCTS) or methods[0]


def back(state: State) -> str:
    methods = _expression(state).methods
    return _first(methods[::-1], PRODUCTS) or methods[0]


def strictly_left(state: State) -> str:
    return _expression(state).methods[0]


def sums_first(state: State) -> str:
    methods = _expression(state).methods
    return _first(methods, SUMS) or methods[0]


def never(state: State) -> bool:
    return False


def _expression(state: State) -> Expression:
    assert isinstance(state, Expression)
    return state


def sample_order(rng: random.Random, depth: int) -> Puzzle:
    while True:
        methods = tuple(rng.choice(tuple(ARITHMETIC)) for _ in range(depth))
        products = [m for m in methods if m in PRODUCTS]
        if not products or len(set(products)) < len(products) or len(products) == depth:
            continue
        state = Expression(tuple(rng.randint(1, 12) for _ in range(depth + 1)), methods)
        if works_out(state):
            return Puzzle("order", f"Compute {write_expression(state.numbers, methods)}", state)


_ORDER = re.compile(r"Compute (?P<expression>\d+(?:[-+*/]\d+)+)")


def read_order(text: str) -> State | None:
    if not (found := _ORDER.fullmatch(text)):
        return None
    numbers = tuple(int(number) for number in re.findall(r"\d+", found["expression"]))
    return Expression(numbers, tuple(SYMBOL_METHOD[sign] for sign in re.findall(r"[-+*/]", found["expression"])))


FAMILIES = (
    Family(
        "order",
        "order of operations",
        sample_order,
        read_order,
        (
            Way(
                "front",
                front,
                "products and quotients {before|ahead of} sums, the {front|leftmost} one first",
                ("{scan|look} from the left for a product or quotient", "then the sums from the left"),
            ),
            Way(
                "back",
                back,
                "products and quotients {before|ahead of} sums, the {back|rightmost} one first",
                ("{scan|look} from the right for a product or quotient", "then the sums from the left"),
            ),
        ),
        (
            Way(
                "left",
                strictly_left,
                "{strictly|always} from left to right, {whatever|however} it is",
                ("{take|do} the {first|leftmost} sign", "{go|move} on with the next sign"),
            ),
            Way(
                "sums",
                sums_first,
                "sums and differences {before|ahead of} products",
                ("{scan|look} from the left for a sum", "then the products from the left"),
            ),
        ),
        skill=0.70,
        hard_skill=0.70,
        is_hard=never,
        fidelity=0.60,
    ),
)
