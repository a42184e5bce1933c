"""What the pictures show: the course of training of each method, from results.jsonl or from run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sgpo.comparison.collecting import samples_of, training_result
from sgpo.comparison.results import CellResult, read_results
from sgpo.comparison.step_picture import MeasuredTarget, largest_target
from sgpo.reports.style import smoothed

Columns = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class Band:
    """A metric of a method over what was spent: the mean over cells, and the smallest and largest value. [points] each.

    ``x`` is a mean over cells too, since two seeds need different numbers of tokens for the same step.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    cells: int


@dataclass(frozen=True)
class Source:
    """Rows with curves. Those of run folders have no scores, but may have a target token by token."""

    rows: list[CellResult]
    scored: bool
    target: MeasuredTarget | None = None  # of run folders, if they keep any


def read_source(paths: Sequence[Path]) -> Source:
    """One results.jsonl, or the folders of training runs.

    Raises:
        ValueError: something else, or both at once.
    """
    files = [path for path in paths if path.is_file()]
    if files and len(paths) > 1:
        raise ValueError("give one results.jsonl, or folders of training runs, not several things at once")
    if files:
        rows = read_results(files[0])
        if not rows:
            raise ValueError(f"{files[0]} holds no results yet")
        return Source(rows, scored=True)
    return Source([_row_of_run(path) for path in paths], scored=False, target=largest_target(paths))


def _row_of_run(folder: Path) -> CellResult:
    """A training run by its folder's name. Raises ValueError for another folder."""
    for name in ("metrics.jsonl", "config.yaml"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is no folder of a training run: it has no {name}; or give a results.jsonl")
    values = yaml.safe_load((folder / "config.yaml").read_text())
    samples = samples_of(values)
    found = training_result(folder, samples, values["problems_per_rollout"], values["updates_per_rollout"])
    if not found["curves"]["step"]:
        raise ValueError(f"{folder / 'metrics.jsonl'} has no line of an update yet")
    return {"base": "", "seed": None, "method": folder.name, "sets": {}, **found}


def band(rows: Sequence[CellResult], part: str, metric: str, x: str = "step", *, smooth: bool = False) -> Band | None:
    """A metric over cells of one method; None if no cell has it.

    Args:
        part: "curves" or "dev".
        smooth: a moving mean within each cell.

    Cells are joined at the steps that all of them have.
    """
    cells = [_points(row.get(part) or {}, metric, x, smooth) for row in rows]
    cells = [cell for cell in cells if cell]
    if not cells:
        return None
    steps = sorted(set.intersection(*(set(cell) for cell in cells)))
    if not steps:
        return None
    where = np.array([[cell[step][0] for step in steps] for cell in cells])
    values = np.array([[cell[step][1] for step in steps] for cell in cells])
    return Band(where.mean(axis=0), values.mean(axis=0), values.min(axis=0), values.max(axis=0), len(cells))


def _points(columns: Columns, metric: str, x: str, smooth: bool) -> dict[Any, tuple[float, float]]:
    """x and value by step, where the metric was measured."""
    if metric not in columns:
        return {}
    found = [
        (step, at, value)
        for step, at, value in zip(columns["step"], columns[x], columns[metric], strict=True)
        if at is not None and value is not None
    ]
    values = [value for _, _, value in found]
    values = smoothed(values) if smooth else values
    return {step: (at, value) for (step, at, _), value in zip(found, values, strict=True)}
