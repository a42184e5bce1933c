"""Working through many problems with one client, to the end or until something stops the run.

What stops a run (a fatal error, the budget, Ctrl-C) stops new requests only: those under way are waited for, since they
will be paid for, and journalled. A second Ctrl-C does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NoReturn, TypeVar

from sgpo.errors import UnfinishedError
from sgpo.problems import Problem
from sgpo.strategies.client import ChatClient, StoppedError

T = TypeVar("T")


class InterruptedRunError(Exception):
    """Ctrl-C, as the reason of a client that was stopped."""


def end_early(reason: Exception, message: str) -> NoReturn:
    """Raises KeyboardInterrupt where Ctrl-C stopped the client, else UnfinishedError."""
    raise KeyboardInterrupt(message) if isinstance(reason, InterruptedRunError) else UnfinishedError(message)


async def run_all(
    problems: Sequence[Problem],
    handle: Callable[[Problem], Awaitable[T]],
    client: ChatClient,
    done: Callable[[T], None],
) -> dict[str, T]:
    """Handle the problems, as many at once as the client sends requests; returns what they became, by id.

    Problems that were not finished when the client was stopped are missing. ``done`` is called after each.
    """
    finished: dict[str, T] = {}
    upcoming = iter(problems)

    async def work() -> None:
        for problem in upcoming:
            if client.stop_reason is not None:
                return
            try:
                finished[problem.id] = await handle(problem)
            except StoppedError:
                return
            except Exception as error:  # a bug: end the run in order, then raise it
                client.stop(error)
                raise
            done(finished[problem.id])

    async with _ctrl_c_stops(client):
        workers = min(len(problems), client.pacer.concurrency)
        results = await asyncio.gather(*(work() for _ in range(workers)), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return finished


@contextlib.asynccontextmanager
async def _ctrl_c_stops(client: ChatClient) -> AsyncIterator[None]:
    """The first Ctrl-C stops the client, the second ends everything, as it does outside of this context."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)

    def interrupted() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        client.stop(InterruptedRunError("stopped by Ctrl-C"))
        print("\nCtrl-C: requests under way are waited for; once more gives them up.", file=sys.stderr, flush=True)

    loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)
