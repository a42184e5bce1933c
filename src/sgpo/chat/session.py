"""One run: what is checked before the first paid request, the client, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, NoReturn, TypeVar

from sgpo.chat.client import ChatClient, RequestCounts, StoppedError, Timeouts
from sgpo.chat.costs import Prices
from sgpo.chat.endpoint import (
    Endpoint,
    FatalError,
    LengthRefusedError,
    MalformedError,
    NoConnectionError,
    RefusedError,
    TransientError,
)
from sgpo.chat.journal import Journal
from sgpo.errors import UnfinishedError, UsageError
from sgpo.files import free_space
from sgpo.problems import Problem

T = TypeVar("T")

PREFLIGHT_TIMEOUT, PREFLIGHT_ATTEMPTS = 30.0, 4  # seconds of one attempt
LEAST_FREE_SPACE = 16 * 2**20  # bytes


class NotReadyError(UsageError, ValueError):
    """What was found wrong before the first paid request; the message says what to mend."""


@dataclass(frozen=True)
class Connection:
    """Where requests go, how many at once, what they may cost (US dollars), and where answers are kept.

    ``prices`` are by model. Example: ``Connection("https://api.deepseek.com/v1", Path("strategies.journal.jsonl"),
    prices={"deepseek-chat": Prices(0.28, 0.42)}, max_cost=20.0)``

    Raises ``ValueError`` for values that make no sense.
    """

    base_url: str
    journal: Path
    concurrency: int = 64
    prices: Mapping[str, Prices] = field(default_factory=dict)
    max_cost: float | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1; it is {self.concurrency}")
        if min(self.timeouts.attempt, self.timeouts.total) <= 0:
            raise ValueError("time limits must be positive numbers of seconds")
        if self.max_cost is not None and self.max_cost <= 0:
            raise ValueError(f"--max-cost must be a positive number of US dollars; it is {self.max_cost:g}")
        if self.max_cost is not None and not self.prices:
            raise ValueError("--max-cost needs --price-in and --price-out (US dollars for a million tokens)")


@dataclass(repr=False)  # asyncio.run makes the text of its result as it ends: seconds, for all problems and responses
class Run(Generic[T]):
    """What came of a run: the outcomes in the order of the problems, and why it stopped early, if it did."""

    outcomes: list[T]
    unfinished: int
    stop_reason: Exception | None
    counts: RequestCounts
    seconds: float
    damaged: int  # lines of the journal

    def check_complete(self, what: str) -> None:
        """Raises UnfinishedError, after Ctrl-C KeyboardInterrupt, if some of `what` were left to do."""
        if self.stop_reason is not None:
            end_early(
                self.stop_reason,
                f"stopped with {self.unfinished} {what}: {self.stop_reason}\n"
                "The same command goes on from here; no answer is paid for twice.",
            )


async def run_session(
    problems: Sequence[Problem],
    handle: Callable[[Problem, ChatClient], Awaitable[T]],
    connection: Connection,
    models: Sequence[str],
    watch: Callable[[ChatClient], Callable[[T], None]] | None = None,
) -> Run[T]:
    """Handle all problems. ``watch`` gets the client, and returns what is called after each problem.

    Raises `NotReadyError` and `NoJournalError` for what is found wrong before the first paid request.
    """
    async with open_client(connection, models) as client:
        began = time.monotonic()
        done = watch(client) if watch else lambda outcome: None
        finished = await run_all(problems, lambda problem: handle(problem, client), client, done)
        outcomes = [finished[problem.id] for problem in problems if problem.id in finished]
        return Run(
            outcomes,
            unfinished=len(problems) - len(outcomes),
            stop_reason=client.stop_reason,
            counts=client.counts,
            seconds=time.monotonic() - began,
            damaged=client.journal.damaged,
        )


@asynccontextmanager
async def open_client(connection: Connection, models: Sequence[str]) -> AsyncIterator[ChatClient]:
    """A client whose server has been asked whether it is there, takes the key and has the models."""
    async with _open_endpoint(connection) as endpoint:
        with Journal(connection.journal) as journal:
            _check_free_space(connection.journal)
            await _check_server(endpoint, list(dict.fromkeys(models)))
            yield ChatClient(
                endpoint,
                journal,
                concurrency=connection.concurrency,
                prices=connection.prices,
                max_cost=connection.max_cost,
                timeouts=connection.timeouts,
            )


async def check_connection(connection: Connection, models: Sequence[str]) -> None:
    """Raise `NotReadyError` if the server is not there, refuses the key, or has no such model; nothing is written."""
    async with _open_endpoint(connection) as endpoint:
        await _check_server(endpoint, models)


@asynccontextmanager
async def _open_endpoint(connection: Connection) -> AsyncIterator[Endpoint]:
    try:
        endpoint = Endpoint(connection.base_url, connections=connection.concurrency)
    except ValueError as error:
        raise NotReadyError(str(error)) from error
    try:
        yield endpoint
    finally:
        await endpoint.close()


def _check_free_space(path: Path) -> None:
    free = free_space(path)
    if free is not None and free < LEAST_FREE_SPACE:
        raise NotReadyError(f"the disk of {path.parent} is full ({free / 2**20:.0f} MiB free): make room first")


async def _check_server(endpoint: Endpoint, models: Sequence[str]) -> None:
    """Raise `NotReadyError` if the server is not there, refuses the key, or has no such model.

    The list of models is free. A model that is not on it (servers know aliases) is asked for a word.
    """
    try:
        listed = await _with_patience(lambda: endpoint.models(PREFLIGHT_TIMEOUT))
    except TransientError as error:
        raise NotReadyError(f"no server answers at {endpoint.base_url}: {error}; check --base-url") from error
    except FatalError as error:
        raise NotReadyError(str(error)) from error
    for model in models:
        if model not in (listed or ()):
            await _check_model(endpoint, model, listed or [])


async def _check_model(endpoint: Endpoint, model: str, listed: Sequence[str]) -> None:
    question = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}
    try:
        await _with_patience(lambda: endpoint.chat(question, PREFLIGHT_TIMEOUT))
    except MalformedError as error:
        raise NotReadyError(
            f"{endpoint.base_url} does not speak the OpenAI chat API ({error}); check --base-url, which often ends "
            "in /v1"
        ) from error
    except TransientError:  # it is there, only busy
        return
    except LengthRefusedError:  # it only dislikes our limit of 16
        return
    except (FatalError, RefusedError) as error:
        close = difflib.get_close_matches(model, listed, n=3, cutoff=0.4) or list(listed[:5])
        has = f"; the server lists {', '.join(close)}" if close else "; check --model and --base-url"
        raise NotReadyError(f"{endpoint.base_url} does not answer for the model {model!r} ({error}){has}") from error


async def _with_patience(attempt: Callable[[], Awaitable[T]]) -> T:
    for number in range(PREFLIGHT_ATTEMPTS - 1):
        try:
            return await attempt()
        except NoConnectionError:
            raise
        except TransientError as error:
            await asyncio.sleep(min(10.0, max(0.5 * 2**number, error.retry_after or 0.0)))
    return await attempt()


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
