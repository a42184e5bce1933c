"""Problem families of the mini-world: each a feature to look at, several valid routes and typical mistakes.

arithmetic.py   computations in the integers from -99 to 99
puzzles.py      states, moves and rules; which options are valid
linear.py       equation, story: undo from outside, or multiply out from inside
chains.py       powers, units, and ages (unseen): go along a chain, or join its links first
order.py        products before sums
percent.py      parts of a present price, added or counted together
series.py       series, and tank (unseen): jump over repeated steps, or walk them
systems.py      two equations: eliminate, or insert one into the other
composed.py     two puzzles in a row, the answer of one in the other
"""

from __future__ import annotations

from sgpo.miniworld.families import chains, linear, order, percent, series, systems
from sgpo.miniworld.families.puzzles import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *linear.FAMILIES,
        *chains.FAMILIES,
        *order.FAMILIES,
        *percent.FAMILIES,
        *series.FAMILIES,
        *systems.FAMILIES,
    )
}
UNSEEN_FAMILIES = ("ages", "tank")  # pretrained, but without SFT or RL problems
TRAINED_FAMILIES = tuple(name for name in FAMILIES if name not in UNSEEN_FAMILIES)
