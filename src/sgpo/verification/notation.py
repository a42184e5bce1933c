r"""What Math-Verify drops although it changes the answer: units, the base of a number, the kind of bracket.

It reads ``5 cm`` and ``5 m`` both as 5, ``204_5`` and ``204_6`` both as 204, and takes ``(1,2)`` for ``\{1,2\}``. The
checks here only ever reject, and only where both sides write the thing and write it differently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAMES = {
    name: words.split()[0]
    for words in (
        "mm millimeter millimeters millimetre millimetres",
        "cm centimeter centimeters centimetre centimetres",
        "m meter meters metre metres",
        "km kilometer kilometers kilometre kilometres",
        "in inch inches",
        "ft foot feet",
        "yd yard yards",
        "mi mile miles",
        "mg milligram milligrams",
        "g gram grams",
        "kg kilogram kilograms",
        "oz ounce ounces",
        "lb lbs pound pounds",
        "s sec secs second seconds",
        "min mins minute minutes",
        "h hr hrs hour hours",
        "day days",
        "week weeks",
        "month months",
        "year years yr yrs",
        "mL ml milliliter milliliters millilitre millilitres",
        "L liter liters litre litres",
        "dollar dollars",
        "cent cents",
        "degree degrees deg",
        "radian radians rad",
        "am a.m.",
        "pm p.m.",
    )
    for name in words.split()
}
_POWERS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "cu.": 3}

Unit = tuple[tuple[str, int], ...]

_WRAPPED = r"\\(?:text|textrm|mathrm|mbox)\s*\{\s*(?P<wrapped>[A-Za-z][A-Za-z ./]*?)\s*\}"
# Letters behind a letter are variables, behind a backslash a command: only what follows a number or a bracket counts.
_PLAIN = r"(?<=[0-9})])\s*(?:\\[,; ]\s*)*(?P<plain>[A-Za-z][A-Za-z ./]*?)"
_LABEL = re.compile(rf"(?:\s|\\[,; ])*(?:{_WRAPPED}|{_PLAIN})\s*(?:\^\s*(?:\{{\s*([23])\s*\}}|([23])))?\s*\.?$")
_CIRCLE = re.compile(r"(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ)|°)\s*\.?$")
_DOLLAR = re.compile(r"^\\?\$\s*(?=[0-9.])")


@dataclass(frozen=True)
class Quantity:
    r"""An answer and the label behind it (or the dollar sign before it).

    ``certain`` says that the label can be nothing else, as in ``5\text{ m}``; ``5 m`` may be a product.

    Example: ``Quantity(value="15", label="cm", unit=(("cm", 2),), certain=True)``
    """

    value: str
    label: str = ""
    unit: Unit | None = None  # names and powers, those after "per" with negative power; None for unknown words
    certain: bool = False


def quantity(answer: str) -> Quantity:
    """Split an answer into its value and its unit."""
    if (circle := _CIRCLE.search(answer)) and circle.start() > 0:
        return Quantity(answer[: circle.start()], "degree", (("degree", 1),), certain=True)
    label = _LABEL.search(answer)
    if label and (value := answer[: label.start()].strip()):
        words = " ".join((label["wrapped"] or label["plain"]).split())
        unit = _unit(words, int(label[3] or label[4] or 1))
        long_word = unit is not None and max(map(len, words.split())) > 3
        return Quantity(_DOLLAR.sub("", value), words, unit, certain=bool(label["wrapped"]) or long_word)
    if dollar := _DOLLAR.match(answer):
        return Quantity(answer[dollar.end() :], "dollar", (("dollar", 1),), certain=True)
    return Quantity(answer)


def _unit(words: str, power: int) -> Unit | None:
    if words == "mph":
        words = "mi per h"
    parts = []
    for number, part in enumerate(re.split(r"\s*/\s*|\s+per\s+", words)):
        *before, name = part.split() or [""]
        if name not in _NAMES or len(before) > 1 or (before and before[0] not in _POWERS):
            return None
        exponent = _POWERS[before[0]] if before else 1
        parts.append((_NAMES[name], -exponent if number else exponent))
    name, exponent = parts[-1]
    parts[-1] = (name, exponent * power)
    return tuple(parts)


def without_units(gold: str, answer: str) -> tuple[str, str] | None:
    r"""Return both without the gold's unit where the answer has the same or none; None for two different units.

    A label of unknown words, as in ``12\text{ marbles}``, may be missing or equal, and is left to Math-Verify
    otherwise.
    """
    ours, theirs = quantity(gold), quantity(answer)
    if ours.unit and theirs.unit and ours.unit != theirs.unit:
        return None
    if ours.certain and not theirs.label:
        return ours.value, answer
    same = ours.unit == theirs.unit if ours.unit else ours.label.lower() == theirs.label.lower()
    if ours.certain and same:
        return ours.value, theirs.value
    return gold, answer


_BASED = re.compile(r"([0-9A-Fa-f]+)_(?:\{([0-9]{1,2})\}|([0-9]{1,2}))")


def different_base(gold: str, answer: str) -> bool:
    """Tell whether two normalised answers are numbers in different written bases, or of different digits in one."""
    ours, theirs = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    return bool(ours and theirs) and _digits_and_base(ours) != _digits_and_base(theirs)


def _digits_and_base(match: re.Match[str] | None) -> tuple[str, str] | None:
    return match and (match[1].lstrip("0").upper(), match[2] or match[3])


_BRACKET = re.compile(r"\\[{}]|\\.|[()\[\]{},]", re.DOTALL)


def different_brackets(gold: str, answer: str) -> bool:
    r"""Tell whether two normalised lists differ in kind: set or tuple, ends of an interval open or closed.

    Longer lists in round and in square brackets are the same here: some write vectors in the one, some in the other.
    """
    ours, theirs = _brackets(gold), _brackets(answer)
    if ours is None or theirs is None:
        return False
    (our_kind, our_size), (their_kind, their_size) = ours, theirs
    if our_kind == their_kind:
        return False
    return r"\{\}" in (our_kind, their_kind) or our_size == their_size == 2


def _brackets(text: str) -> tuple[str, int] | None:
    """The outer pair of brackets and the number of elements, where one pair encloses all and there are several."""
    level, size, opening = 0, 1, ""
    tokens = list(_BRACKET.finditer(text))
    for token in tokens:
        symbol = token.group()
        if symbol in ("(", "[", "{", r"\{"):
            opening = opening or symbol
            level += 1
        elif symbol in (")", "]", "}", r"\}"):
            level -= 1
            if level <= 0 and token is not tokens[-1]:
                return None
        elif symbol == "," and level == 1:
            size += 1
    encloses = bool(tokens) and text.startswith(("(", "[", r"\{")) and level == 0 and tokens[-1].end() == len(text)
    return (opening + tokens[-1].group(), size) if encloses and size > 1 else None
