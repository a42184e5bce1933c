"""The page of runs as a file, there whole or not at all: whoever loads it while it is rewritten sees no half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sgpo.files import replacing
from sgpo.reports.run_folder import RunFolder
from sgpo.reports.run_page import run_report


def write_report(
    output: Path, runs: Sequence[RunFolder], evaluations: Mapping[str, Path] | None = None, *, refresh: int = 0
) -> None:
    """Arguments and errors are those of `run_report`."""
    text = run_report(runs, evaluations, refresh=refresh)
    with replacing(output) as partial:
        partial.write_text(text, encoding="utf-8")
