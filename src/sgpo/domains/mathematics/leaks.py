r"""What a candidate must pass before it may be kept: a structure check and a leak check, both without a model.

The leak check looks for the final answer in any usual way of writing it, for intermediate results of the response, and
for computations. Numbers that already stand in the problem do not count, unless the strategy calls one the answer.

Small whole numbers and one half stand in every second sentence ("two cases", "half the base", "x^2"). They count only
where they are given as a value: after "=", "is", "gives", "the answer" and the like.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from sgpo.domains.mathematics.numbers import Mention, mentions, plain, value_of
from sgpo.verification import last_boxed

COMMON = frozenset({*map(Fraction, range(-10, 11)), Fraction(1, 2)})
STRUCTURAL = frozenset(map(Fraction, (90, 100, 180, 360, 1000)))  # of angles and per cents: not results by themselves
NEARBY = 40  # characters before a number that say what it is
FEWEST_DIGITS = 3  # of a decimal that is taken for a rounded result

Number = Fraction | float


@dataclass(frozen=True)
class Leak:
    """Something that a strategy must not tell. Example: ``Leak("answer", "12")``"""

    kind: Literal["answer", "intermediate", "computation"]
    written: str


def find_leaks(strategy: str, problem: str, answer: str, response: str) -> list[Leak]:
    """What a strategy's text tells of the answer and of the response's results; empty if nothing."""
    text, secrets = plain(strategy), _secrets(problem, answer)
    leaks = list(_states_answer(text, strategy, secrets))
    leaks += _told_as_text(text, problem, secrets)
    leaks += _computations(text)
    values = list(_new_values(text, secrets.given))
    answers = [m for m, new in values if _tells(m, new, secrets.answer_values, rounded=True)]
    leaks += [Leak("answer", mention.written) for mention in answers]
    derived = [(m, new - STRUCTURAL) for m, new in values if m not in answers and new - STRUCTURAL]
    if derived:  # most strategies hold no number at all, and responses are long
        results = _results(response, secrets.given)
        leaks += [Leak("intermediate", m.written) for m, new in derived if _tells(m, new, results, rounded=False)]
    return list(dict.fromkeys(leaks))


@dataclass(frozen=True)
class _Secrets:
    """The answer, what it amounts to, and the numbers that the problem itself tells."""

    answer: str
    canonical_answer: str
    answer_values: frozenset[Number]
    given: frozenset[Fraction]


@lru_cache(maxsize=128)  # the candidates of a problem share it
def _secrets(problem: str, answer: str) -> _Secrets:
    boxed = last_boxed(answer)
    goal = answer if boxed is None else boxed
    return _Secrets(goal, _canonical(goal), frozenset(_answer_values(goal)), _given(plain(problem)))


# ------------------------------------------------------------------------------ numbers


def _given(problem: str) -> frozenset[Fraction]:
    """The numbers of the problem, and those that they are written with."""
    found = [value for mention in mentions(problem) for value in (*mention.values, *mention.parts)]
    return frozenset(found)


def _answer_values(answer: str) -> list[Number]:
    """What the answer amounts to; of a pair, a set or a formula also the numbers in it, small ones aside."""
    text = plain(answer).strip()
    _, equals, right = text.rpartition("=")  # x = 5
    value = value_of(_without_unit(right if equals else text))
    found = list(mentions(text))
    values: list[Number] = [] if value is None else [value]
    if len(found) == 1 or value is not None:
        values += [v for m in found if len(found) == 1 for v in m.values]
    else:
        values += [v for m in found for v in m.values if v not in COMMON]
    return values


def _without_unit(text: str) -> str:
    return re.sub(r"(?:\s|(?<=[0-9)}]))(?:[A-Za-z]+\.?(?:\^\{?[23]\}?)?|%)(?:\s+[A-Za-z]+)*\s*$", "", text).strip()


_EQUALS = re.compile(r"(?:=|≈|\\approx|\\equiv)\s*-?\s*$")


@lru_cache(maxsize=128)
def _results(response: str, given: frozenset[Fraction]) -> frozenset[Number]:
    """The numbers that a response worked out. Small ones count where they follow an equals sign."""
    results: list[Number] = []
    response = _without_labels(plain(response))
    for mention in mentions(response):
        if mention.written[0].isalpha():  # "a third of the height" is a way to say it, not a result
            continue
        after_equals = _EQUALS.search(response[max(0, mention.start - NEARBY) : mention.start]) is not None
        results += [v for v in mention.values if v not in given and (v not in COMMON or after_equals)]
    return frozenset(results)


def _without_labels(response: str) -> str:
    """Without numbers that only count: "Step 12", "(11)" at the end of an equation, "Case 3". Places stay the same."""
    pattern = r"\b(?:step|case|equation|eq\.?|part|figure|line|lemma)s?\s*\(?[0-9]+\)?|\\tag\{[0-9]+\}|^\s*[0-9]+[.)]\s"
    return re.sub(pattern, lambda m: " " * len(m.group()), response, flags=re.IGNORECASE | re.MULTILINE)


def _new_values(text: str, given: frozenset[Fraction]) -> Iterator[tuple[Mention, frozenset[Fraction]]]:
    """The numbers of a strategy that may tell something: not those of the problem, small ones only as a value."""
    for mention in mentions(text):
        new = frozenset(mention.values) - given
        if new and (not new <= COMMON or asserted(text, mention)):
            yield mention, new


def _tells(mention: Mention, values: frozenset[Fraction], secrets: frozenset[Number], *, rounded: bool) -> bool:
    """Whether one of the values is secret; "12" gives away -12 too."""
    if not values.isdisjoint(secrets) or any(-value in secrets for value in values if value > 0):
        return True
    return rounded and any(_rounds(mention, value, secret) for secret in secrets for value in values)


def _rounds(mention: Mention, value: Fraction, secret: Number) -> bool:
    """Whether a decimal is a secret number rounded to its digits."""
    if mention.digits is None or mention.digits < FEWEST_DIGITS or not -1e15 < secret < 1e15:
        return False
    places = len(re.sub(r"[^0-9.]", "", mention.written).partition(".")[2])
    tolerance = 0.5000001 * 10**-places
    return min(abs(float(value) - float(secret)), abs(float(value) + float(secret))) <= tolerance


# ------------------------------------------------------------------------------ where a small number is a value

_BEFORE = re.compile(
    r"(?:=|≈|\\approx|\\equiv|:|\b(?:is|are|be|equals?|equal\s+to|gives?|giving|yields?|yielding|gets?|getting"
    r"|obtain(?:s|ing)?"
    r"|leaves|leaving|becomes|makes|conclude|reach(?:es|ing)?|until|so|answer|result|total|totals|value|finds?|finding"
    r"|remains|as))"
    r"\s*(?:\b(?:exactly|therefore|thus|then|simply|just|only|of|about|to\s+be|namely|x\s*=)\b\s*|[*_(\[{]\s*)*-?$",
    re.IGNORECASE,
)
# "is two cases", "= 2ab", "are three points": not a value but how many of something, or a coefficient.
_AFTER = re.compile(r"\(|\s*(?:[A-Za-z\\√π^*/+]|-\s*[A-Za-z0-9])")
_UNIT = re.compile(
    r"\s*(?:degrees?|percent|per\s+cent|cm|km|mm|m|kg|g|hours?|minutes?|days?|years?|dollars?|cents?|ways?)\b"
)
_GOES_ON = re.compile(
    r"\s+(?:and|or|so|which|remains?|left|because|since|when|as|by|for|at|in|in\s+total|is|here)\b", re.IGNORECASE
)


def asserted(text: str, mention: Mention) -> bool:
    """Whether a number is given as the value of something: `= 2`, `which is two.`, `the answer 2`."""
    if not _BEFORE.search(text[max(0, mention.start - NEARBY) : mention.start]):
        return False
    rest = text[mention.end :]
    return not _AFTER.match(rest) or bool(_UNIT.match(rest)) or bool(_GOES_ON.match(rest))


_ANSWER_IS = re.compile(
    r"\b(?:answer|final\s+result)\b\s*(?:is|are|=|:|equals|will\s+be|should\s+be|must\s+be)\s*", re.IGNORECASE
)


def _states_answer(text: str, strategy: str, secrets: _Secrets) -> Iterator[Leak]:
    r"""A box, or "the answer is ...", counts even if the problem holds that number too."""
    if (boxed := last_boxed(strategy)) is not None:
        yield Leak("answer", f"\\boxed{{{boxed}}}")
    lower = text.lower()
    if "answer" not in lower and "final" not in lower:  # as in most texts, and quick to see
        return
    answer, values, goal = secrets.answer, secrets.answer_values, secrets.canonical_answer
    for statement in _ANSWER_IS.finditer(text):
        first = next(mentions(text[statement.end() : statement.end() + 40]), None)
        if first is not None and first.start <= 3 and values & set(first.values):
            yield Leak("answer", first.written)
        rest = _canonical(text[statement.end() : statement.end() + 2 * len(answer) + 20])
        if goal and re.match(re.escape(goal) + r"(?![0-9A-Za-z])", rest):
            yield Leak("answer", answer)


_DIGIT = re.compile(r"[0-9]")
# "12+11=23" and "3*4 is 12", not "1+2+...+n = n(n+1)/2"
_COMPUTATION = re.compile(
    r"(?<![\w.^])\(?-?[0-9][0-9.,]*\)?(?:\s*(?:[-+*/^]|plus|minus|times)\s*\(?-?[0-9][0-9.,]*\)?)+\s*(?:=|is|equals|gives)\s*-?[0-9]+"
)


def _computations(text: str) -> Iterator[Leak]:
    if _DIGIT.search(text) is None:
        return
    for found in _COMPUTATION.finditer(text):
        yield Leak("computation", found.group().strip())


# ------------------------------------------------------------------------------ answers that are not numbers


def _told_as_text(text: str, problem: str, secrets: _Secrets) -> Iterator[Leak]:
    goal = secrets.canonical_answer
    if len(goal) < 3 or goal.isalpha() or re.fullmatch(r"[-+]?[0-9.,/]+", goal):
        return  # numbers are compared as numbers; "even" or "A" tell something only where they are called the answer
    pattern = re.compile(rf"(?<![0-9A-Za-z]){re.escape(goal)}(?![0-9A-Za-z])")
    if pattern.search(_canonical(text)) and not pattern.search(_canonical(problem)):
        yield Leak("answer", secrets.answer.strip())


def _canonical(text: str) -> str:
    r"""A formula without brackets, spaces and LaTeX: `\frac{\sqrt{3}}{2}` and `sqrt(3)/2` are both `sqrt3/2`."""
    text = plain(text).replace("√", "sqrt").replace("π", "pi").replace("**", "^")
    text = re.sub(r"\\frac\s*(\{(?:[^{}]|\{[^{}]*\})*\})\s*(\{(?:[^{}]|\{[^{}]*\})*\})", r"\1/\2", text)
    text = re.sub(r"[\\{}()\[\]*_]", "", text)
    text = re.sub(r"\s*([^\w\s])\s*", r"\1", text.strip().rstrip(".").lower())
    return re.sub(r"\s+", " ", re.sub(r"(?<=sqrt)\s+|(?<=[0-9])\s+(?=sqrt|pi)", "", text))
