"""From the lines of results.jsonl to the numbers of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sgpo.comparison.results import PHASES, CellResult, methods_of
from sgpo.comparison.statistics import (
    CellKey,
    CrossedDifference,
    RatesByCell,
    crossed_difference,
    holm,
    standard_deviation,
)


@dataclass(frozen=True)
class MethodSummary:
    """One method on one set. `scores` are by base model and seed; the warm-up has None in place of a seed."""

    method: str
    samples: int | None  # a problem, in training
    scores: dict[tuple[str, int | None], float]
    difference: CrossedDifference | None = None  # to the baseline
    adjusted_p: float | None = None  # Holm's, over the methods of the set

    @property
    def mean(self) -> float:
        """Over the seeds of each base model, and over base models."""
        bases = list(dict.fromkeys(base for base, _ in self.scores))
        means = [_mean([score for (own, _), score in self.scores.items() if own == base]) for base in bases]
        return _mean(means)

    @property
    def deviation(self) -> float | None:
        return standard_deviation(list(self.scores.values()))


@dataclass(frozen=True)
class SetSummary:
    """One set, or the average over all, which has no k of its own."""

    name: str
    problems: int
    k: int | None
    lines: list[MethodSummary]


@dataclass(frozen=True)
class Cost:
    """Means of a method over its cells; None where nothing was logged."""

    method: str
    completions: float | None
    sampled_tokens: float | None
    trained_tokens: float | None
    seconds: float


def summarise(rows: Sequence[CellResult], baseline: str, methods: Sequence[str] = ()) -> list[SetSummary]:
    """Every set with all methods that have results, in the order of `methods`.

    Raises:
        ValueError: no results, or none of the baseline.
    """
    names = [name for name in (methods or methods_of(rows)) if name in methods_of(rows)]
    rows = [row for row in rows if row["method"] in names]
    if not rows:
        raise ValueError("there are no results yet")
    sets = list(dict.fromkeys(name for row in rows for name in row["sets"]))
    groups = [[name] for name in sets] + ([sets] if len(sets) > 1 else [])
    return [_summary(group, rows, names, baseline) for group in groups]


def _summary(sets: list[str], rows: Sequence[CellResult], methods: Sequence[str], baseline: str) -> SetSummary:
    """Of one set, or of the average over several."""
    rows = [row for row in rows if all(name in row["sets"] for name in sets)]
    found = {method: [row for row in rows if row["method"] == method] for method in methods}
    found = {method: of_method for method, of_method in found.items() if of_method}
    seeds = sorted({row["seed"] for row in rows if row["seed"] is not None})
    rates = {method: [rates_by_cell(each, name, seeds) for name in sets] for method, each in found.items()}
    lines = []
    for method, of_method in found.items():
        scores = {(row["base"], row["seed"]): _mean([row["sets"][n]["score"] for n in sets]) for row in of_method}
        difference = None
        if method != baseline and baseline in rates:
            difference = crossed_difference(list(zip(rates[baseline], rates[method], strict=True)))
        samples = next((row["budget"]["samples"] for row in of_method if row.get("budget")), None)
        lines.append(MethodSummary(method, samples, dict(sorted(scores.items(), key=_by_seed)), difference))
    tested = [line.difference for line in lines if line.difference is not None]
    adjusted = iter(holm([difference.p for difference in tested]))
    lines = [line if line.difference is None else replace(line, adjusted_p=next(adjusted)) for line in lines]
    measured = [rows[0]["sets"][name] for name in sets] if rows else []
    problems = sum(len(each["rates"]) for each in measured)
    if len(sets) > 1:
        return SetSummary(f"average of {', '.join(sets)}", problems, None, lines)
    return SetSummary(sets[0], problems, measured[0]["k"], lines)


def _by_seed(item: tuple[tuple[str, int | None], float]) -> tuple[str, int]:
    (base, seed), _ = item
    return base, -1 if seed is None else seed


def rates_by_cell(rows: Sequence[CellResult], name: str, seeds: Sequence[int]) -> RatesByCell:
    """Rates by base model and seed; those of the warm-up, which has none of its own, stand for every seed."""
    found: dict[CellKey, dict[str, float]] = {}
    for row in rows:
        for seed in seeds if row["seed"] is None else [row["seed"]]:
            found[row["base"], seed] = row["sets"][name]["rates"]
    return found


def costs(rows: Sequence[CellResult], methods: Sequence[str] = ()) -> list[Cost]:
    names = [name for name in (methods or methods_of(rows)) if name in methods_of(rows)]
    return [_cost(name, [row for row in rows if row["method"] == name]) for name in names]


def _cost(method: str, rows: Sequence[CellResult]) -> Cost:
    totals = [row["totals"] for row in rows]

    def mean(name: str) -> float | None:
        values = [each[name] for each in totals if name in each]
        return _mean(values) if values else None

    seconds = _mean([_seconds(each["seconds"]) for each in totals])
    return Cost(method, mean("completions"), mean("sampled_tokens"), mean("trained_tokens"), seconds)


def _seconds(spent: dict[str, float]) -> float:
    """Of the phases of training, which a kill does not lose; of SFT, which tells none, of its command."""
    phases = [spent[phase] for phase in PHASES if phase in spent]
    return sum(phases) if phases else spent.get("train command", 0.0)


def budget_notes(rows: Sequence[CellResult], baseline: str, methods: Sequence[str] = ()) -> list[str]:
    """What is to be said of methods that had more or less of something than the baseline."""
    found: dict[str, dict[str, Any]] = {row["method"]: row["budget"] for row in rows if row.get("budget")}
    return notes_of(found, baseline, methods)


def notes_of(budgets: dict[str, dict[str, Any]], baseline: str, methods: Sequence[str] = ()) -> list[str]:
    if baseline not in budgets:
        return []
    notes = []
    for method in methods or budgets:
        if method not in budgets:
            continue
        ours, theirs = budgets[method], budgets[baseline]
        words = [
            f"{_words(name)} {ours[name]} against {theirs[name]}" for name in theirs if ours.get(name) != theirs[name]
        ]
        if words:
            notes.append(f"{method} has another budget than {baseline}: {', '.join(words)}")
    return notes


def _words(name: str) -> str:
    return {"samples": "samples a problem", "max_steps": "updates"}.get(name, name.replace("_", " "))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
