"""results.jsonl: a line for each finished cell, with all that tables and pictures need.

{"base": "base-101", "seed": 1, "method": "sgpo",      seed: null for the warm-up, which has none of its own
 "sets": {"test": {"score": 0.44, "rates": {"test-401-0": 0.75, ...}, "families": {...}, ...}},
 "totals": {"completions": 14400, "sampled_tokens": ..., "trained_tokens": ..., "seconds": {...}},
 "curves": {"step": [...], "reward/autonomous": [...], ...}, "dev": {"step": [...], "score": [...], ...},
 "final": {...}, "budget": {...}, "configuration": {...}, "versions": {...}}
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sgpo.files import append_whole

CellResult = dict[str, Any]
RESULTS = "results.jsonl"
KEYS = ("base", "seed", "method", "sets")
PHASES = ("sample", "verify", "assemble", "optimise")  # of training, in "seconds" of the totals
COUNTERS = ("step", "samples", "sampled_tokens", "trained_tokens", "seconds")  # columns of the curves, what was spent


def read_results(path: Path) -> list[CellResult]:
    """All finished cells; a last line that a crash cut off is none.

    Raises:
        ValueError: a line that is no result.
    """
    rows = []
    for number, line in enumerate(_whole_lines(path), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} of {path} is not JSON: {error}") from error
        if not isinstance(row, dict) or any(key not in row for key in KEYS):
            raise ValueError(f"line {number} of {path} is no result of sgpo compare: it needs {', '.join(KEYS)}")
        rows.append(row)
    keys = [key_of(row) for row in rows]
    if repeated := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"{path} has two results of {repeated[0]}: delete one of the lines")
    return rows


def key_of(row: CellResult) -> tuple[str, int | None, str]:
    return row["base"], row["seed"], row["method"]


def append_result(path: Path, row: CellResult) -> None:
    """Append a line, which is on the device before this returns.

    Raises:
        OSError: it could not be written; the file is as it was.
    """
    whole = _whole_lines(path)
    if path.exists() and sum(map(len, whole)) < path.stat().st_size:
        os.truncate(path, sum(map(len, whole)))  # what a crash cut off
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        append_whole(handle, json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)


def _whole_lines(path: Path) -> list[bytes]:
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith(b"\n")]


def methods_of(rows: Sequence[CellResult]) -> list[str]:
    """In the order in which they finished first."""
    return list(dict.fromkeys(row["method"] for row in rows))
