"""An independent check of every family: the text of the puzzle, Python's own arithmetic, exact fractions."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any


def evaluated(term: str, **names: Any) -> Any:
    """A term with Python's precedence, its numbers as exact fractions."""
    return eval(re.sub(r"\d+", r"Fraction(\g<0>)", term), {"Fraction": Fraction, "__builtins__": {}}, names)


def parsed(pattern: str, text: str) -> tuple[str, ...]:
    match = re.fullmatch(pattern, text)
    assert match is not None, text
    return match.groups()


def equation_holds(text: str, answer: Fraction) -> bool:
    term, value = parsed(r"Solve for x: (.+)=(\d+)", text)
    return evaluated(term, x=answer) == int(value)


def computation_holds(text: str, answer: Fraction) -> bool:
    (term,) = parsed(r"Compute (.+)", text)
    return evaluated(term) == answer


STORY = {
    "plus": lambda value, n: value + n,
    "minus": lambda value, n: value - n,
    "times": lambda value, n: value * n,
    "shared by": lambda value, n: value / n,
}


def story_holds(text: str, answer: Fraction) -> bool:
    story, value = parsed(r"My number (.+) makes (\d+)\. My number\?", text)
    for action in story.split(", "):
        word, number = parsed(r"(\D+) (\d+)", action)
        answer = STORY[word](answer, Fraction(number))
    return answer == int(value)


class PowerOfA:
    """a to the exponent: Python's operators on it follow the laws of powers."""

    def __init__(self, exponent: Fraction) -> None:
        self.exponent = exponent

    def __mul__(self, other: PowerOfA) -> PowerOfA:
        return PowerOfA(self.exponent + other.exponent)

    def __truediv__(self, other: PowerOfA) -> PowerOfA:
        return PowerOfA(self.exponent - other.exponent)

    def __pow__(self, exponent: Fraction) -> PowerOfA:
        return PowerOfA(self.exponent * exponent)


def powers_hold(text: str, answer: Fraction) -> bool:
    (term,) = parsed(r"Write (.+) as a\^n\. n\?", text)
    return evaluated(term.replace("^", "**"), a=PowerOfA(Fraction(1))).exponent == answer


def units_hold(text: str, answer: Fraction) -> bool:
    facts, amount, source, target = parsed(r"(.+)\. (\d+) (\w) is how many (\w)\?", text)
    worth: dict[str, dict[str, Fraction]] = {}
    for fact in facts.split(", "):
        one, many, other = parsed(r"1 (\w)=(\d+) (\w)", fact)
        worth.setdefault(one, {})[other] = Fraction(many)
        worth.setdefault(other, {})[one] = 1 / Fraction(many)
    found, waiting = {source: Fraction(amount)}, [source]
    while waiting:
        unit = waiting.pop()
        for other, rate in worth[unit].items():
            if other not in found:
                found[other] = found[unit] * rate
                waiting.append(other)
    return found[target] == answer


AGES: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    r"(\w+) is (\d+) more\.": lambda age, n: age + n,
    r"(\w+) is (\d+) less\.": lambda age, n: age - n,
    r"(\w+) is (\d+) fold\.": lambda age, n: age * n,
    r"(\w+) is one of (\d+) parts\.": lambda age, n: age / n,
}


def ages_hold(text: str, answer: Fraction) -> bool:
    sentences, asked = parsed(r"(.+\.) And (\w+)\?", text)
    first, *others = re.findall(r"[^.]+\.", sentences)
    name, number = parsed(r"(\w+) is (\d+)\.", first)
    age = Fraction(number)
    for sentence in others:
        [(name, age)] = [
            (match[1], change(age, Fraction(match[2])))
            for pattern, change in AGES.items()
            if (match := re.fullmatch(pattern, sentence.strip()))
        ]
    return name == asked and age == answer


CHECKS = {
    "equation": equation_holds,
    "story": story_holds,
    "powers": powers_hold,
    "units": units_hold,
    "signs": computation_holds,
    "order": computation_holds,
    "ages": ages_hold,
}
