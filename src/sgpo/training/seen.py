"""Which problems a model has learnt in a warm-up: recorded in the run's folder, found again by whoever trains on it.

The record, seen.json, holds a hash of each problem's normalised text. A run that begins from such a model hands it on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from sgpo.models.adapters import chain_of
from sgpo.problems.inspection import ProblemsByRow, RowCheck
from sgpo.problems.texts import text_key

RECORD = "seen.json"
SEEN = ("refuse", "allow")


def save_seen(folder: str | Path, keys: Iterable[str]) -> None:
    """Without keys there is no record."""
    path, ordered = Path(folder) / RECORD, sorted(set(keys))
    if ordered:
        path.write_text(json.dumps({"problems": ordered}) + "\n")
    else:
        path.unlink(missing_ok=True)


def seen_by(model: str) -> frozenset[str]:
    """The keys of all problems that a model, or one below its adapters, has learnt; none of one without a record.

    Raises:
        ValueError: an adapter that names no base, or a record that is none.
    """
    found: set[str] = set()
    for name in chain_of(model):
        folder = Path(name)
        places = [folder, *([folder.parent] if folder.name.startswith("checkpoint-") else [])]
        for path in (place / RECORD for place in places):
            if path.is_file():
                found |= _keys(path)
    return frozenset(found)


def _keys(path: Path) -> set[str]:
    try:
        return set(json.loads(path.read_text())["problems"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no record of learnt problems: delete it, or write it anew with sgpo sft"
        ) from error


def seen_problems(keys: frozenset[str], model: str) -> RowCheck:
    """Rows that the model's warm-up had."""

    def check(rows: ProblemsByRow) -> dict[int, str]:
        said = f"was learnt in the warm-up of {model}; seen_problems: allow trains on it all the same"
        return {row: said for row, problem in rows.items() if text_key(problem.prompt) in keys}

    return check
