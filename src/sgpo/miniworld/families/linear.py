"""Equation and story: operations on an unknown number and their result.

Two routes: *undo* the outermost operation by its inverse, or *expand* from inside, which keeps a multiple of the
unknown and a number (3*x+6) and carries the next operation out on both.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from sgpo.miniworld.families.arithmetic import (
    ARITHMETIC,
    CONFUSED,
    INVERSE,
    SUMS,
    SYMBOL,
    SYMBOL_METHOD,
    compute,
    exact,
    result_in,
    written,
)
from sgpo.miniworld.families.operations import Operation, forward_operations, free_operations, leaves_integers
from sgpo.miniworld.families.puzzles import Family, Move, Puzzle, State, Way, drawn_condition, is_blocked, works_out


@dataclass(frozen=True)
class Linear:
    """``operations(factor*x+constant) = value``."""

    factor: int
    constant: int
    operations: tuple[Operation, ...]
    value: int

    def answer(self) -> int | None:
        return self.value if (self.factor, self.constant, self.operations) == (1, 0, ()) else None

    def truth(self) -> Fraction | None:
        value: Fraction | None = Fraction(self.value)
        for method, operand in reversed(self.operations):
            value = None if value is None else exact(INVERSE[method], value, operand)
        return None if value is None or not self.factor else (value - self.constant) / self.factor

    def moves(self) -> Mapping[str, Move]:
        outermost, rest = self._outermost()
        moves = {}
        for method in ARITHMETIC:
            if (computation := written(method, self.value, outermost[1])) is not None:
                value = result_in(computation)
                moves[method] = Move((computation,), normalised(*rest, value))
        if expanded := self._expanded():
            moves["expand"] = expanded
        return moves

    def outermost(self) -> Operation:
        """What was done last; of a*x+b the addition of b, then the multiplication by a."""
        return self._outermost()[0]

    def _outermost(self) -> tuple[Operation, tuple[int, int, tuple[Operation, ...]]]:
        if self.operations:
            return self.operations[-1], (self.factor, self.constant, self.operations[:-1])
        if self.constant:
            return (("add" if self.constant > 0 else "subtract"), abs(self.constant)), (self.factor, 0, ())
        return ("multiply", self.factor), (1, 0, ())

    def _expanded(self) -> Move | None:
        if not self.operations:
            return None
        (method, operand), rest = self.operations[0], self.operations[1:]
        constant = compute(method, self.constant, operand)
        factor = self.factor if method in SUMS else compute(method, self.factor, operand)
        if constant is None or factor is None:
            return None
        parts = [written(method, self.constant, operand)] if self.constant else []
        if method not in SUMS and self.factor != 1:
            parts.insert(0, written(method, self.factor, operand))
        return Move(tuple(part for part in parts if part), normalised(factor, constant, rest, self.value))


def normalised(factor: int, constant: int, operations: tuple[Operation, ...], value: int) -> Linear:
    """Operations that need no computing are taken in: x*3 and then +4 is 3*x+4."""
    while operations and not constant:
        method, operand = operations[0]
        if method in SUMS:
            constant = operand if method == "add" else -operand
        elif method == "multiply" and factor == 1:
            factor = operand
        else:
            break
        operations = operations[1:]
    return Linear(factor, constant, operations, value)


def undo(state: State) -> str:
    return INVERSE[_linear(state).outermost()[0]]


def expand(state: State) -> str:
    return "expand" if "expand" in state.moves() else undo(state)


def repeat(state: State) -> str:
    return _linear(state).outermost()[0]


def confuse(state: State) -> str:
    return CONFUSED[INVERSE[_linear(state).outermost()[0]]]


def multiplied(state: State) -> bool:
    """What was done last is a product."""
    return _linear(state).outermost()[0] == "multiply"


def lessened(state: State) -> bool:
    return _linear(state).outermost()[0] == "subtract"


def _linear(state: State) -> Linear:
    assert isinstance(state, Linear)
    return state


# Making and reading


def _decisions(operations: list[Operation], value: int) -> Linear:
    return normalised(1, 0, tuple(operations), value)


def _sampled(rng: random.Random, depth: int) -> tuple[list[Operation], int, Linear]:
    fits = drawn_condition(rng)
    while True:
        drawn = (free_operations if fits is is_blocked else forward_operations)(rng, depth, rng.randint(1, 20))
        if drawn is not None and (fits is not is_blocked or _is_undoing_blocked(*drawn)):
            state = _decisions(*drawn)
            if works_out(state) and fits(state, undo):
                return *drawn, state


def _is_undoing_blocked(operations: list[Operation], value: int) -> bool:
    """As `is_blocked` for `undo`, without looking at states."""
    return leaves_integers(((INVERSE[method], operand) for method, operand in reversed(operations)), value)


def sample_equation(rng: random.Random, depth: int) -> Puzzle:
    operations, value, state = _sampled(rng, depth)
    term, is_sum = "x", False
    for method, operand in operations:
        wrapped = f"({term})" if is_sum and method not in SUMS else term
        term = f"{wrapped}{SYMBOL[method]}{operand}"
        is_sum = method in SUMS
    return Puzzle("equation", f"Solve for x: {term}={value}", state)


_EQUATION = re.compile(r"Solve for x: (?P<term>[x()\d+*/-]+)=(?P<value>\d+)")


def read_equation(text: str) -> State | None:
    if not (found := _EQUATION.fullmatch(text)):
        return None
    term, operations = found["term"], list[Operation]()
    while term != "x":
        outermost = re.fullmatch(r"(?P<inner>.+)(?P<sign>[-+*/])(?P<operand>\d+)", term)
        if outermost is None:
            return None
        operations.append((SYMBOL_METHOD[outermost["sign"]], int(outermost["operand"])))
        term = outermost["inner"]
        if term.startswith("(") and term.endswith(")"):
            term = term[1:-1]
    return _decisions(operations[::-1], int(found["value"]))


STORY_WORDS = {"add": "more", "subtract": "less", "multiply": "fold", "divide": "shared by"}


def sample_story(rng: random.Random, depth: int) -> Puzzle:
    operations, value, state = _sampled(rng, depth)
    story = ", ".join(f"{STORY_WORDS[method]} {operand}" for method, operand in operations)
    return Puzzle("story", f"My number, {story}, makes {value}. My number?", state)


_STORY = re.compile(r"My number, (?P<story>.+), makes (?P<value>\d+)\. My number\?")
_STORY_METHODS = {words: method for method, words in STORY_WORDS.items()}


def read_story(text: str) -> State | None:
    if not (found := _STORY.fullmatch(text)):
        return None
    operations: list[Operation] = []
    for action in found["story"].split(", "):
        words, _, operand = action.rpartition(" ")
        if words not in _STORY_METHODS or not operand.isdigit():
            return None
        operations.append((_STORY_METHODS[words], int(operand)))
    return _decisions(operations, int(found["value"]))


FAMILIES = (
    Family(
        "equation",
        "linear equation",
        sample_equation,
        read_equation,
        (
            Way(
                "undo",
                undo,
                "{undo|remove|strip} the {outermost|outer} operation {first|before others}",
                (
                    "{find|see} what was done to x {last|finally}",
                    "do its {inverse|opposite} to the {result|right side}",
                ),
            ),
            Way(
                "expand",
                expand,
                "{expand|open} the {brackets|parentheses} {from inside|starting inside}",
                (
                    "{carry|take} the {next|following} operation to x and to the number",
                    "then {solve|finish} what is left",
                ),
            ),
        ),
        (
            Way(
                "repeat",
                repeat,
                "{repeat|redo} the {outermost|outer} operation on the {result|right side}",
                (
                    "{find|see} what was done to x {last|finally}",
                    "do the same {again|once again} to the {result|right side}",
                ),
            ),
            Way(
                "confuse",
                confuse,
                "{take|treat} factors as {terms|summands} and {terms|summands} as factors",
                ("for a factor use {sums|differences}", "for a {term|summand} use {products|quotients}"),
            ),
        ),
        skill=0.80,
        hard_skill=0.35,
        is_hard=multiplied,
        fidelity=0.95,
    ),
    Family(
        "story",
        "number puzzle told forwards",
        sample_story,
        read_story,
        (
            Way(
                "undo",
                undo,
                "{go|work} {backwards|in reverse} from the {end|result} of the story",
                ("{take|pick} the last {event|action}", "make it {undone|unhappen} and go on to the one before"),
            ),
            Way(
                "expand",
                expand,
                "{keep|carry} the unknown {along|with you} from the {start|beginning}",
                (
                    "{let|have} each {event|action} change the number and its {multiple|share}",
                    "at the end {solve|finish} for it",
                ),
            ),
        ),
        (
            Way(
                "repeat",
                repeat,
                "{do|play} the story {again|once again} on the {end|result}",
                ("{take|pick} the last {event|action}", "do {just|exactly} what it says"),
            ),
            Way(
                "confuse",
                confuse,
                "{mix|swap} {shares|folds} with {mores|lesses}",
                (
                    "where the story {shares|folds} use {sums|differences}",
                    "where it says more or less use {products|quotients}",
                ),
            ),
        ),
        skill=0.72,
        hard_skill=0.32,
        is_hard=lessened,
        fidelity=0.91,
    ),
)
