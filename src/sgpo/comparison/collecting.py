"""From the folders of a training run and an evaluation to one line of results.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sgpo import __version__
from sgpo.comparison.results import COUNTERS, PHASES
from sgpo.errors import UsageError
from sgpo.reports.dynamics import MetricLines, read_metrics

POINTS = 200  # of a curve, at most
DIGITS = 4  # significant ones of what is measured
CURVES = (
    "reward/autonomous",
    "reward/guided",
    "length/autonomous",
    "length/guided",
    "entropy",
    "surprisal",
    "alpha",
    "target_share",
    "imitated_share",
    "divergence",
    "divergence_masked_share",
    "zero_variance_share",
    "grad_norm",
    "skipped_updates",
)


def samples_of(values: Mapping[str, Any]) -> int:
    """Completions that a method samples of a problem that has all that it may ask for.

    Args:
        values: of a run's configuration, the method's name and all of its options.
    """
    from sgpo.methods.registry import find_method, names_of
    from sgpo.problems import Problem

    complete = Problem("", "?", "0", response="?", strategy="?")
    method = find_method(values["method"])
    options = method.options(**{name: values[name] for name in names_of(method) if name in values})
    return sum(method.sample_counts(complete, options).values())


def evaluation_result(folder: Path, sets: Sequence[str]) -> dict[str, Any]:
    """The numbers of each set, under the comparison's names, which stand in the order of the evaluation.

    Raises UsageError: the evaluation's files cannot be read.
    """
    from sgpo.evaluation.compare import pass_rates  # slow to import, and not needed for the curves of a run
    from sgpo.evaluation.output import SUMMARY

    try:
        benchmarks = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["benchmarks"]
        rates = {name: pass_rates(folder, name) for name in benchmarks}
    except ValueError as error:
        raise UsageError(f"the evaluation in {folder} is damaged ({error}); delete that folder") from error
    found = {}
    for name, (own_name, numbers) in zip(sets, benchmarks.items(), strict=True):
        found[name] = {
            "score": short(numbers["average"], 6),
            "k": numbers["k"],
            "truncated": short(numbers["truncated"]),
            "length": short(numbers["length"]),
            **({"families": {key: short(value) for key, value in numbers["by"].items()}} if "by" in numbers else {}),
            "rates": {id: short(rate) for id, rate in rates[own_name].items()},
        }
    return found


def training_result(folder: Path, samples: int, problems: int, updates_per_rollout: int) -> dict[str, Any]:
    """Totals, the last numbers and curves of a training run, from its metrics.jsonl.

    Args:
        samples: completions a problem; `problems`: of a rollout batch.
    """
    rows = read_metrics(folder / "metrics.jsonl")
    updates = [row for row in rows if "loss" in row]
    counted = counters(updates, samples * problems, updates_per_rollout)
    phases = {phase: sum(row.get(f"seconds/{phase}", 0.0) for row in updates) for phase in PHASES}
    last = counted[-1] if counted else dict.fromkeys(COUNTERS, 0.0)
    return {
        "totals": {
            "completions": int(last["samples"]),
            "sampled_tokens": round(last["sampled_tokens"]),
            "trained_tokens": round(last["trained_tokens"]),
            "seconds": {phase: round(seconds, 1) for phase, seconds in phases.items()},
        },
        "final": {name: short(value) for name, value in _tail(updates).items()},
        "curves": curves(updates, counted),
        "dev": dev_curve(rows, counted),
    }


def counters(updates: MetricLines, batch: int, updates_per_rollout: int) -> list[dict[str, float]]:
    """What had been spent after each line of an update, in the line's steps, samples, tokens and seconds.

    Tokens are what was logged a second, times the seconds; both are of the occasions since the line before, of which
    seconds are the mean (docs/metrics.md).
    """
    found, spent, before = [], dict.fromkeys(COUNTERS, 0.0), 0
    for row in updates:
        step = row["step"]
        optimised = step - before
        sampled = math.ceil(step / updates_per_rollout) - math.ceil(before / updates_per_rollout)
        spent = {
            "step": step,
            "samples": spent["samples"] + batch * sampled,
            "sampled_tokens": spent["sampled_tokens"] + _tokens(row, "sample", sampled),
            "trained_tokens": spent["trained_tokens"] + _tokens(row, "optimise", optimised),
            "seconds": spent["seconds"]
            + row.get("seconds/optimise", 0.0) * optimised
            + sum(row.get(f"seconds/{phase}", 0.0) * sampled for phase in PHASES[:3]),
        }
        before = step
        found.append(spent)
    return found


def _tokens(row: Mapping[str, float], phase: str, occasions: int) -> float:
    return row.get(f"tokens_per_second/{phase}", 0.0) * row.get(f"seconds/{phase}", 0.0) * occasions


def curves(updates: MetricLines, counted: Sequence[Mapping[str, float]]) -> dict[str, list[Any]]:
    """Columns of equal length, the means of as few neighbouring updates as leave at most POINTS of them."""
    size = max(1, math.ceil(len(updates) / POINTS))
    bins = [slice(start, start + size) for start in range(0, len(updates), size)]
    columns: dict[str, list[Any]] = {name: [round(counted[each][-1][name], 1) for each in bins] for name in COUNTERS}
    for name in CURVES:
        if any(name in row for row in updates):
            columns[name] = [_mean([row[name] for row in updates[each] if name in row]) for each in bins]
    return _compact(columns)


def _compact(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Whole numbers without their .0."""
    return {
        name: [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
        for name, values in columns.items()
    }


def dev_curve(rows: MetricLines, counted: Sequence[Mapping[str, float]]) -> dict[str, list[Any]]:
    """avg@k on the development problems, with what had been spent by the update before, as far as it was logged."""
    columns: dict[str, list[Any]] = {name: [] for name in (*COUNTERS, "score")}
    for row in rows:
        score = next((value for name, value in row.items() if name.startswith("eval_avg_at_")), None)
        if score is None:
            continue
        known = [each for each in counted if each["step"] <= row["step"]]
        spent = {**(known[-1] if known else dict.fromkeys(COUNTERS, 0.0)), "step": row["step"]}
        for name in COUNTERS:
            columns[name].append(round(spent[name], 1))
        columns["score"].append(short(score))
    return _compact(columns) if columns["score"] else {}


def _tail(updates: MetricLines) -> dict[str, float]:
    """Means over the last tenth of the updates: a single one is noise."""
    newest = updates[-max(1, len(updates) // 10) :]
    found = {name: _mean([row[name] for row in newest if name in row]) for name in CURVES}
    return {name: value for name, value in found.items() if value is not None}


def _mean(values: Sequence[float]) -> float | None:
    return short(sum(values) / len(values)) if values else None


def short(value: float, digits: int = DIGITS) -> float:
    """With few significant digits: the file is to stay small."""
    return float(f"{value:.{digits}g}")


def versions_of_comparison() -> dict[str, str]:
    return {"sgpo": __version__, **{name: version(name) for name in ("torch", "transformers", "trl")}}
