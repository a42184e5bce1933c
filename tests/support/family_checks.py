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
    "more": lambda value, n: value + n,
    "less": lambda value, n: value - n,
    "fold": lambda value, n: value * n,
    "shared by": lambda value, n: value / n,
}


def story_holds(text: str, answer: Fraction) -> bool:
    story, value = parsed(r"My number, (.+), makes (\d+)\. My number\?", text)
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
        few, one, many, other = parsed(r"(\d+) (\w)=(\d+) (\w)", fact)
        worth.setdefault(one, {})[other] = Fraction(int(many), int(few))
        worth.setdefault(other, {})[one] = Fraction(int(few), int(many))
    found, waiting = {source: Fraction(amount)}, [source]
    while waiting:
        unit = waiting.pop()
        for other, rate in worth[unit].items():
            if other not in found:
                found[other] = found[unit] * rate
                waiting.append(other)
    return found[target] == answer


AGES: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    r"(\w+) is (\d+) older\.": lambda age, n: age + n,
    r"(\w+) is (\d+) younger\.": lambda age, n: age - n,
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


def percent_holds(text: str, answer: Fraction) -> bool:
    start, changes = parsed(r"A price of (\d+) (.+)\. Price\?", text)
    price = Fraction(start)
    for change in changes.split(", "):
        word, percent = parsed(r"(rises|falls) by (\d+)%", change)
        price *= 1 + Fraction(int(percent), 100) * {"rises": 1, "falls": -1}[word]
    return price == answer


STEPS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "up": lambda place, n: place + n,
    "down": lambda place, n: place - n,
    "times": lambda place, n: place * n,
    "over": lambda place, n: place / n,
}


def series_holds(text: str, answer: Fraction) -> bool:
    start, segments = parsed(r"From (-?\d+): (.+)\. Where\?", text)
    place = Fraction(start)
    for segment in segments.split(", "):
        count, word, number = parsed(r"(\d+) steps (\w+) (\d+)", segment)
        for _ in range(int(count)):
            place = STEPS[word](place, Fraction(number))
    return place == answer


def tank_holds(text: str, answer: Fraction) -> bool:
    start, cups = parsed(r"A tank holds (\d+): (.+)\. How full\?", text)
    level = Fraction(start)
    for each in cups.split(", "):
        count, size, way = parsed(r"(\d+) cups of (\d+) (in|out)", each)
        level += int(count) * int(size) * {"in": 1, "out": -1}[way]
    return level == answer


def systems_hold(text: str, answer: Fraction) -> bool:
    """The other unknown by the first equation, put into the second."""
    *equations, asked = parsed(r"(.+), (.+)\. ([xy])\?", text)
    terms = [re.sub(r"(\d)([xy])", r"\1*\2", equation).split("=") for equation in equations]
    other = "xy".replace(asked, "")

    def left(number: int, value: Fraction) -> Any:
        return evaluated(terms[number][0], **{asked: answer, other: value})

    constant, slope = left(0, Fraction(0)), left(0, Fraction(1)) - left(0, Fraction(0))
    return left(1, (int(terms[0][1]) - constant) / slope) == int(terms[1][1])


def composed_holds(text: str, answer: Fraction) -> bool:
    """The number that solves the first problem is found by trying all of them."""
    if text.startswith("Solve"):
        first, _, second = text.partition(". ")
        check = equation_holds
    else:
        first, _, second = text.partition(" is x. ")
        first, check = f"{first}?", story_holds
    (number,) = [n for n in range(-99, 100) if check(first, Fraction(n))]
    if second.startswith("From x"):
        return series_holds(second.replace("From x", f"From {number}"), answer)
    (term,) = parsed(r"Write (.+) as a\^n\. n\?", second)
    return evaluated(term.replace("^", "**"), a=PowerOfA(Fraction(1)), x=Fraction(number)).exponent == answer


CHECKS = {
    "equation": equation_holds,
    "story": story_holds,
    "powers": powers_hold,
    "units": units_hold,
    "order": computation_holds,
    "ages": ages_hold,
    "percent": percent_holds,
    "series": series_holds,
    "tank": tank_holds,
    "systems": systems_hold,
}
