"""Reward functions with TRL's signature, and how several of them become one number for each completion.

A reward function is called as ``f(prompts=..., completions=..., **columns)``, every column a list as long as
the completions, and returns one float for each completion, or ``None`` where it does not apply. Completions
are texts or, for conversational data, lists of chat messages. So functions written for TRL work here and the
reverse.

A function that raises ends the run with its own traceback, to which a note adds the function and, where it can be told,
the sample: a reward that turned into a silent zero would train the policy on noise.
"""

from __future__ import annotations

import functools
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sgpo.loading import load_object
from sgpo.problems import Problem
from sgpo.verification import verify_many

RewardFunction = Callable[..., Sequence[float | None]]
Completion = str | Sequence[Mapping[str, Any]]


def math_reward(
    completions: Sequence[Completion], answer: Sequence[str], *, after_think: bool = True, **columns: Any
) -> list[float | None]:
    r"""Return 1.0 for each completion whose last ``\boxed{...}`` equals its answer, else 0.0.

    Where a completion has ``</think>``, only what follows the last one is judged; to judge all of it, use
    ``functools.partial(math_reward, after_think=False)``.

    Raises ``ValueError`` when the lengths differ or a gold answer cannot be parsed.
    """
    if not isinstance(after_think, bool):
        raise ValueError("math_reward's after_think is True or False; give the data's column of that name another one")
    if len(completions) != len(answer):
        raise ValueError(f"math_reward got {len(completions)} completions but {len(answer)} answers")
    pairs = [(completion_text(completion), gold) for completion, gold in zip(completions, answer, strict=True)]
    return [1.0 if verdict.correct else 0.0 for verdict in verify_many(pairs, after_think=after_think)]


def completion_text(completion: Completion) -> str:
    """Return a completion's text: itself, or the content of its last assistant message.

    Raises ``ValueError`` for messages without an assistant's or with content that is not text.
    """
    if isinstance(completion, str):
        return completion
    for message in reversed(completion):
        if message.get("role") == "assistant":
            content = message.get("content")
            if not isinstance(content, str):
                raise ValueError(f"the assistant message's content must be text, not {content!r}")
            return content
    raise ValueError(f"a completion of chat messages needs an assistant message: {completion!r}")


def score(
    reward_functions: Sequence[RewardFunction],
    weights: Sequence[float],
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    columns: Mapping[str, Sequence[Any]],
) -> list[float]:
    """Return the weighted sum of the functions' rewards for each completion, without those that are ``None``.

    Raises ``ValueError`` for lengths that do not fit, a reward that is not finite, and a sample to which no
    function applies. Exceptions of the functions travel on, with a note that says where they came from.
    """
    _check_lengths(reward_functions, weights, prompts, completions, columns)
    rewards = [
        _rewards_of(function, prompts=prompts, completions=completions, **columns) for function in reward_functions
    ]
    totals = []
    for index in range(len(completions)):
        applied = [
            weight * of_function[index]
            for weight, of_function in zip(weights, rewards, strict=True)
            if of_function[index] is not None
        ]
        if not applied:
            names = ", ".join(_name(function) for function in reward_functions)
            raise ValueError(
                f"no reward function applies to sample {index} (prompt {_short(prompts[index])}): "
                f"all of {names} returned None"
            )
        totals.append(math.fsum(applied))
    return totals


def _check_lengths(
    reward_functions: Sequence[RewardFunction],
    weights: Sequence[float],
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    columns: Mapping[str, Sequence[Any]],
) -> None:
    if not reward_functions:
        raise ValueError("at least one reward function is needed, for example sgpo.rewards:math_reward")
    if len(weights) != len(reward_functions):
        raise ValueError(f"{len(reward_functions)} reward functions need as many weights, not {len(weights)}")
    if len(prompts) != len(completions):
        raise ValueError(f"{len(completions)} completions need as many prompts, not {len(prompts)}")
    for name, values in columns.items():
        if len(values) != len(completions):
            raise ValueError(f"column {name!r} has {len(values)} values for {len(completions)} completions")


def _rewards_of(function: RewardFunction, **arguments: Any) -> list[Any]:
    try:
        values = function(**arguments)
    except Exception as error:
        error.add_note(_origin(function, error, arguments["prompts"], arguments["completions"]))
        raise
    expected = len(arguments["completions"])
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(
            f"reward function {_name(function)} must return a list of {expected} numbers or None, not {_short(values)}"
        )
    if len(values) != expected:
        raise ValueError(f"reward function {_name(function)} returned {len(values)} rewards for {expected} completions")
    for index, value in enumerate(values):
        if value is not None and not math.isfinite(value):
            prompt = _short(arguments["prompts"][index])
            raise ValueError(f"reward function {_name(function)} returned {value} for sample {index} (prompt {prompt})")
    return [None if value is None else float(value) for value in values]


def _origin(
    function: RewardFunction, error: Exception, prompts: Sequence[Any], completions: Sequence[Completion]
) -> str:
    """What a reward function was at when it raised.

    It got the whole batch. Calling it again, sample by sample, might cost much or do harm; its variables tell as well.
    """
    where = f"raised by the reward function {_name(function)}, called for {len(completions)} samples"
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for variable, value in frame.f_locals.items():
            held = [index for index, completion in enumerate(completions) if completion is value]
            if held:
                sample = f"sample {held[0]} (prompt {_short(prompts[held[0]])}, completion {_short(value)})"
                return f"{where}; at that moment its variable {variable!r} held {sample}"
    return f"{where}, the first with the prompt {_short(prompts[0])}" if completions else where


def _name(function: RewardFunction) -> str:
    if isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", repr(function))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."


def reward_columns(problems: Sequence[Problem]) -> dict[str, list[Any]]:
    """The columns that reward functions get, a value for each completion."""
    names = {name for problem in problems for name in problem.extra}
    columns: dict[str, list[Any]] = {name: [p.extra.get(name) for p in problems] for name in sorted(names)}
    columns["answer"] = [p.answer for p in problems]
    return columns


def load_reward(name: str) -> RewardFunction:
    """Return the function that ``package.module:function`` or ``path/to/file.py:function`` names.

    Raises ``ValueError`` that says what is missing. The file or module is executed, as by ``import``;
    exceptions that it raises itself travel unchanged.
    """
    function = load_object(name, "reward", "function")
    if not callable(function):
        raise ValueError(f"reward {name!r} is no function, but a {type(function).__name__}")
    return function
