"""The verifier judges ordinary answers rightly and survives the others."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from gold_cases import TOWER

from sgpo.verification import (
    Verdict,
    check_gold,
    count_verdicts,
    last_boxed,
    normalise,
    notation,
    pool,
    verify,
    verify_many,
)
from sgpo.verification.answers import depth
from sgpo.verification.notation import Quantity


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{7} or rather \boxed{8}.", "8"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\left\{ 1, 2 \right\}}", r"\left\{ 1, 2 \right\}"),
        (r"\boxed{\{1}", r"\{1"),
        (r"\boxed{x = \boxed{7}}", r"x = \boxed{7}"),
        (r"\boxed{7} and then \boxed{8", "7"),
        (r"a set {1, 2 and \boxed {3}", "3"),
        (r"} \fbox{4}", "4"),
        (r"\boxed 7", None),
        ("no box", None),
        (r"\boxed{" * 50_000, None),
    ],
)
def test_last_balanced_box(text, content):
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        (r" $\dfrac{1}{2}$. ", r"\frac{1}{2}"),
        (r"$\dfrac{1}{2}$", r"\frac{1}{2}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"1,\!234", "1,234"),
        (r"\text{Monday}", "Monday"),
        ("1 2", "1 2"),
        (r"2 \pi r", r"2\pi r"),
        ("x + 1", "x+1"),
        ("0.333...", "0.333..."),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\leftarrow", r"\leftarrow"),
    ],
)
def test_normalise(answer, normalised):
    assert normalise(answer) == normalised


@pytest.mark.parametrize(
    ("answer", "gold", "status"),
    [
        ("204", r"\boxed{204}", "correct"),
        ("-7", "\N{MINUS SIGN}7", "correct"),
        ("007", "7", "correct"),
        ("2.50", "2.5", "correct"),
        (".5", "0.5", "correct"),
        ("1,234", "1234", "correct"),
        (r"12{,}345", "12345", "correct"),
        (r"1\,000\,000", "1000000", "correct"),
        ("8", "7", "wrong"),
        ("0.3333333333333333", "0.3333333333333334", "wrong"),
        ("9" * 500, "9" * 499 + "8", "wrong"),
        ("9" * 501, "9" * 501, "unparsed"),
        (" ", "7", "unparsed"),
    ],
)
def test_text_and_numbers_need_no_process(monkeypatch, answer, gold, status):
    def refuse(*_):
        raise AssertionError("a process was asked")

    monkeypatch.setattr(pool, "ask", refuse)
    assert verify(rf"\boxed{{{answer}}}", gold).status == status


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("5 cm", "5 m"),
        (r"5\text{ cm}", r"5\text{ m}"),
        (r"15\text{ cm}", r"15\mbox{ cm}^2"),
        (r"60\text{ miles per hour}", r"60\text{ km/h}"),
        (r"18.90\text{ cents}", r"\$18.90"),
        (r"3\text{ am}", r"3\text{ pm}"),
        ("204_6", "204_{5}"),
        ("(1,2)", r"\{1,2\}"),
        (r"\left[1,2\right)", "(1,2)"),
        ("(3, 4)", "(3,4]"),
    ],
)
def test_what_math_verify_would_drop_needs_no_process(monkeypatch, answer, gold):
    monkeypatch.setattr(pool, "ask", lambda *_: pytest.fail("a process was asked"))
    assert verify(rf"\boxed{{{answer}}}", gold).status == "wrong"


@pytest.mark.parametrize(
    ("answer", "quantity"),
    [
        (r"15\mbox{ cm}^2", Quantity("15", "cm", (("cm", 2),), certain=True)),
        ("15 cm^{3}", Quantity("15", "cm", (("cm", 3),))),
        (r"60\text{ miles per hour}", Quantity("60", "miles per hour", (("mi", 1), ("h", -1)), certain=True)),
        ("60 mph", Quantity("60", "mph", (("mi", 1), ("h", -1)))),
        (r"7\text{ square feet}", Quantity("7", "square feet", (("ft", 2),), certain=True)),
        (r"12\text{ marbles}", Quantity("12", "marbles", None, certain=True)),
        ("12 inches", Quantity("12", "inches", (("in", 1),), certain=True)),
        (r"\frac{1}{2}^\circ", Quantity(r"\frac{1}{2}", "degree", (("degree", 1),), certain=True)),
        (r"\$18.90", Quantity("18.90", "dollar", (("dollar", 1),), certain=True)),
        (r"12\pi", Quantity(r"12\pi")),
        ("2 g h", Quantity("2", "g h", None)),
        ("x m", Quantity("x m")),
        (r"\text{even}", Quantity(r"\text{even}")),
    ],
)
def test_quantities(answer, quantity):
    assert notation.quantity(answer) == quantity


@pytest.mark.parametrize(("text", "deepest"), [("7", 0), (r"\frac{1}{(2)}", 2), ("((1)", 2), (r"\{(1,2)\}", 2)])
def test_depth(text, deepest):
    assert depth(text) == deepest


def test_deeply_nested_answers_need_no_process(monkeypatch):
    monkeypatch.setattr(pool, "ask", lambda *_: pytest.fail("a process was asked"))
    assert verify(r"\boxed{" + "(" * 21 + "7" + ")" * 21 + "}", "7").status == "unparsed"
    assert not check_gold("{" * 21 + "7" + "}" * 21)
    assert not check_gold("x" * 501)


def test_only_what_follows_the_last_think_tag_is_judged():
    response = r"<think> \boxed{7} </think> no: \boxed{7} </think> \boxed{8}"
    assert verify(response, "8").correct
    assert verify(r"<think> \boxed{7} </think> so seven", "7") == Verdict("unparsed", None)
    assert verify(r"<think> \boxed{7} </think> so seven", "7", after_think=False).correct
    assert verify(r"<think> \boxed{7}", "7").correct  # no tag stands


def test_verdicts_are_counted():
    pairs = [(r"\boxed{7}", "7"), (r"\boxed{8}", "7"), ("8", "7"), (rf"\boxed{{{TOWER}}}", "7")]
    with count_verdicts() as outer:
        with count_verdicts() as inner:
            verify_many(pairs, timeout=0.5)
        asyncio.run(asyncio.to_thread(verify, *pairs[0]))
    verify(*pairs[0])
    assert inner.as_dict() == {"correct": 1, "wrong": 1, "unparsed": 1, "timeout": 1}
    assert outer.as_dict() == {"correct": 2, "wrong": 1, "unparsed": 1, "timeout": 1}
    assert (outer.total, outer["correct"], outer.shares()["timeout"]) == (5, 2, 0.2)


@pytest.mark.parametrize(
    ("answer", "gold", "status"),
    [
        ("0.5", r"\frac{1}{2}", "correct"),
        ("0.333333", r"\frac{1}{3}", "correct"),
        ("0.33333", r"\frac{1}{3}", "wrong"),
        ("0.000333", r"\frac{1}{3000}", "wrong"),
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", "wrong"),
        (r"\frac{x}{2^{99}}", r"\frac{x}{2^{98}}", "wrong"),
        (r"\frac{x}{2^{98}}", r"\frac{2x}{2^{99}}", "correct"),
        (r"(1, 2^{-99})", r"(1, 2^{-98})", "wrong"),
        (r"m\in[\sqrt2,\infty)", r"m\ge\sqrt2", "correct"),
        (r"m\ge\sqrt2", r"m\in[\sqrt2,\infty)", "correct"),
        (r"m>\sqrt2", r"m\in[\sqrt2,\infty)", "wrong"),
        (r"\frac{2}{4}", r"\frac12", "correct"),
        ("x=3", "3", "correct"),
        (r"\{2, 1\}", r"\{1, 2\}", "correct"),
        (r"\sqrt{8}", r"2\sqrt{2}", "correct"),
        ("p - q", "q - p", "wrong"),
        (r"\frac{1}{3}", r"\frac{1}{2}", "wrong"),
        (r"(2, 1)", "(1, 2)", "wrong"),
        ("1 2", "12", "wrong"),
        (r"\frac{}{}", "3", "unparsed"),
        ("__import__('os').abort()", "3", "unparsed"),
        ("\x00\x1b[2J", "3", "unparsed"),
    ],
)
def test_math_verify_decides_the_rest(answer, gold, status):
    assert verify(rf"\boxed{{{answer}}}", gold) == Verdict(status, answer)


def test_two_boxes_are_not_a_set():
    assert verify(r"\boxed{7} ... no, \boxed{\frac{16}{2}}", "8").correct
    assert verify(r"\boxed{8} ... no, \boxed{\frac{14}{2}}", "8").status == "wrong"


def test_bare_latex_golds_are_wrapped():
    # Bare, Math-Verify parses none of these to what its boxed form means.
    golds = [r"\frac{\pi}{2}", r"(-\infty, 3) \cup (5, \infty)", r"3\sqrt{13}", r"x^2 + 2x + 1"]
    rewritten = [r"\pi/2", r"(-\infty, 3) \cup (5, \infty) ", r"\sqrt{117}", "(x+1)^2"]
    pairs = [(rf"\boxed{{{text}}}", gold) for text, gold in zip(rewritten, golds, strict=True)]
    assert [verdict.status for verdict in verify_many(pairs)] == ["correct"] * 4


def test_hanging_answer_times_out_and_the_next_is_judged():
    start = time.monotonic()
    verdicts = verify_many(
        [(rf"\boxed{{{TOWER}}}", "4"), (r"\boxed{\frac{1}{2}}", "0.5"), (rf"\boxed{{{TOWER}}}", "5")],
        timeout=2,
    )
    assert [verdict.status for verdict in verdicts] == ["timeout", "correct", "timeout"]
    assert verify(r"\boxed{\frac{3}{4}}", "0.75").correct
    assert time.monotonic() - start < 15


def test_order_is_kept():
    pairs = [(rf"\boxed{{\frac{{{2 * n}}}{{2}}}}", str(n + n % 2)) for n in range(20)]
    expected = ["correct", "wrong"] * 10
    assert [verdict.status for verdict in verify_many(pairs)] == expected
    assert verify_many([]) == []


def test_golds_are_checked():
    assert check_gold("7")
    assert check_gold(r"\left( 3, \frac{\pi}{2} \right)")
    assert not check_gold("}{")
    assert not check_gold(" ")
    with pytest.raises(ValueError, match=r"gold answer '}{' cannot be parsed"):
        verify(r"\boxed{x+1}", "}{")
    with pytest.raises(ValueError, match="is empty"):
        verify(r"\boxed{7}", " ")
    with pytest.raises(ValueError, match="timeout must be a positive"):
        verify(r"\boxed{7}", "7", timeout=0)


def test_a_killed_verification_process_raises_and_is_replaced():
    assert verify(r"\boxed{\frac12}", "0.5").correct
    server = pool._server
    assert server is not None
    asked = pool.ask("judge", ("4", TOWER), 60)
    os.kill(server.process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="the verification process ended"):
        asked.result(timeout=10)
    assert verify(r"\boxed{\frac12}", "0.5").correct
