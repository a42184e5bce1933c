"""The structure check and the leak check, on texts worked through by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from sgpo.domains.mathematics.leaks import Leak, find_leaks
from sgpo.domains.mathematics.numbers import mentions, plain, value_of
from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.strategies.record import Limits, Strategy, structure_flaw


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (r"1,234 and 1\,234 and 1{,}234 and 1234", [1234] * 4),
        ("0.5 or .25 or 3/4", ["1/2", "1/4", "3/4"]),
        (r"\frac{1}{2} \dfrac34 \tfrac{12}{5} 2\frac{1}{3}", ["1/2", "3/4", "12/5", "7/3"]),
        ("½ and 1½ and 2 1/2", ["1/2", "3/2", "5/2"]),
        ("twelve, twenty-five, one half, two thirds, a hundred", [12, 25, "1/2", "2/3", 100]),
        ("2^{10} and 10^3 and 5⁴", [1024, 1000, 625]),
        ("x-3 = -3, and (-7)", [3, -3, -7]),
        (r"$\$18$, 45^\circ, 30°", [18, 45, 30]),
        ("tension and weight, often someone", []),
    ],
)
def test_numbers_are_found_however_they_are_written(text: str, values: list[int | str]) -> None:
    assert [mention.values for mention in mentions(plain(text))] == [(Fraction(value),) for value in values]


@pytest.mark.parametrize("text", [r"50\%", "50%", "50 percent", "fifty per cent"])
def test_a_percentage_is_two_numbers(text: str) -> None:
    (mention,) = mentions(plain(text))
    assert mention.values == (Fraction(50), Fraction(1, 2))


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        (r"\frac{3}{4}", Fraction(3, 4)),
        ("2^{10}-1", Fraction(1023)),
        ("1,234", Fraction(1234)),
        (r"\frac{\sqrt{3}}{2}", math.sqrt(3) / 2),
        (r"12\sqrt5", 12 * math.sqrt(5)),
        (r"\frac{1}{2}\pi", math.pi / 2),
        (r"(1+\sqrt{5})/2", (1 + math.sqrt(5)) / 2),
        ("-(2-5)*3", Fraction(9)),
        ("x+1", None),
        ("1/0", None),
        ("9^9^9^9", None),
        ("(1", None),
        (r"\sqrt{-1}", None),
        ("", None),
    ],
)
def test_value_of_a_formula(formula: str, value: Fraction | float | None) -> None:
    assert value_of(formula) == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value)


def leaks(step: str, answer: str = "999983", problem: str = "Find it.", response: str = "") -> list[tuple[str, str]]:
    text = Strategy("a type", "a principle", (step,)).text
    return [(leak.kind, leak.written) for leak in find_leaks(text, problem, answer, response)]


@pytest.mark.parametrize(
    ("answer", "step"),
    [
        ("12", "collect the 12 cases"),
        ("12", "collect the twelve cases"),
        ("1234", "expect about 1,234 of them"),
        ("1234", r"expect $1{,}234$ of them"),
        ("1,234", "expect 1234 of them"),
        (r"\frac{3}{8}", "so the share is 0.375"),
        (r"\frac{3}{8}", "so the share is 3/8"),
        (r"\frac{3}{8}", "so the share is 37.5%"),
        ("0.375", r"so the share is \dfrac{3}{8}"),
        (r"\frac{2}{3}", "it covers two thirds of the area"),
        (r"\frac{2}{3}", "it covers 0.667 of the area"),
        (r"50\%", "so the chance is one half"),
        (r"\boxed{42}", "stop at 42"),
        ("x = 42", "stop at 42"),
        ("42 cm", "stop at 42"),
        ("-17", "which is the negative of 17"),
        (r"12\sqrt{5}", "about 26.83 in length"),
        (r"3\pi", r"the area is $3\pi$"),
        (r"3\pi", "the area is 3π"),
        (r"\frac{\sqrt{3}}{2}", "the sine is sqrt(3)/2"),
        ("x^2+2x", "the polynomial is $x^2 + 2x$"),
        ("(3, 17)", "the second coordinate is 17"),
        ("1024", "which is $2^{10}$"),
        ("4", "the radius is 4"),
        ("4", "the radius is four."),
        ("7", "so that x = 7 (as a check, substitute)"),
        ("the first player", "conclude that the answer is the first player"),
        ("B", "the answer is B"),
    ],
)
def test_the_answer_is_found_however_it_is_written(answer: str, step: str) -> None:
    assert any(kind == "answer" for kind, _ in leaks(step, answer))


@pytest.mark.parametrize(
    ("answer", "step"),
    [
        ("2", "look at the two cases, and square: x^2"),
        ("4", "use all four sides"),
        ("6", "work modulo 6 and divide by 6"),
        (r"\frac{1}{2}", "take half the perimeter"),
        ("12", "reduce modulo 123 and keep 0.12345"),
        ("1", "there is one of them for each"),
        ("even", "look at even and odd numbers"),
        ("B", "compare A with B"),
        (r"\pi", "use the formula for the circle"),
    ],
)
def test_small_numbers_and_common_words_are_no_leak(answer: str, step: str) -> None:
    assert leaks(step, answer) == []


def test_numbers_of_the_problem_do_not_count_unless_they_are_called_the_answer() -> None:
    problem = "A box holds 12 red and twenty-five blue balls, 1/3 of them large."
    assert leaks("treat the 12 red balls and the 25 blue ones alike", "12", problem, "25+12=37") == []
    assert leaks("take a third of 25", "25", problem) == []
    assert leaks("the answer is 12", "12", problem) == [("answer", "12")]
    assert leaks(r"write \boxed{12}", "12", problem) == [("answer", r"\boxed{12}")]


def test_intermediate_results_of_the_response() -> None:
    response = r"First 12+11=23, then $23\cdot 2=46$, so 46-1=45 and 45/5=9. Step 14: done. \boxed{9}"
    problem = "Solve (x*5+1)/2-11=12"
    assert leaks("subtract until 46 is left", "9", problem, response) == [("intermediate", "46")]
    assert leaks("this leaves forty-five", "9", problem, response) == [("intermediate", "forty-five")]
    assert leaks("compare it with 14", "9", problem, response) == []  # only a number of a step
    assert leaks("divide by 5 and subtract 11", "9", problem, response) == []
    assert leaks("angles add up to 180 degrees", "9", problem, "x+y=180") == []


def test_computations_are_found_and_general_formulas_are_not() -> None:
    assert ("computation", "12+11=23") in leaks("compute 12+11=23", problem="12 and 11 and 23")
    assert ("computation", "3 times 4 is 12") in leaks("3 times 4 is 12", problem="3, 4, 12")
    assert leaks("use 1+2+...+n = n(n+1)/2") == []


def test_good_strategies_of_the_mini_world_pass_and_told_answers_do_not() -> None:
    problems = problem_sets(0, Sizes.only(rl=200, test_unseen=50))
    for problem in (*problems["rl"], *problems["test_unseen"]):
        for text in (str(problem.strategy), str(problem.extra["foreign_strategy"])):
            assert find_leaks(text, problem.prompt, problem.answer, str(problem.response)) == [], problem
            told = find_leaks(f"{text}; the answer is {problem.answer}", problem.prompt, problem.answer, "")
            assert [leak.kind for leak in told] == ["answer"], problem


def test_structure() -> None:
    strategy = Strategy("t", "s", ("x", "y"))
    length = len("Problem type: t\nStrategy: s\nSteps: (a) x (b) y")
    assert structure_flaw(strategy, Limits(characters=length, steps=2)) is None
    assert structure_flaw(strategy, Limits(characters=length - 1)) == f"{length} characters, more than {length - 1}"
    assert structure_flaw(strategy, Limits(steps=1)) == "2 steps, more than 1"
    assert structure_flaw(Strategy("t", "s", ()), Limits()) == "there are no steps"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1" * 5000, []),  # no number that anybody leaks
        ("1," * 5000, [(Fraction(1),)] * 5000),
        ("9^" * 2000, [(Fraction(9**9),)] * 1000),
        ("9^" + "9" * 60, [()]),  # is not computed
        ("(" * 5000, []),
        ("\\frac{" * 1000, []),
        ("twenty " * 2000, [(Fraction(20),)] * 2000),
        ("1+" * 3000, [(Fraction(1),)] * 3000),
    ],
    ids=lambda value: value[:8] if isinstance(value, str) else "",
)
def test_hostile_texts_are_read_to_their_end(text: str, numbers: list[tuple[Fraction, ...]]) -> None:
    """In a moment: a pattern that goes back and forth over them, or a power worked out, would take hours."""
    assert [mention.values for mention in mentions(plain(text))] == numbers
    assert value_of(text) is None
    assert find_leaks(text[:1500], text, text[:500], text) == []
    told = find_leaks(f"{text[:1500]}. The answer is 733", text, "733", text)
    assert told == [Leak("answer", "733")]
