"""What became of a problem: kept with a strategy, rejected with the reason, or failed with the last error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sgpo.problems import Problem
from sgpo.strategies.costs import Usage
from sgpo.strategies.record import Strategy

Status = Literal["kept", "rejected", "failed"]


@dataclass(frozen=True)
class Candidate:
    """One sample of the extract prompt.

    ``flags`` says what is wrong with it, as ``kind: detail``; without flags it may be kept. ``score`` is the judge's,
    0 to 1. ``text`` is what the model wrote, the repaired text if it was ``repaired``.

    Example: ``Candidate("Problem type: ...", Strategy(...), flags=("answer: 12",), repaired=False, score=None)``
    """

    text: str
    strategy: Strategy | None = None
    flags: tuple[str, ...] = ()
    repaired: bool = False
    score: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one problem, and what it cost, earlier runs included.

    ``reason`` is one of a few fixed texts, so that reasons can be counted; ``detail`` is the last error.

    Example: ``Outcome(problem, "kept", strategy=Strategy(...), score=0.9, candidates=(...), usage=Usage(2, ...))``
    """

    problem: Problem
    status: Status
    reason: str | None = None
    detail: str | None = None
    strategy: Strategy | None = None
    score: float | None = None
    candidates: tuple[Candidate, ...] = ()
    usage: Usage = field(default_factory=Usage)
