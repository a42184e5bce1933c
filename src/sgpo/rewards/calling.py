"""Calls of reward functions: what each returned, and what it logged beside it.

A function that raises ends the run with its own traceback, to which a note adds the function and, where it can be told,
the sample: a reward that turned into a silent zero would train the policy on noise.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import traceback
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sgpo.rewards.arguments import accepted, takes_messages
from sgpo.rewards.functions import Completion, RewardFunction, bare, name_of

MESSAGES_HINT = (
    "it was given texts; a function for chat messages says so by its signature, completions: list[list[dict[str, str]]]"
)


@dataclass
class Log:
    """What one function logged in one call."""

    metrics: dict[str, list[float]] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def metric(self, name: str, value: float) -> None:
        """``log_metric``: one number of the whole batch."""
        self.metrics.setdefault(name, []).append(float(value))

    def extra(self, column: str, values: Sequence[Any]) -> None:
        """``log_extra``: a value for each completion."""
        self.columns.setdefault(column, []).extend(values)


@dataclass(frozen=True)
class Batch:
    """What the functions are asked about. Example: ``Batch(["Compute 1+2"], ["... 3"], {"answer": ["3"]})``"""

    prompts: Sequence[str]
    completions: Sequence[Completion]
    columns: Mapping[str, Sequence[Any]]  # a value for each completion
    completion_ids: Sequence[Sequence[int]] | None = None  # None: nobody knows them, and they are not given
    trainer_state: Any = None  # transformers.TrainerState, in training

    def arguments(self, function: RewardFunction, log: Log) -> dict[str, Any]:
        """The keywords of a call."""
        prompts, completions = self.prompts, self.completions
        if takes_messages(function):
            prompts = [_messages("user", each) for each in prompts]
            completions = [_messages("assistant", each) for each in completions]
        given = {"prompts": prompts, "completions": completions, "trainer_state": self.trainer_state}
        given |= {"log_metric": log.metric, "log_extra": log.extra}
        given |= {} if self.completion_ids is None else {"completion_ids": self.completion_ids}
        return accepted(function, {**self.columns, **given})


def _messages(role: str, text: Any) -> Any:
    return [{"role": role, "content": text}] if isinstance(text, str) else text


def call_all(functions: Sequence[RewardFunction], batch: Batch) -> list[tuple[Any, Log]]:
    """What each function returned, and what it logged; the asynchronous ones run at the same time, after the others."""
    logs = [Log() for _ in functions]
    returned: dict[int, Any] = {}
    for number, function in enumerate(functions):
        if not is_async(function):
            returned[number] = _call(function, batch, batch.arguments(function, logs[number]))
    waited = [number for number, function in enumerate(functions) if is_async(function)]
    calls = [_await(functions[n], batch, batch.arguments(functions[n], logs[n])) for n in waited]
    if calls:
        returned |= dict(zip(waited, _together(calls), strict=True))
    return [(returned[number], log) for number, log in enumerate(logs)]


def _call(function: RewardFunction, batch: Batch, arguments: dict[str, Any]) -> Any:
    try:
        return function(**arguments)
    except Exception as error:
        _explain(error, function, batch, arguments)
        raise


async def _await(function: Any, batch: Batch, arguments: dict[str, Any]) -> Any:
    try:
        return await function(**arguments)
    except Exception as error:
        _explain(error, function, batch, arguments)
        raise


# ---------------------------------------------------------------------- asynchronous functions


def is_async(function: RewardFunction) -> bool:
    """Whether a call returns something to wait for: ``async def``, also of an object's ``__call__``."""
    inner = bare(function)
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(getattr(inner, "__call__", None))  # noqa: B004


def _together(calls: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """All results, or the first error, with which the other calls end."""

    async def gathered() -> list[Any]:
        tasks = [asyncio.ensure_future(call) for call in calls]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    future = asyncio.run_coroutine_threadsafe(gathered(), _loop())
    try:
        return future.result()
    finally:
        future.cancel()  # where this thread was interrupted; else it is done


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for all calls, in a thread of its own: clients that a function keeps belong to the loop they began in."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="reward functions", daemon=True).start()
    return loop


# ---------------------------------------------------------------------- errors


def _explain(error: Exception, function: RewardFunction, batch: Batch, arguments: Mapping[str, Any]) -> None:
    error.add_note(_origin(function, error, batch, arguments.get("completions", ())))
    if isinstance(error, TypeError) and not takes_messages(function):
        error.add_note(MESSAGES_HINT)


def _origin(function: RewardFunction, error: Exception, batch: Batch, given: Sequence[Completion]) -> str:
    """What a reward function was at when it raised.

    It got the whole batch. Calling it again, sample by sample, might cost much or do harm; its variables tell as well.
    """
    prompts = batch.prompts
    where = f"raised by the reward function {name_of(function)}, called for {len(prompts)} samples"
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for variable, value in frame.f_locals.items():
            held = [index for index, completion in enumerate(given) if completion is value]
            if held:
                sample = f"sample {held[0]} (prompt {shortened(prompts[held[0]])}, completion {shortened(value)})"
                return f"{where}; at that moment its variable {variable!r} held {sample}"
    return f"{where}, the first with the prompt {shortened(prompts[0])}" if prompts else where


def shortened(value: Any) -> str:
    """For messages."""
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."
