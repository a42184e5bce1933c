"""Computations in the integers from -99 to 99, so small that a tiny model can know them by heart."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

LIMIT = 99
ARITHMETIC: dict[str, tuple[str, Callable[[int, int], int | None]]] = {
    "add": ("+", lambda a, b: a + b),
    "subtract": ("-", lambda a, b: a - b),
    "multiply": ("*", lambda a, b: a * b),
    "divide": ("/", lambda a, b: a // b if b and a % b == 0 else None),
}
INVERSE = {"add": "subtract", "subtract": "add", "multiply": "divide", "divide": "multiply"}
CONFUSED = {"add": "multiply", "subtract": "divide", "multiply": "add", "divide": "subtract"}  # sums for products
SUMS, PRODUCTS = ("add", "subtract"), ("multiply", "divide")
SYMBOL = {method: symbol for method, (symbol, _) in ARITHMETIC.items()}
SYMBOL_METHOD = {symbol: method for method, symbol in SYMBOL.items()}


def compute(method: str, a: int, b: int) -> int | None:
    """a (method) b, or None where it leaves the integers from -99 to 99."""
    value = ARITHMETIC[method][1](a, b)
    return value if value is not None and abs(value) <= LIMIT else None


def exact(method: str, a: Fraction, b: Fraction | int) -> Fraction | None:
    """a (method) b without limits; None for a division by zero."""
    if method in SUMS:
        return a + b if method == "add" else a - b
    if method == "multiply":
        return a * b
    return a / b if b else None


def written(method: str, a: int, b: int) -> str | None:
    """``24/4=6``; a negative second number stands in parentheses. None where `compute` has none."""
    value = compute(method, a, b)
    return None if value is None else f"{a}{SYMBOL[method]}{bracketed(b)}={value}"


def result_in(computation: str) -> int:
    """6 of ``24/4=6``."""
    return int(computation.rpartition("=")[2])


def bracketed(number: int) -> str:
    return f"({number})" if number < 0 else str(number)


def fused(first: str, second: str) -> str | None:
    """Two computations in one: ``24/4=6`` and ``6-3=3`` give ``24/4-3=3``.

    None where the second does not start with the first's result.
    """
    term, result = first.split("=")
    rest, value = second.split("=")
    if not rest.startswith(result) or rest[len(result)] in "0123456789":
        return None
    rest = rest[len(result) :]
    return f"({term}){rest}={value}" if _is_sum(term) and rest[0] in "*/" else f"{term}{rest}={value}"


def _is_sum(term: str) -> bool:
    """Whether a sign of a sum stands outside all parentheses."""
    depth = 0
    for before, character in pairwise(term):
        depth += (before == "(") - (before == ")")
        if depth == 0 and character in "+-" and before not in "+-*/(":
            return True
    return False


_EQUALITY = re.compile(r"(?<![\w)*/+^-])([-(]*\d[-+*/()\d]*[-+*/][-+*/()\d]*[\d)])=(-?\d+)")
_OPERATORS = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide"}


def equalities(text: str) -> list[tuple[str, int]]:
    """Every ``term=number`` of a text."""
    return [(term, int(value)) for term, value in _EQUALITY.findall(text)]


def is_true(term: str, value: int) -> bool:
    """Whether a term of an equality has this value, in exact arithmetic."""
    try:
        return _value(ast.parse(term, mode="eval").body) == value
    except (SyntaxError, ValueError, ZeroDivisionError):
        return False


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        result = exact(_OPERATORS[type(node.op)], _value(node.left), _value(node.right))
        if result is None:
            raise ZeroDivisionError
        return result
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Fraction(node.value)
    raise ValueError(f"{ast.unparse(node)} is no term")


def valid_computations(response: str) -> bool:
    """Whether every equality of a response is true, whatever methods it chose."""
    return all(is_true(term, value) for term, value in equalities(response))
