"""From the text of a mini-world problem back to its puzzle: what `sgpo.miniworld.families` writes, read."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from sgpo.miniworld.families import AGE_WORDS, STORY_WORDS, SYMBOL_METHOD, Chain, Expression, Link, Puzzle, undo

Operations = list[tuple[str, int]]


class UnknownProblemError(ValueError):
    """A text that is no problem of the mini-world."""


@lru_cache(maxsize=4096)  # a problem is asked about several times: extract, repairs, score
def read_puzzle(text: str) -> Puzzle:
    """The puzzle that a text states, equal to the one it was written from. Raises `UnknownProblemError`."""
    for family, (pattern, read) in _READERS.items():
        if found := pattern.fullmatch(text):
            start = read(found)
            if start is not None:
                return Puzzle(family, text, start)
    raise UnknownProblemError(f"no problem of the mini-world: {text[:80]!r}")


def _equation(found: re.Match[str]) -> Chain | None:
    term, operations = found["term"], list[tuple[str, int]]()
    while term != "x":
        outermost = re.fullmatch(r"(?P<inner>.+)(?P<sign>[-+*/])(?P<operand>\d+)", term)
        if outermost is None:
            return None
        operations.append((SYMBOL_METHOD[outermost["sign"]], int(outermost["operand"])))
        term = outermost["inner"]
        if term.startswith("(") and term.endswith(")"):
            term = term[1:-1]
    return Chain(int(found["value"]), undo(operations[::-1]))


_STORY_METHODS = {words: method for method, words in STORY_WORDS.items()}


def _story(found: re.Match[str]) -> Chain | None:
    operations: Operations = []
    for action in found["story"].split(", "):
        words, _, operand = action.rpartition(" ")
        if words not in _STORY_METHODS or not operand.isdigit():
            return None
        operations.append((_STORY_METHODS[words], int(operand)))
    return Chain(int(found["value"]), undo(operations))


_POWER = re.compile(r"\((?P<inner>.+)\)\^(?:(?P<power>\d+)|\(1/(?P<root>\d+)\))")
_PRODUCT = re.compile(r"(?P<inner>.+)(?P<sign>[*/])a\^(?P<operand>\d+)")


def _powers(found: re.Match[str]) -> Chain | None:
    term, links = found["term"], list[Link]()
    while not (single := re.fullmatch(r"a\^(\d+)", term)):
        if outer := _POWER.fullmatch(term):
            links.append(
                Link("multiply", int(outer["power"])) if outer["power"] else Link("divide", int(outer["root"]))
            )
        elif outer := _PRODUCT.fullmatch(term):
            links.append(Link("add" if outer["sign"] == "*" else "subtract", int(outer["operand"])))
        else:
            return None
        term = outer["inner"]
    return Chain(int(single[1]), tuple(reversed(links)))


def _units(found: re.Match[str]) -> Chain | None:
    unit, links = found["from"], list[Link]()
    for fact in found["facts"].split(", "):
        parts = re.fullmatch(r"1 ([A-Z])=(\d+) ([A-Z])", fact)
        if parts is None or unit not in (parts[1], parts[3]):
            return None
        links.append(Link("multiply" if unit == parts[1] else "divide", int(parts[2])))
        unit = parts[3] if unit == parts[1] else parts[1]
    return Chain(int(found["start"]), tuple(links)) if unit == found["to"] else None


def _signs(found: re.Match[str]) -> Chain:
    terms = re.findall(r"([-+])\(([-+])(\d+)\)", found["terms"])
    links = [Link("add" if outer == inner else "subtract", int(operand)) for outer, inner, operand in terms]
    return Chain(int(found["start"]), tuple(links))


def _order(found: re.Match[str]) -> Expression:
    numbers = tuple(int(number) for number in re.findall(r"\d+", found["expression"]))
    return Expression(numbers, tuple(SYMBOL_METHOD[sign] for sign in re.findall(r"[-+*/]", found["expression"])))


_AGES = {
    method: re.compile(re.escape(words).replace(r"\{name\}", r"\w+").replace(r"\{n\}", r"(\d+)"))
    for method, words in AGE_WORDS.items()
}


def _ages(found: re.Match[str]) -> Chain | None:
    links: list[Link] = []
    for sentence in re.findall(r"[^.]+\.", found["sentences"]):
        read = [(m, match) for m, pattern in _AGES.items() if (match := pattern.fullmatch(sentence.strip()))]
        if len(read) != 1:
            return None
        links.append(Link(read[0][0], int(read[0][1][1])))
    return Chain(int(found["start"]), tuple(links))


_READERS: dict[str, tuple[re.Pattern[str], Callable[[re.Match[str]], Chain | Expression | None]]] = {
    "equation": (re.compile(r"Solve for x: (?P<term>[x()\d+*/-]+)=(?P<value>\d+)"), _equation),
    "story": (re.compile(r"My number (?P<story>.+) makes (?P<value>\d+)\. My number\?"), _story),
    "powers": (re.compile(r"Write (?P<term>[a()^\d*/]+) as a\^n\. n\?"), _powers),
    "units": (
        re.compile(r"(?P<facts>1 .+)\. (?P<start>\d+) (?P<from>[A-Z]) is how many (?P<to>[A-Z])\?"),
        _units,
    ),
    "signs": (re.compile(r"Compute (?P<start>\d+)(?P<terms>(?:[-+]\([-+]\d+\))+)"), _signs),
    "order": (re.compile(r"Compute (?P<expression>\d+(?:[-+*/]\d+)+)"), _order),
    "ages": (re.compile(r"\w+ is (?P<start>\d+)\. (?P<sentences>.+) And \w+\?"), _ages),
}
