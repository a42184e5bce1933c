r"""Numbers in a text, whichever usual way they are written.

    1,234   1\,234   0.5   1/2   \frac{1}{2}   ½   50%   one half   twenty-five   2^{10}

Everything is parsed with patterns and computed as exact fractions; no text is evaluated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_WORDS = {
    **{word: n for n, word in enumerate(f"{_UNITS} seventeen eighteen nineteen".split())},
    **{
        word: 10 * n
        for n, word in enumerate(
            ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
        )
    },
}
_PARTS = {
    "half": 2,
    "halves": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "eighth": 8,
    "tenth": 10,
}
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅙": "1/6", "⅛": "1/8", "⅜": "3/8"}
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_LATEX = re.compile(r"[\\$]|\{,\}")
LARGEST_EXPONENT = 64
LONGEST_NUMBER = 40  # digits; longer runs of digits are no number anybody leaks


@dataclass(frozen=True)
class Mention:
    """A number as it stands in a text.

    ``values`` are what it may mean (50% is 50 and 1/2); ``digits`` counts its significant digits if it is a decimal,
    which may be rounded; ``parts`` are the numbers it is written with (3 and 4 of 3/4).

    Example: ``Mention(start=4, end=7, written="50%", values=(Fraction(50), Fraction(1, 2)), digits=None, parts=())``
    """

    start: int
    end: int
    written: str
    values: tuple[Fraction, ...]
    digits: int | None = None
    parts: tuple[Fraction, ...] = ()


def plain(text: str) -> str:
    """The text with LaTeX and Unicode that mean the same written in one way, so that one set of patterns reads all."""
    if text.isascii() and not _LATEX.search(text):
        return text
    for written, meant in _VULGAR.items():
        text = re.sub(rf"(?<=[0-9]){written}", f" {meant}", text).replace(written, meant)
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda found: "^" + found.group().translate(_SUPERSCRIPT), text)
    text = re.sub(r"(?<=[0-9])(?:\\,|\\!|\{,\}|\\;|[\u00a0\u2009\u202f])(?=[0-9]{3}(?![0-9]))", ",", text)
    text = re.sub(r"\\(?:left|right|displaystyle|big|Big)(?![a-zA-Z])|\\[,;:! ]|[$]", " ", text.replace("\\$", " "))
    text = re.sub(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox|boxed|operatorname)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\\[dtc]?frac(?![a-zA-Z])", r"\\frac", text)
    text = re.sub(r"\\frac\s*([0-9])\s*([0-9])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\(?:cdot|times)(?![a-zA-Z])|[×·]", "*", text)
    text = re.sub(r"\^\s*\{?\\circ\}?|°", " degrees", text)
    return text.replace("\\%", "%").replace("\N{MINUS SIGN}", "-").replace("\N{FRACTION SLASH}", "/")


_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_SMALL = "|".join(sorted(_WORDS, key=len, reverse=True))
_TENS, _ONES = "|".join(list(_WORDS)[20:]), "|".join(list(_WORDS)[1:10])
_PART = "|".join(sorted(_PARTS, key=len, reverse=True))
# Lower case. The look-aheads are there for speed: most places of a text begin no number.
_MENTION = re.compile(
    rf"""
    (?=[0-9.\\])
    (?: (?P<mixed>[0-9]+)[ ]*\\frac\{{\s*(?P<mixed_top>[0-9]+)\s*\}}\{{\s*(?P<mixed_bottom>[0-9]+)\s*\}}
      | \\frac\{{\s*(?P<frac_top>-?{_NUMBER})\s*\}}\{{\s*(?P<frac_bottom>{_NUMBER})\s*\}}
      | (?<![0-9./])(?P<whole>[0-9]+)[ -](?P<whole_top>[0-9]+)/(?P<whole_bottom>[0-9]+)(?![0-9/])
      | (?P<top>{_NUMBER})[ ]*/[ ]*(?P<bottom>{_NUMBER})(?![0-9.]*/)
      | (?P<base>[0-9]+)[ ]*(?:\^|\*\*)[ ]*\{{?[ ]*(?P<exponent>[0-9]+)
      | (?P<number>{_NUMBER})(?P<percent>[ ]*%|[ ]+per[ ]?cent\b)?
    )
    | \b(?=[aefhnostz])
    (?: (?P<hundred>an?|one)[ ]hundred\b
      | (?P<times>{_SMALL}|a)[ -](?P<part>{_PART})s?\b
      | (?P<tens>{_TENS})[ -](?P<ones>{_ONES})\b
      | (?P<word>{_SMALL})\b(?P<word_percent>[ ]+per[ ]?cent\b)?
      | (?P<half>half)\b
    )
    """,
    re.VERBOSE,
)


def mentions(text: str) -> Iterator[Mention]:
    """The numbers of a text that has gone through ``plain``, from left to right."""
    lower = text.lower()
    for found in _MENTION.finditer(lower if len(lower) == len(text) else text):
        if len(found.group()) <= 2 * LONGEST_NUMBER and (mention := _mention(found, text)) is not None:
            yield mention


def _mention(found: re.Match[str], text: str) -> Mention | None:
    group = found.groupdict()
    digits: int | None = None
    values: tuple[Fraction, ...]
    parts: tuple[Fraction, ...] = ()
    if group["number"]:
        value = _decimal(group["number"])
        values = (value, value / 100) if group["percent"] else (value,)
        digits = len(group["number"].replace(",", "").replace(".", "").lstrip("0")) if "." in group["number"] else None
    elif group["base"]:
        base, exponent = int(group["base"]), int(group["exponent"])
        parts = (Fraction(base), Fraction(exponent))
        values = (Fraction(base) ** exponent,) if exponent <= LARGEST_EXPONENT else ()
    elif group["hundred"]:
        values = (Fraction(100),)
    elif group["word"]:
        value = Fraction(_WORDS[group["word"].lower()])
        values = (value, value / 100) if group["word_percent"] else (value,)
    elif group["tens"]:
        values = (Fraction(_WORDS[group["tens"].lower()] + _WORDS[group["ones"].lower()]),)
    elif group["half"]:
        values = (Fraction(1, 2),)
    else:
        whole, top, bottom = _fraction(group)
        if bottom == 0:
            return None
        values, parts = (whole + top / bottom,), (top, bottom)
    start = found.start()
    if group["word"] is None and _negative(text, start):
        start, values = start - 1, tuple(-value for value in values)
    return Mention(start, found.end(), text[start : found.end()].strip(), values, digits, parts)


def _fraction(group: dict[str, str | None]) -> tuple[Fraction, Fraction, Fraction]:
    """Whole part, numerator and denominator of whichever kind of fraction was found."""
    if group["part"]:
        times = (group["times"] or "a").lower()
        part = _PARTS.get(group["part"].lower()) or 1
        return Fraction(0), Fraction(1 if times == "a" else _WORDS[times]), Fraction(part)
    for whole, top, bottom in (("mixed", "mixed_top", "mixed_bottom"), ("whole", "whole_top", "whole_bottom")):
        if group[whole]:
            return _decimal(group[whole]), _decimal(group[top]), _decimal(group[bottom])
    prefix = "frac_" if group["frac_top"] else ""
    return Fraction(0), _decimal(group[f"{prefix}top"]), _decimal(group[f"{prefix}bottom"])


def _decimal(text: str | None) -> Fraction:
    return Fraction((text or "0").replace(",", ""))


def _negative(text: str, start: int) -> bool:
    """Whether a minus sign directly before belongs to the number: `= -3` and `(-3`, but not `x-3` or `x - 3`."""
    return text[start - 1 : start] == "-" and (start == 1 or text[start - 2] in " (=[{,<>+*/:^")


# ------------------------------------------------------------------------------ the value of a short formula


def value_of(formula: str) -> Fraction | float | None:
    r"""The value of a formula of numbers, + - * / ^, \frac, \sqrt, \pi and brackets; None for anything else.

    Exact unless a root or pi is in it.
    """
    text = re.sub(
        r"\\(?:sqrt|pi)(?![a-zA-Z])|√|π",
        lambda m: {"\\pi": "π", "\\sqrt": "√"}.get(m.group(), m.group()),
        plain(formula),
    )
    tokens = re.findall(rf"{_NUMBER}|\\frac|[√π()\[\]{{}}+\-*/^]", text)
    if "".join(tokens) != re.sub(r"\s+", "", text) or not 0 < len(tokens) <= 60:
        return None
    try:
        reader = _Reader(tokens)
        value = reader.sum()
    except (ValueError, IndexError, ZeroDivisionError, OverflowError):
        return None
    return value if reader.at == len(tokens) else None


class _Reader:
    """Recursive descent over the tokens of a formula. Raises ``ValueError`` or ``IndexError`` for anything else."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = tokens, 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def sum(self) -> Fraction | float:
        value = self.product()
        while self.peek() in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def product(self) -> Fraction | float:
        value = self.signed()
        while self.peek() and self.peek() not in "+-)]}":
            if self.peek() in ("*", "/"):
                value = value * self.signed() if self.take() == "*" else value / self.signed()
            else:  # 2π and 3√2
                value = value * self.power()
        return value

    def signed(self) -> Fraction | float:
        if self.peek() == "-":
            self.take()
            return -self.signed()
        return self.power()

    def power(self) -> Fraction | float:
        base = self.atom()
        if self.peek() != "^":
            return base
        self.take()
        exponent = self.signed()
        if abs(float(exponent)) > LARGEST_EXPONENT or abs(float(base)) > 1e9:
            raise ValueError("too large")
        if exponent == int(exponent):
            return base ** int(exponent)
        return _real(float(base) ** float(exponent))

    def atom(self) -> Fraction | float:
        token = self.take()
        if token in ("(", "[", "{"):
            value = self.sum()
            if self.take() != {"(": ")", "[": "]", "{": "}"}[token]:
                raise ValueError("brackets do not match")
            return value
        if token == "\\frac":
            return self.atom() / self.atom()
        if token == "√":
            return _real(float(self.atom()) ** 0.5)
        if token == "π":
            return math.pi
        if len(token) > LONGEST_NUMBER:
            raise ValueError("too long")
        return _decimal(token)


def _real(value: complex | float) -> float:
    if isinstance(value, complex):
        raise ValueError("not a real number")
    return value
