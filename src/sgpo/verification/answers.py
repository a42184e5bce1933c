"""Reading answers: which text of a response is its final answer, and when two texts are plainly the same."""

from __future__ import annotations

import re
from decimal import Decimal

THINK_END = "</think>"

# A backslash hides the next character: \{ and \} are printed braces, not groups.
_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def after_thinking(response: str) -> str:
    """Return what follows the last ``</think>``: all of the response where no such tag stands."""
    return response.rpartition(THINK_END)[2]


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last balanced ``\boxed{...}``, None without one.

    Of nested boxes the outer one counts; a box that never closes does not.
    """
    opened: list[int | None] = []  # for each open brace: where the content begins, None if it is no box
    content: tuple[int, int] | None = None
    for token in _BOX_TOKEN.finditer(text):
        symbol = token.group()
        if symbol == "}":
            start = opened.pop() if opened else None
            if start is not None:
                content = (start, token.start())
        elif symbol == "{":
            opened.append(None)
        elif symbol.endswith("{") and len(symbol) > 2:
            opened.append(token.end())
    return None if content is None else text[content[0] : content[1]]


_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_TEXT_BOX = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox)\{([^{}\\$]*)\}")
_NOTHING = re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|(?<!\\)\\!")
_SPACE = re.compile(r"(?<!\\)\\(?:[,;: ]|q?quad(?![a-zA-Z]))|~|\s+")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_DEGREE = re.compile(r"°|\^\s*\{\s*\\circ\s*\}")
_FULL_STOP = re.compile(r"(?<!\.)\.$")  # not the last of three dots
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]{1,3}(?:[, ][0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")


def normalise(answer: str) -> str:
    """Return the answer without what does not change its meaning: equal results mean equal answers."""
    text = without_delimiters(_FULL_STOP.sub("", answer.strip()))
    if whole := _TEXT_BOX.fullmatch(text):
        text = whole.group(1)
    text = _NOTHING.sub("", text.replace("\N{MINUS SIGN}", "-").replace("{,}", ","))
    text = _DEGREE.sub(r"^\\circ", _FRACTION.sub(r"\\frac", text))
    text = re.sub(" +", " ", _SPACE.sub(" ", text)).strip()
    text = _FULL_STOP.sub("", text)  # once more: it may have stood inside the delimiters
    # A space between two letters or digits stays: "1 2" is not 12, and \pi r is not \pir.
    return re.sub(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])", "", text)


def without_delimiters(answer: str) -> str:
    """Return the answer without the dollar signs or brackets that only say that it is mathematics."""
    text = answer.strip()
    for opening, closing in _DELIMITERS:
        long_enough = len(text) > len(opening) + len(closing)
        if long_enough and text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)]
            if closing not in inner and not inner.endswith("\\"):
                text = inner.strip()
    return text


def number(normalised: str) -> Decimal | None:
    """Return the exact value of a plain number, None for anything else."""
    if not _NUMBER.fullmatch(normalised):
        return None
    return Decimal(normalised.replace(",", "").replace(" ", ""))


def gold_text(answer: str) -> str:
    """Return a gold answer without the box and the delimiters around it."""
    boxed = last_boxed(answer)
    return without_delimiters(answer if boxed is None else boxed)


_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|,\\!|\\[,! ])\s*(?=[0-9]{3}(?![0-9]))")
_PRODUCT = re.compile(r"(?<![0-9A-Za-z_^.\\])([0-9]+)\s*(?=\([0-9]+\))")
_IMAGINARY = re.compile(r"(?<=[0-9])\s*i(?![A-Za-z])")


def readable(answer: str) -> str:
    r"""Return the answer in the notation that Math-Verify reads.

    It knows neither ``20{,}000`` nor ``°``, takes ``5(3)`` for a mixed number, 8, and its ``3i`` is not its ``3 i``:
    whether a symbol is real depends on the space.
    """
    text = _DEGREE.sub(r"^\\circ", _THOUSANDS.sub("", answer))
    return _IMAGINARY.sub(" i", _PRODUCT.sub(r"\1\\cdot", text))


_OPEN_OR_CLOSE = re.compile(r"\\[{}]|\\.|[()\[\]{}]", re.DOTALL)


def depth(answer: str) -> int:
    """Return how deep the brackets and braces of an answer are nested; those that never close count too."""
    deepest = level = 0
    for token in _OPEN_OR_CLOSE.findall(answer):
        if token in ("(", "[", "{", r"\{"):
            level += 1
            deepest = max(deepest, level)
        elif token in (")", "]", "}", r"\}"):
            level -= 1
    return deepest
