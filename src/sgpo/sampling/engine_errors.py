"""Errors of a sampling engine: said with their cause, and waited for no longer than so many seconds.

Only failures that an engine really has are said in this way, by their types. Any other exception is a bug, and travels
with its traceback.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

import torch

from sgpo.errors import EngineError

# Of torch (device memory, CUDA, collectives: all of them RuntimeErrors), of files and connections, and of memory.
FAILURES: tuple[type[Exception], ...] = (EngineError, RuntimeError, OSError, MemoryError)

T = TypeVar("T")
Failure = Callable[[], BaseException | None]  # what has gone wrong so far elsewhere


@contextmanager
def engine_errors(what: str, *further: type[Exception]) -> Iterator[None]:
    """One of `FAILURES`, or of further types, becomes an EngineError that names its cause."""
    try:
        yield
    except EngineError:
        raise
    except (*FAILURES, *further) as error:
        raise EngineError(f"vLLM failed while {what}: {_said(error)}") from error


def within(
    what: str,
    seconds: float,
    action: Callable[[], None],
    *further: type[Exception],
    failure: Failure = lambda: None,
    limit: float | None = None,
) -> None:
    """Run an action that may block for ever in a thread of its own, for so many seconds at most.

    Args:
        further: types of failures beside `FAILURES`.
        failure: asked all the time; what it returns ends the wait, since the action may never come back from it.
        limit: the seconds of all actions of which this is one; they are said to the user.

    Raises:
        EngineError: the action failed or took too long. Its thread is then left behind.
        BaseException: whatever else the action raised, with its traceback.
    """
    raised: list[BaseException] = []
    device = torch.cuda.current_device() if torch.cuda.is_available() else None

    def run() -> None:
        try:
            if device is not None:
                torch.cuda.set_device(device)  # each thread has its own
            action()
        except BaseException as error:  # raised again below, where somebody waits for it
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)  # one that hangs does not keep the process alive
    thread.start()
    deadline = time.monotonic() + seconds
    while thread.is_alive() and not failure() and time.monotonic() < deadline:
        thread.join(0.1)
    cause = raised[0] if raised else failure()
    if cause is not None:
        if isinstance(cause, (*FAILURES, *further)):
            raise EngineError(f"vLLM: {what} failed: {_said(cause)}") from cause
        raise cause
    if thread.is_alive():
        raise EngineError(f"vLLM: {what} took more than {limit or seconds:g} seconds (vllm_sync_timeout)")


def at_once(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """What each returns, in order; each runs in a thread of its own. The first error ends the wait for all.

    Threads that are left behind do not keep the process alive.
    """
    return started(tasks)()


def started(tasks: Sequence[Callable[[], T]]) -> Callable[[], list[T]]:
    """`at_once` in two: the tasks run, and what is returned waits for them."""
    ended: SimpleQueue[tuple[int, T | None, BaseException | None]] = SimpleQueue()

    def run(number: int, task: Callable[[], T]) -> None:
        try:
            ended.put((number, task(), None))
        except BaseException as error:  # raised again below, where somebody waits for it
            ended.put((number, None, error))

    def wait() -> list[T]:
        found: dict[int, T] = {}
        while len(found) < len(tasks):
            number, value, error = ended.get()
            if error is not None:
                raise error
            found[number] = value  # type: ignore[assignment]
        return [found[number] for number in range(len(tasks))]

    for number, task in enumerate(tasks):
        threading.Thread(target=run, args=(number, task), daemon=True).start()
    return wait


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
