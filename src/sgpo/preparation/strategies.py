"""Strategies that are joined by the sha256 of the question's text, and the checks that all strategies must pass.

A file of strategies is JSONL with the columns ``question_sha256`` and ``strategy``. `SHIPPED` come with the package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sgpo.configuration import RECIPES
from sgpo.domains.mathematics.leaks import find_leaks
from sgpo.preparation.dropped import Dropped
from sgpo.preparation.sources import Found
from sgpo.preparation.spool import Spool
from sgpo.problems.reading import read_rows
from sgpo.strategies.record import Limits, StrategyFormatError, parse_strategy, structure_flaw

SHIPPED: Mapping[str, Path] = {"gsm8k": RECIPES / "gsm8k" / "strategies-train.jsonl"}


@dataclass(frozen=True)
class Joined:
    """What became of strategies. Example: ``Joined(offered=800, joined=798, checked=798, passed=797)``"""

    offered: int = 0  # in the file
    joined: int = 0
    checked: int = 0  # joined, and those that the sources had
    passed: int = 0


def strategies_from(name: str) -> dict[str, str]:
    """By the hash of the question. Raises ValueError for a file without these columns, FileNotFoundError without it."""
    path = SHIPPED.get(name, Path(name))
    if not path.is_file():
        raise FileNotFoundError(
            f"there are no strategies {name}: name one of {', '.join(SHIPPED)}, or a .jsonl file with the columns "
            "question_sha256 and strategy"
        )
    found = {}
    for number, row in enumerate(read_rows(path)):
        key, strategy = row.get("question_sha256"), row.get("strategy")
        if not isinstance(key, str) or not isinstance(strategy, str):
            raise ValueError(f"{path}, row {number}: needs the texts question_sha256 and strategy")
        found[key] = strategy
    return found


def join_strategies(
    candidates: Sequence[Found], strategies: Mapping[str, str], dropped: Dropped, spool: Spool
) -> Joined:
    """Fill in strategies where there are none; those that fail a check are dropped, their problems stay."""
    joined = checked = passed = 0
    for each in candidates:
        if each.strategy is None and strategies:
            each.strategy = strategies.get(hashlib.sha256(each.prompt.encode()).hexdigest())
            joined += each.strategy is not None
        if each.strategy is not None:
            checked += 1
            each.strategy = _checked(each, dropped, spool)
            passed += each.strategy is not None
    return Joined(len(strategies), joined, checked, passed)


def _checked(candidate: Found, dropped: Dropped, spool: Spool) -> str | None:
    """The strategy in its usual form; None if it fails a check."""
    assert candidate.strategy is not None
    try:
        strategy = parse_strategy(candidate.strategy)
    except StrategyFormatError as error:
        dropped.add("not in three parts", f"{candidate.where}: {error}")
        return None
    if flaw := structure_flaw(strategy, Limits()):
        dropped.add("too long, or without steps", f"{candidate.where}: {flaw}")
        return None
    response = spool.text(candidate.responses[0].place) if candidate.responses else ""
    if leaks := find_leaks(strategy.text, candidate.prompt, candidate.gold, response):
        dropped.add(f"tells the {leaks[0].kind}", f"{candidate.where}: {leaks[0].written!r}")
        return None
    return strategy.text
