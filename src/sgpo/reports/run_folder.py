"""The folder of a training run, read for a report: configuration, data, metrics, scores. It needs no torch.

A run that goes on can be read as well: a half-written line of its metrics is left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgpo.reports.dynamics import MetricLines, read_metrics
from sgpo.runs.folder import completions_in

NORMAL_95 = 1.96  # standard errors on each side of a 95 % interval
EVAL_SCORE = re.compile(r"eval_avg_at_\d+")


@dataclass(frozen=True)
class Score:
    """A mean over problems. Example: ``Score("test, avg@4", 0.45, 0.02, "300 problems")``; shares from 0 to 1."""

    label: str
    mean: float
    standard_error: float | None
    detail: str

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, over problems, by the normal approximation; within 0 and 1."""
        if self.standard_error is None:
            return None
        half = NORMAL_95 * self.standard_error
        return max(0.0, self.mean - half), min(1.0, self.mean + half)


@dataclass(frozen=True)
class RunFolder:
    """Example: ``read_run(Path("runs/sgpo"), "sgpo")``; `completions` are the tables, in the order of their steps."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Sequence[tuple[str, str]]
    lines: MetricLines
    completions: Sequence[Path]

    @property
    def updates(self) -> int:
        """The newest update that was logged; 0 before the first."""
        return max((int(line.get("step", 0)) for line in self.lines), default=0)

    @property
    def is_finished(self) -> bool:
        return any("train_runtime" in line for line in self.lines)

    def values(self, metric: str) -> tuple[list[float], list[float]]:
        """Steps and finite values of a metric, where it was logged."""
        found = [(line["step"], line[metric]) for line in self.lines if "step" in line and metric in line]
        finite = [(step, value) for step, value in found if isinstance(value, int | float) and math.isfinite(value)]
        return [step for step, _ in finite], [float(value) for _, value in finite]


def read_run(folder: Path, name: str) -> RunFolder:
    """Raises ValueError for a folder without metrics, or with a file that is not what its name says."""
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file():
        raise ValueError(f"{folder} holds no metrics.jsonl: name the output_dir of sgpo train")
    try:
        lines = read_metrics(metrics)
    except ValueError as error:
        raise ValueError(f"{metrics} holds a line that is no JSON: {error}") from error
    return RunFolder(
        name,
        folder,
        read_mapping(folder / "config.yaml"),
        read_mapping(folder / "data.json"),
        _versions(folder / "README.md"),
        [line for line in lines if isinstance(line, dict)],
        list(completions_in(folder).values()),
    )


def read_runs(folders: Sequence[Path]) -> list[RunFolder]:
    """Runs under the last part of their paths that tells them apart. Raises ValueError as `read_run`."""
    return [read_run(folder, name) for name, folder in short_names(folders).items()]


def short_names(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by the last part of their paths that tells them apart. Raises ValueError for one that is named twice."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise ValueError("a folder is named twice: name each one once")
    depth = 1
    while len({each[-depth:] for each in parts}) < len(parts):
        depth += 1
    return {"/".join(each[-depth:]): folder for folder, each in zip(folders, parts, strict=True)}


def scores_of(run: RunFolder) -> list[Score]:
    """Of the first and of the newest evaluation during training, and of an `sgpo eval` whose output is the folder."""
    found = []
    evaluations = [line for line in run.lines if any(EVAL_SCORE.fullmatch(key) for key in line)]
    for line in [*evaluations[:1], *evaluations[1:][-1:]]:
        name = next(key for key in line if EVAL_SCORE.fullmatch(key))
        count = f", {line['eval_problems']:g} problems" if "eval_problems" in line else ""
        label = f"eval problems, avg@{name.rsplit('_', 1)[1]}"
        found.append(
            Score(label, line[name], line.get("eval_standard_error"), f"after {line.get('step', 0)} updates{count}")
        )
    summary = run.folder / "summary.json"
    return [*found, *(scores_of_evaluation(run.folder) if summary.is_file() else [])]


def scores_of_evaluation(folder: Path, name: str = "") -> list[Score]:
    """What `sgpo eval` wrote into a folder. Raises ValueError for a folder that holds no evaluation."""
    path = folder / "summary.json"
    try:
        benchmarks = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
        return [
            Score(
                f"{name + ': ' if name else ''}{benchmark}, avg@{each['k']}",
                each["average"],
                each["standard_error"],
                f"{each['problems']} problems",
            )
            for benchmark, each in benchmarks.items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no summary of sgpo eval: name a folder that its --output wrote") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """YAML, of which JSON is a part. Empty where the file is missing: a run from Python may lack one.

    Raises ValueError for a file of something else.
    """
    import yaml

    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no mapping of names to values")
    return found


def _versions(card: Path) -> list[tuple[str, str]]:
    """The table of the model card under "## Versions"; none before the run has ended."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    section = text.partition("\n## Versions\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", section, re.MULTILINE)
