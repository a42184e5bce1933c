"""Cards: the strategies of the mini-world. A card says, in words of its family, how to choose each step.

A card belongs to a family and a *way*, a route or a mistake. An *open* card names two routes and leaves the choice.
Each is worded in many ways, by interchangeable words; a quarter of the wordings is held out for a test.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from functools import lru_cache

from sgpo.miniworld.families import FAMILIES
from sgpo.miniworld.families.puzzles import Family, Way
from sgpo.strategies.record import Strategy

_SLOT = re.compile(r"\{([^}]*)\}")


@dataclass(frozen=True)
class Card:
    """A strategy's text and the ways that it names: one, or the family's routes where it is open."""

    family: str
    ways: tuple[Way, ...]
    strategy: Strategy

    @property
    def text(self) -> str:
        return self.strategy.text


def is_held_out(strategy: Strategy) -> bool:
    """A quarter of the wordings, by a hash of the text."""
    return hashlib.sha256(strategy.text.encode()).digest()[0] % 4 == 0


def card(family: Family, ways: tuple[Way, ...], rng: random.Random, *, held_out: bool = False) -> Card:
    """A card in a random wording, one that is held out or one that is not."""
    while True:
        strategy = _worded(family, ways, rng)
        if is_held_out(strategy) == held_out:
            return Card(family.name, ways, strategy)


def _worded(family: Family, ways: tuple[Way, ...], rng: random.Random) -> Strategy:
    principle, steps = _templates(ways)
    return Strategy(family.problem_type, _filled(principle, rng), tuple(_filled(step, rng) for step in steps))


def _templates(ways: tuple[Way, ...]) -> tuple[str, tuple[str, ...]]:
    """Principle and steps with their slots."""
    principle = " or ".join(way.principle for way in ways)
    return principle, ways[0].steps if len(ways) == 1 else tuple(way.steps[0] for way in ways)


def _filled(text: str, rng: random.Random) -> str:
    return _SLOT.sub(lambda slot: rng.choice(slot[1].split("|")), text)


def right_card(family: Family, rng: random.Random, open_share: float, *, held_out: bool = False) -> Card:
    """A card of a route, or with probability `open_share` one that leaves the route open."""
    ways = family.routes if rng.random() < open_share else (rng.choice(family.routes),)
    return card(family, ways, rng, held_out=held_out)


def mistaken_card(family: Family, rng: random.Random) -> Card:
    return card(family, (rng.choice(family.mistakes),), rng)


def foreign_card(family: Family, rng: random.Random, open_share: float) -> Card:
    """A right card of another family."""
    other = rng.choice([name for name in FAMILIES if name != family.name])
    return right_card(FAMILIES[other], rng, open_share)


def card_of(kind: str, family: Family, rng: random.Random, open_share: float) -> Card:
    """A card for a family's problem: ``right``, ``mistaken`` or ``foreign``."""
    if kind == "mistaken":
        return mistaken_card(family, rng)
    return {"right": right_card, "foreign": foreign_card}[kind](family, rng, open_share)


# Reading


@dataclass(frozen=True)
class Recognised:
    """The ways that a text names, and what it says beyond their wording."""

    ways: tuple[Way, ...]
    rest: str


def named_by_principle(family: Family, principle: str) -> Recognised | None:
    """The ways of a family that a principle names, in whichever wording; None if it names none."""
    return _recognised({ways: (_templates(ways)[0],) for ways in _combinations(family)}, (principle,))


def named_by_steps(family: Family, steps: tuple[str, ...]) -> Recognised | None:
    """The ways of a family that steps name, in whichever wording; None if they name none."""
    return _recognised({ways: _templates(ways)[1] for ways in _combinations(family)}, steps)


def ways_of(family: Family, strategy: Strategy) -> tuple[Way, ...]:
    """The ways that a card of this family names: one, or both routes where it is open; none for any other strategy."""
    if strategy.problem_type != family.problem_type:
        return ()
    found = {named_by_principle(family, strategy.strategy), named_by_steps(family, strategy.steps)}
    (one, *others) = found
    return one.ways if one and not others and not one.rest else ()


def _combinations(family: Family) -> list[tuple[Way, ...]]:
    return [*((way,) for way in (*family.routes, *family.mistakes)), family.routes]


def _recognised(templates: dict[tuple[Way, ...], tuple[str, ...]], texts: tuple[str, ...]) -> Recognised | None:
    """Of the ways whose wordings the texts begin with, those with the longest."""
    best, longest = None, 0
    for ways, of_ways in templates.items():
        if len(of_ways) != len(texts):
            continue
        found = [_pattern(template).match(text) for template, text in zip(of_ways, texts, strict=True)]
        if all(found) and (length := sum(match.end() for match in found if match)) > longest:
            rest = " ".join(text[match.end() :] for match, text in zip(found, texts, strict=True) if match)
            best, longest = Recognised(ways, rest.strip()), length
    return best


@lru_cache(maxsize=1000)
def _pattern(template: str) -> re.Pattern[str]:
    parts = _SLOT.split(template)  # fixed text and slots in turn
    words = (f"(?:{part})" if number % 2 else re.escape(part) for number, part in enumerate(parts))
    return re.compile("".join(words) + r"(?![A-Za-z])")
