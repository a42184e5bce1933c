"""The page of runs as a file, there whole or not at all: whoever loads it while it is rewritten sees no half."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sgpo.files import replacing
from sgpo.reports.run_folder import RunFolder, Score
from sgpo.reports.run_page import run_report


def write_report(output: Path, runs: Sequence[RunFolder], scores: Sequence[Score] = (), *, refresh: int = 0) -> None:
    """Raises ValueError for a table of completions that cannot be read. `refresh` as for `run_report`."""
    text = run_report(runs, scores, refresh=refresh)
    with replacing(output) as partial:
        partial.write_text(text, encoding="utf-8")
