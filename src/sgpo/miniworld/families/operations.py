"""Operations in a row, such as +3 then *4, and making rows of them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from fractions import Fraction

from sgpo.miniworld.families.arithmetic import ARITHMETIC, INVERSE, LIMIT, PRODUCTS, SUMS, compute

Operation = tuple[str, int]  # method and operand


def forward_operations(rng: random.Random, count: int, start: int) -> tuple[list[Operation], int]:
    """`count` operations on `start` that keep the value within 1..99, and the value they end at.

    Neighbours are never the same operation nor each other's inverse (x+3+4, x+3-3): each is a decision of its own.
    """
    while True:
        operations, value = list[Operation](), start
        while len(operations) < count:
            last = operations[-1][0] if operations else ""
            possible = [m for m in ARITHMETIC if m not in (last, INVERSE.get(last))]
            method = rng.choice(possible)
            operand = rng.randint(2, 9) if method in PRODUCTS else rng.randint(1, 20)
            if method == "divide":
                operand = rng.choice([n for n in range(2, 10) if value % n == 0] or [0])
            result = compute(method, value, operand)
            if result is None or result <= 0:
                break
            operations.append((method, operand))
            value = result
        if len(operations) == count:
            return operations, value


def free_operations(rng: random.Random, count: int, start: int) -> tuple[list[Operation], int] | None:
    """`count` operations from `start` to a value within 1..99, whatever lies between: some routes may be blocked.

    None where a draw does not end there.
    """
    operations: list[Operation] = []
    value: int | Fraction = start
    for _ in range(count):
        last = operations[-1] if operations else ("", 0)
        method = rng.choice(tuple(ARITHMETIC))
        operand = rng.randint(2, 9) if method in PRODUCTS else rng.randint(1, 20)
        if (INVERSE.get(method), operand) == last:
            return None
        operations.append((method, operand))
        value = _applied(method, value, operand)
    return (operations, int(value)) if value.denominator == 1 and 0 < value <= LIMIT else None


def _applied(method: str, value: int | Fraction, operand: int) -> int | Fraction:
    """As `exact`, for operands other than zero; whole numbers stay integers, which are much faster."""
    if method in SUMS:
        return value + operand if method == "add" else value - operand
    if method == "multiply":
        return value * operand
    return value // operand if isinstance(value, int) and value % operand == 0 else Fraction(value) / operand


def leaves_integers(operations: Iterable[Operation], start: int) -> bool:
    """Whether operations in a row on `start` leave the integers from -99 to 99."""
    value = start
    for method, operand in operations:
        result = compute(method, value, operand)
        if result is None:
            return True
        value = result
    return False
