"""What the reward functions of a run say of completions.

A function that raises ends the run with its own traceback, to which a note adds the function and, where it can be told,
the sample: a reward that turned into a silent zero would train the policy on noise.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sgpo.problems import Problem
from sgpo.rewards.chosen import Rewards
from sgpo.rewards.functions import Completion, RewardFunction, name_of


@dataclass(frozen=True)
class Scores:
    """A value for each completion. Example: ``Scores([1.2, 0.0], [True, False], {"math_reward": [1.0, 0.0], ...})``"""

    rewards: list[float]  # the weighted sum of those that apply; 0 for a truncated completion
    correct: list[bool]  # by the correctness function; a truncated completion is not
    of_functions: dict[str, list[float | None]]  # by name, as returned


def score(
    rewards: Rewards,
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    columns: Mapping[str, Sequence[Any]],
    *,
    truncated: Sequence[bool] | None = None,
) -> Scores:
    """Ask all functions about all completions.

    Args:
        truncated: of each completion, whether it was cut off, so that it gets no reward; default: none was.

    Raises:
        ValueError: lengths that do not fit, a reward that is not finite, a sample to which no function applies.
    """
    _check_lengths(prompts, completions, columns)
    values = {
        name: _rewards_of(function, prompts=prompts, completions=completions, **columns)
        for name, function in zip(rewards.names, rewards.functions, strict=True)
    }
    cut = [False] * len(completions) if truncated is None else truncated
    weights = dict(zip(rewards.names, rewards.weights, strict=True))
    totals, correct = [], []
    for index, was_cut in enumerate(cut):
        applied = {name: value for name, of_name in values.items() if (value := of_name[index]) is not None}
        if not applied:
            raise ValueError(
                f"no reward function applies to sample {index} (prompt {_short(prompts[index])}): "
                f"all of {', '.join(rewards.names)} returned None"
            )
        total = math.fsum(weights[name] * value for name, value in applied.items())
        totals.append(0.0 if was_cut else total)
        correct.append(not was_cut and _is_correct(applied, rewards.correctness))
    return Scores(totals, correct, values)


def _is_correct(applied: Mapping[str, float], judges: Sequence[str]) -> bool:
    """What the first function says that applies; if none does, nothing calls the completion correct."""
    return next((applied[name] >= 1.0 for name in judges if name in applied), False)


def _check_lengths(
    prompts: Sequence[Any], completions: Sequence[Completion], columns: Mapping[str, Sequence[Any]]
) -> None:
    if len(prompts) != len(completions):
        raise ValueError(f"{len(completions)} completions need as many prompts, not {len(prompts)}")
    for name, values in columns.items():
        if len(values) != len(completions):
            raise ValueError(f"column {name!r} has {len(values)} values for {len(completions)} completions")


def _rewards_of(function: RewardFunction, **arguments: Any) -> list[float | None]:
    try:
        values = function(**arguments)
    except Exception as error:
        error.add_note(_origin(function, error, arguments["prompts"], arguments["completions"]))
        raise
    expected = len(arguments["completions"])
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(
            f"reward function {name_of(function)} must return a list of {expected} numbers or None, not "
            f"{_short(values)}"
        )
    if len(values) != expected:
        raise ValueError(
            f"reward function {name_of(function)} returned {len(values)} rewards for {expected} completions"
        )
    for index, value in enumerate(values):
        if value is not None and not math.isfinite(value):
            sample = f"sample {index} (prompt {_short(arguments['prompts'][index])})"
            raise ValueError(f"reward function {name_of(function)} returned {value} for {sample}")
    return [None if value is None else float(value) for value in values]


def _origin(
    function: RewardFunction, error: Exception, prompts: Sequence[Any], completions: Sequence[Completion]
) -> str:
    """What a reward function was at when it raised.

    It got the whole batch. Calling it again, sample by sample, might cost much or do harm; its variables tell as well.
    """
    where = f"raised by the reward function {name_of(function)}, called for {len(completions)} samples"
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for variable, value in frame.f_locals.items():
            held = [index for index, completion in enumerate(completions) if completion is value]
            if held:
                sample = f"sample {held[0]} (prompt {_short(prompts[held[0]])}, completion {_short(value)})"
                return f"{where}; at that moment its variable {variable!r} held {sample}"
    return f"{where}, the first with the prompt {_short(prompts[0])}" if completions else where


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."


def reward_columns(problems: Sequence[Problem]) -> dict[str, list[Any]]:
    """The columns that reward functions get, a value for each completion."""
    names = {name for problem in problems for name in problem.extra}
    columns: dict[str, list[Any]] = {name: [p.extra.get(name) for p in problems] for name in sorted(names)}
    columns["answer"] = [p.answer for p in problems]
    return columns
