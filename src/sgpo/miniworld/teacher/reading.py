"""From the text of a mini-world problem back to its puzzle.

The teacher knows the problems of the families. Composed ones are for evaluation, and nobody asks a teacher about them:
it refuses them as it does everything else.
"""

from __future__ import annotations

from functools import lru_cache

from sgpo.miniworld.families import FAMILIES
from sgpo.miniworld.families.puzzles import Puzzle, works_out


class UnknownProblemError(ValueError):
    """A text that is no problem of a family of the mini-world."""


@lru_cache(maxsize=4096)  # a problem is asked about several times: extract, repairs, score
def read_puzzle(text: str) -> Puzzle:
    """The puzzle that a text states, equal to the one it was written from.

    Raises `UnknownProblemError`, also for a problem that cannot be worked out in the integers from -99 to 99.
    """
    for family in FAMILIES.values():
        start = family.read(text)
        if start is not None and works_out(start):
            return Puzzle(family.name, text, start)
    raise UnknownProblemError(f"no problem of the mini-world: {text[:80]!r}")
