"""What Math-Verify and SymPy take for the same although it is not, by chance or always, is wrong."""

from __future__ import annotations

import pytest
import sympy
from math_verify import grader
from sympy.core.cache import clear_cache

from sgpo.verification import worker


@pytest.fixture
def simplification_errs(monkeypatch):
    """SymPy calls every difference zero."""
    monkeypatch.setattr(worker, "_equal_when_simplified", lambda *_: True)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_infinite_difference_is_not_zero_in_any_order(sign):
    clear_cache()
    difference = sympy.Add(sympy.Rational(14, 3), sympy.Mul(sign, 9, sympy.oo, evaluate=False), evaluate=False)
    signs = [difference.is_extended_positive, difference.is_extended_negative]
    assert difference.is_zero is False  # SymPy alone: True after these questions
    assert signs != [False, False]


def test_infinity_is_wrong_whatever_the_random_state(monkeypatch):
    verdicts = set()
    for seed in range(300):  # SymPy alone: about one in thirty is correct
        clear_cache()
        monkeypatch.setattr(worker, "SEED", seed)
        verdicts.add(worker.judge(r"3\sqrt{13}", r"inf\cdot 9"))
    assert verdicts == {"wrong"}


def test_the_random_state_is_the_same_for_each_comparison():
    states = []
    for seed in (1, 2):
        sympy.core.random.seed(seed)
        worker.judge(r"\frac{14}{3}", r"inf\cdot 9")
        states.append(sympy.core.random.rng.getstate())
    assert states[0] == states[1]


@pytest.mark.usefixtures("simplification_errs")
@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{14}{3}", r"inf\cdot 9"),
        (r"\frac{14}{3}", r"-\infty\cdot 9"),
        (r"9\cdot\infty", r"-9\cdot\infty"),
        (r"3\sqrt{13}", r"\infty-\infty"),
        (r"3\sqrt{13}", r"3\sqrt{14}"),
        ("x+1", "x+2"),
    ],
)
def test_what_simplification_calls_equal_is_confirmed_by_the_values(gold, answer):
    assert worker.judge(gold, answer) == "wrong"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\infty", r"9\cdot\infty"),
        (r"\sin^2 x + \cos^2 x", "1"),
        ("5x+7", r"\frac{25x^2-49}{5x-7}"),  # 0/0 at the point where values are compared
    ],
)
def test_equal_expressions_stay_correct(gold, answer):
    assert worker.judge(gold, answer) == "correct"


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("x^2=-1", "x^2=-4", "wrong"),
        ("x^2+y^2=-1", "y=3+y", "wrong"),
        ("e^x=0", "e^x=-1", "wrong"),
        ("x^2=-1", "3x^2=-3", "correct"),
        ("x^2=-1", "-x^2-1=0", "correct"),
        ("x+2y=3", "2x+4y=6", "correct"),
        ("x+2y=3", "2x+4y=7", "wrong"),
    ],
)
def test_equations_without_solutions_are_not_all_the_same(gold, answer, verdict):
    assert worker.judge(gold, answer) == verdict


def test_math_verify_uses_these_comparisons():
    assert grader.sympy_symbolic_eq is worker._equal_as_expressions
    assert grader.sympy_numeric_eq is worker._equal_as_numbers
