"""What the reward functions of a run say of completions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

from sgpo.rewards.calling import Batch, Log, call_all, shortened
from sgpo.rewards.chosen import Rewards


@dataclass(frozen=True)
class Scores:
    """A value for each completion. Example: ``Scores([1.2, 0.0], [True, False], {"math_reward": [1.0, 0.0], ...})``"""

    rewards: list[float]  # the weighted sum of those that apply; 0 for a truncated completion
    correct: list[bool]  # by the correctness function; a truncated completion is not
    of_functions: dict[str, list[float | None]]  # by name, as returned
    columns: dict[str, list[Any]] = field(default_factory=dict)  # of log_extra: "FUNCTION/COLUMN"
    metrics: dict[str, list[float]] = field(default_factory=dict)  # of log_metric: a number for each call of it


def score(rewards: Rewards, batch: Batch, *, truncated: Sequence[bool] | None = None) -> Scores:
    """Ask all functions about all completions.

    Args:
        truncated: of each completion, whether it was cut off, so that it gets no reward; default: none was.

    Raises:
        ValueError: lengths that do not fit, a reward that is not finite, a sample to which no function applies.
    """
    _check_lengths(batch)
    called = call_all(rewards.functions, batch)
    values = {name: _values(name, found, batch) for name, (found, _) in zip(rewards.names, called, strict=True)}
    logs = {name: log for name, (_, log) in zip(rewards.names, called, strict=True)}
    cut = [False] * len(batch.completions) if truncated is None else truncated
    weights = dict(zip(rewards.names, rewards.weights, strict=True))
    totals, correct = [], []
    for index, was_cut in enumerate(cut):
        applied = {name: value for name, of_name in values.items() if (value := of_name[index]) is not None}
        if not applied:
            raise ValueError(
                f"no reward function applies to sample {index} (prompt {shortened(batch.prompts[index])}): "
                f"all of {', '.join(rewards.names)} returned None"
            )
        total = math.fsum(weights[name] * value for name, value in applied.items())
        totals.append(0.0 if was_cut else total)
        correct.append(not was_cut and _is_correct(applied, rewards.correctness))
    return Scores(totals, correct, values, _columns(logs, len(batch.completions)), _metrics(logs))


def _is_correct(applied: Mapping[str, float], judges: Sequence[str]) -> bool:
    """What the first function says that applies; if none does, nothing calls the completion correct."""
    return next((applied[name] >= 1.0 for name in judges if name in applied), False)


def _check_lengths(batch: Batch) -> None:
    expected = len(batch.completions)
    if len(batch.prompts) != expected:
        raise ValueError(f"{expected} completions need as many prompts, not {len(batch.prompts)}")
    for name, values in batch.columns.items():
        if len(values) != expected:
            raise ValueError(f"column {name!r} has {len(values)} values for {expected} completions")
    if batch.completion_ids is not None and len(batch.completion_ids) != expected:
        raise ValueError(f"{expected} completions need as many completion_ids, not {len(batch.completion_ids)}")


def _values(name: str, found: Any, batch: Batch) -> list[float | None]:
    expected = len(batch.completions)
    if not isinstance(found, Sized) or not isinstance(found, Iterable) or isinstance(found, str | Mapping):
        raise ValueError(
            f"reward function {name} must return a list of {expected} numbers or None, not {shortened(found)}"
        )
    if len(found) != expected:
        raise ValueError(f"reward function {name} returned {len(found)} rewards for {expected} completions")
    values = [None if value is None else float(value) for value in found]
    for index, value in enumerate(values):
        if value is not None and not math.isfinite(value):
            sample = f"sample {index} (prompt {shortened(batch.prompts[index])})"
            raise ValueError(f"reward function {name} returned {value} for {sample}")
    return values


def _columns(logs: Mapping[str, Log], expected: int) -> dict[str, list[Any]]:
    found = {f"{name}/{column}": values for name, log in logs.items() for column, values in log.columns.items()}
    for name, values in found.items():
        if len(values) != expected:
            raise ValueError(f"log_extra: {name} has {len(values)} values for {expected} completions; log one for each")
    return found


def _metrics(logs: Mapping[str, Log]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for log in logs.values():
        for name, values in log.metrics.items():
            found.setdefault(name, []).extend(values)
    return found
