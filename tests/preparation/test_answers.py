"""Golds, worked solutions and kinds of answers."""

from __future__ import annotations

import pytest

from sgpo.preparation.answers import kind_of_answer, result_of, split_worked
from sgpo.problems.texts import normalised_text
from sgpo.verification import TIMEOUT, check_gold, pool, verify
from sgpo.verification.judging import _SIMPLE


@pytest.mark.parametrize(
    ("worked", "gold", "result"),
    [
        ("5*2=<<5*2=10>>10\nSo it is ten.", "10", "10"),
        ("It leaves 5 000 000 cars.", "5000000", "5000000"),
        ("It costs $45.00 more.", "45", "45"),
        ("He needs <<4+5=9>>9 reams of 500 sheets.", "3", "500"),
        ("There are none.", "0", None),
    ],
)
def test_result_of_a_worked_solution(worked: str, gold: str, result: str | None) -> None:
    assert result_of(worked, gold) == result


SIMPLE = [
    "7",
    "-0.5",
    r"\frac{1}{2}",
    r"-\dfrac{3}{4}",
    "3/4",
    r"2\sqrt{3}",
    r"\sqrt{3}",
    r"2\pi",
    r"(1, 2\pi)",
    "x = 3",
]


@pytest.mark.parametrize("gold", SIMPLE)
def test_simple_golds_are_readable(gold: str) -> None:
    """They are not asked about, so the verifier must read them, and tell them from others."""
    assert _SIMPLE.fullmatch(gold)
    assert check_gold(gold)
    assert pool.ask("parses", (gold,), TIMEOUT).result() == ("done", True)
    assert verify(f"\\boxed{{{gold}}}", gold).correct


def test_split_worked() -> None:
    assert split_worked("a\nb\n#### 1,234\n") == ("a\nb", "1234")
    assert split_worked("a #### b\nc") is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("1,234", "whole number"),
        ("-0.5", "decimal"),
        ("\\dfrac{1}{2}", "fraction"),
        ("\\text{B}", "letter"),
        ("(1, 2)", "pair, set or interval"),
        ("x = 3", "equation or relation"),
        ("\\text{no solution}", "words"),
        ("2\\sqrt{3}", "formula"),
    ],
)
def test_kinds(answer: str, kind: str) -> None:
    assert kind_of_answer(answer) == kind


def test_texts_that_are_equal() -> None:
    assert normalised_text("Find  $\\dfrac{1}{2} + x$ .") == normalised_text("find \\(\\frac{1}{2}+x\\)")
    assert normalised_text("3 - 4") != normalised_text("3 + 4")
    assert normalised_text("1 2") != normalised_text("12")
