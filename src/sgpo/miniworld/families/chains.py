"""Powers, units and ages: a number and the links of a chain that leads on from it.

Two routes: *follow* the chain link by link, or *join* its next two links first: links of one kind become one link
(times 2, times 3: times 6), a sum before a product is spread over it (plus 3, times 2: times 2, plus 6).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from sgpo.miniworld.families.arithmetic import ARITHMETIC, CONFUSED, INVERSE, PRODUCTS, SUMS, exact, result_in, written
from sgpo.miniworld.families.operations import Operation, forward_operations, free_operations, leaves_integers
from sgpo.miniworld.families.puzzles import Family, Move, Puzzle, State, Way, drawn_condition, is_blocked, works_out


@dataclass(frozen=True)
class Chain:
    """A running value and the operations still to be carried out on it."""

    value: int
    operations: tuple[Operation, ...]

    def answer(self) -> int | None:
        return None if self.operations else self.value

    def truth(self) -> Fraction | None:
        value: Fraction | None = Fraction(self.value)
        for method, operand in self.operations:
            value = None if value is None else exact(method, value, operand)
        return value

    def moves(self) -> Mapping[str, Move]:
        (_, operand), rest = self.operations[0], self.operations[1:]
        moves = {}
        for method in ARITHMETIC:
            if (computation := written(method, self.value, operand)) is not None:
                moves[method] = Move((computation,), Chain(result_in(computation), rest))
        if joined := self._joined():
            moves["join"] = joined
        return moves

    def _joined(self) -> Move | None:
        if len(self.operations) < 2:
            return None
        first, second, *rest = self.operations
        if (first[0] in SUMS) == (second[0] in SUMS):
            return self._merged(first, second, tuple(rest))
        if first[0] in SUMS:
            return self._spread(first, second, tuple(rest))
        return None

    def _merged(self, first: Operation, second: Operation, rest: tuple[Operation, ...]) -> Move | None:
        """+3, -1 is +2; *6, /2 is *3."""
        positive, negative = SUMS if first[0] in SUMS else PRODUCTS
        signs = positive if first[0] == second[0] else negative
        larger, smaller = (first, second) if first[1] >= second[1] else (second, first)
        if larger[1] == smaller[1] and signs == negative:
            return None
        computation = written(signs, larger[1], smaller[1])
        if computation is None:
            return None
        operation = (larger[0], result_in(computation))
        return Move((computation,), Chain(self.value, (operation, *rest)))

    def _spread(self, first: Operation, second: Operation, rest: tuple[Operation, ...]) -> Move | None:
        """+3, *2 is *2, +6."""
        method, factor = second
        parts = written(method, self.value, factor), written(method, first[1], factor)
        if parts[0] is None or parts[1] is None:
            return None
        value, operand = (result_in(part) for part in parts if part)
        return Move((parts[0], parts[1]), Chain(value, ((first[0], operand), *rest)))


def follow(state: State) -> str:
    return _chain(state).operations[0][0]


def join(state: State) -> str:
    return "join" if "join" in state.moves() else follow(state)


def swap(state: State) -> str:
    return INVERSE[_chain(state).operations[0][0]]


def confuse(state: State) -> str:
    return CONFUSED[_chain(state).operations[0][0]]


def adds(state: State) -> bool:
    return follow(state) == "add"


def divides(state: State) -> bool:
    return follow(state) == "divide"


def _chain(state: State) -> Chain:
    assert isinstance(state, Chain)
    return state


# Powers


def sample_powers(rng: random.Random, depth: int) -> Puzzle:
    """(a^3*a^4)^2: the exponents of a product are added, those of a power of a power multiplied."""
    state = _sampled(rng, depth, 9)
    return Puzzle("powers", powers_text(f"a^{state.value}", list(state.operations)), state)


def _sampled(rng: random.Random, depth: int, largest: int) -> Chain:
    fits = drawn_condition(rng)
    while True:
        start = rng.randint(2, largest)
        drawn = (free_operations if fits is is_blocked else forward_operations)(rng, depth, start)
        if drawn is not None and (fits is not is_blocked or leaves_integers(drawn[0], start)):
            state = Chain(start, tuple(drawn[0]))
            if works_out(state) and fits(state, follow):
                return state


def powers_text(term: str, operations: list[Operation]) -> str:
    for method, operand in operations:
        if method in SUMS:
            term = f"{term}{'*' if method == 'add' else '/'}a^{operand}"
        else:
            term = f"({term})^{operand}" if method == "multiply" else f"({term})^(1/{operand})"
    return f"Write {term} as a^n. n?"


_POWERS = re.compile(r"Write (?P<term>[a()^\d*/]+) as a\^n\. n\?")
_POWER = re.compile(r"\((?P<inner>.+)\)\^(?:(?P<power>\d+)|\(1/(?P<root>\d+)\))")
_PRODUCT = re.compile(r"(?P<inner>.+)(?P<sign>[*/])a\^(?P<operand>\d+)")


def read_powers(text: str) -> State | None:
    if not (found := _POWERS.fullmatch(text)):
        return None
    term, operations = found["term"], list[Operation]()
    while not (single := re.fullmatch(r"a\^(\d+)", term)):
        if outer := _POWER.fullmatch(term):
            operations.append(("multiply", int(outer["power"])) if outer["power"] else ("divide", int(outer["root"])))
        elif outer := _PRODUCT.fullmatch(term):
            operations.append(("add" if outer["sign"] == "*" else "subtract", int(outer["operand"])))
        else:
            return None
        term = outer["inner"]
    return Chain(int(single[1]), tuple(reversed(operations)))


# Units

UNITS = "ABCDEFGHJKLMNPQRSTUVWYZ"


def sample_units(rng: random.Random, depth: int) -> Puzzle:
    """1 A=3 B, 2 B=1 C: from A to B one multiplies, from B to C one divides."""
    while True:
        start = rng.randint(1, 60)
        operations = tuple((rng.choice(PRODUCTS), rng.randint(2, 6)) for _ in range(depth))
        if works_out(state := Chain(start, operations)):
            return Puzzle("units", units_text(start, operations, rng.sample(UNITS, depth + 1)), state)


def units_text(start: int | str, operations: tuple[Operation, ...], names: list[str]) -> str:
    facts = [
        f"1 {a}={operand} {b}" if method == "multiply" else f"{operand} {a}=1 {b}"
        for (method, operand), a, b in zip(operations, names, names[1:], strict=False)
    ]
    return f"{', '.join(facts)}. {start} {names[0]} is how many {names[-1]}?"


_UNITS = re.compile(r"(?P<facts>\d+ .+)\. (?P<start>\d+) (?P<from>[A-Z]) is how many (?P<to>[A-Z])\?")


def read_units(text: str) -> State | None:
    if not (found := _UNITS.fullmatch(text)):
        return None
    unit, operations = found["from"], list[Operation]()
    for fact in found["facts"].split(", "):
        parts = re.fullmatch(r"(\d+) ([A-Z])=(\d+) ([A-Z])", fact)
        if parts is None or unit != parts[2] or "1" not in (parts[1], parts[3]):
            return None
        operations.append(("multiply", int(parts[3])) if parts[1] == "1" else ("divide", int(parts[1])))
        unit = parts[4]
    return Chain(int(found["start"]), tuple(operations)) if unit == found["to"] else None


# Ages

AGE_WORDS = {
    "add": "{name} is {n} older.",
    "subtract": "{name} is {n} younger.",
    "multiply": "{name} is {n} fold.",
    "divide": "{name} is one of {n} parts.",
}
NAMES = ("Ann", "Ben", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon")


def sample_ages(rng: random.Random, depth: int) -> Puzzle:
    state = _sampled(rng, depth, 30)
    names = rng.sample(NAMES, depth + 1)
    sentences = [f"{names[0]} is {state.value}."]
    sentences += [AGE_WORDS[m].format(name=name, n=n) for (m, n), name in zip(state.operations, names[1:], strict=True)]
    return Puzzle("ages", f"{' '.join(sentences)} And {names[-1]}?", state)


_AGES = re.compile(r"\w+ is (?P<start>\d+)\. (?P<sentences>.+) And \w+\?")
_SENTENCES = {
    method: re.compile(re.escape(words).replace(r"\{name\}", r"\w+").replace(r"\{n\}", r"(\d+)"))
    for method, words in AGE_WORDS.items()
}


def read_ages(text: str) -> State | None:
    if not (found := _AGES.fullmatch(text)):
        return None
    operations: list[Operation] = []
    for sentence in re.findall(r"[^.]+\.", found["sentences"]):
        read = [(m, match) for m, pattern in _SENTENCES.items() if (match := pattern.fullmatch(sentence.strip()))]
        if len(read) != 1:
            return None
        operations.append((read[0][0], int(read[0][1][1])))
    return Chain(int(found["start"]), tuple(operations))


FAMILIES = (
    Family(
        "powers",
        "powers of one base",
        sample_powers,
        read_powers,
        (
            Way(
                "follow",
                follow,
                "{turn|change} each operation on powers into one on {exponents|indices}, from inside",
                ("{add|collect} for a product", "{multiply|stretch} for a power, in {turn|order}"),
            ),
            Way(
                "join",
                join,
                "{join|combine} the {exponents|indices} of two {steps|layers} before they {act|work}",
                ("{bring|take} an outer power {into|inside} the product", "{join|combine} what is {alike|similar}"),
            ),
        ),
        (
            Way(
                "confuse",
                confuse,
                "{read|take} a product of powers as a power of {exponents|indices}",
                ("multiply {exponents|indices} of a product", "add those of a power"),
            ),
            Way(
                "swap",
                swap,
                "{reverse|invert} each operation on {exponents|indices}",
                ("{shrink|lessen} for a product", "{shrink|lessen} for a power"),
            ),
        ),
        skill=0.72,
        hard_skill=0.12,
        is_hard=adds,
        fidelity=0.87,
    ),
    Family(
        "units",
        "chain of unit conversions",
        sample_units,
        read_units,
        (
            Way(
                "follow",
                follow,
                "{follow|walk} the facts and {watch|see} on which side the one is",
                (
                    "{multiply|grow} if the {present|current} unit is the one",
                    "{divide|shrink} if it is the {many|several}",
                ),
            ),
            Way(
                "join",
                join,
                "{join|combine} two facts into one fact {before|prior to} converting",
                ("{watch|see} on which side the one is", "{link|tie} the {first|starting} unit to the unit after next"),
            ),
        ),
        (
            Way(
                "swap",
                swap,
                "{reverse|invert} the facts: the one {shrinks|divides}",
                (
                    "{divide|shrink} if the {present|current} unit is the one",
                    "{multiply|grow} if it is the {many|several}",
                ),
            ),
            Way(
                "confuse",
                confuse,
                "{count|take} the facts as {differences|gaps} of units",
                ("{add|collect} if the {present|current} unit is the one", "subtract if it is the {many|several}"),
            ),
        ),
        skill=0.78,
        hard_skill=0.30,
        is_hard=divides,
        fidelity=0.93,
    ),
    Family(
        "ages",
        "chain of comparisons",
        sample_ages,
        read_ages,
        (
            Way(
                "follow",
                follow,
                "{go|walk} from {person|name} to {person|name}",
                ("{start|begin} with the age that is given", "{turn|change} each comparison into its operation"),
            ),
            Way(
                "join",
                join,
                "{join|combine} two comparisons into one",
                ("{leave|skip} the {person|name} between them", "{link|tie} the first to the third"),
            ),
        ),
        (
            Way(
                "confuse",
                confuse,
                "{read|take} older and younger as {folds|parts}, {folds|parts} as older and younger",
                ("{start|begin} with the age that is given", "swap the two {kinds|sorts} of comparison"),
            ),
            Way(
                "swap",
                swap,
                "{read|take} each comparison in the {other|opposite} direction",
                ("{start|begin} with the age that is given", "{reverse|invert} each comparison"),
            ),
        ),
        skill=0.75,
        hard_skill=0.30,
        is_hard=divides,
        fidelity=0.89,
    ),
)
