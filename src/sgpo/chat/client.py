"""Questions to a model, answered from the journal where they were answered before.

`ChatClient.ask` is everything between a question and its samples: the journal, the budget, the pace, repetition after
faults up to a total deadline, and one request for several samples where the server can do that.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from sgpo.chat.costs import FREE, Budget, BudgetError, Prices, Usage, most_prompt_tokens
from sgpo.chat.endpoint import Body, FatalError, LengthRefusedError, RefusedError, Reply, RequestError, TransientError
from sgpo.chat.journal import Entry, Journal, JournalError, keys_of
from sgpo.chat.pacing import Pacer
from sgpo.prompts import Messages

T = TypeVar("T")

FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 30.0  # seconds
FAILURES_IN_A_ROW = 20  # after which the server counts as broken, and the run stops


class FailedError(Exception):
    """A request was given up; the message is the last error. Another run asks again."""


class StoppedError(Exception):
    """The run is ending: no new request is sent."""


class Server(Protocol):
    """What answers chat requests: `Endpoint`, or a stand-in."""

    async def chat(self, body: Body, timeout: float) -> Reply: ...


@dataclass(frozen=True)
class Question:
    """What is asked, of which model; `parameters` are those of the API, and part of the journal's key.

    Example: ``Question("deepseek-chat", [{"role": "user", "content": "..."}], {"temperature": 1.0}, 4096, "solve 1")``
    """

    model: str
    messages: Messages
    parameters: Mapping[str, Any]
    max_tokens: int
    prompt_version: str

    def keys(self, samples: int) -> list[str]:
        """The journal's keys of so many samples."""
        parameters = {
            "model": self.model,
            "parameters": {**self.parameters, "max_tokens": self.max_tokens},
            "prompt_version": self.prompt_version,
        }
        return keys_of(self.messages, parameters, samples)


def check_extra_body(fields: Mapping[str, Any], sent: Iterable[str] = ()) -> None:
    """Refuse further fields of a request that it has anyway: neither value may silently win over the other.

    Args:
        fields: of every request, as the API names them.
        sent: parameters that are sent beside the model, the messages, the limit and the number of samples.

    Raises:
        ValueError: names the fields.
    """
    known = {"model", "messages", "max_tokens", "max_completion_tokens", "n", *sent}
    if twice := sorted(known & fields.keys()):
        theirs = "an option of its own: leave it" if len(twice) == 1 else "options of their own: leave them"
        raise ValueError(f"extra_body has {', '.join(twice)}, which the command sends from {theirs} out")


@dataclass(frozen=True)
class Answer:
    """One sample, and what it cost (of a request for several: its share).

    Example: ``Answer("Problem type: ...", None, "stop", Usage(1, 812, 164, 0.0003))``
    """

    text: str
    reasoning: str | None
    finish_reason: str | None
    usage: Usage

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


@dataclass(frozen=True)
class Timeouts:
    """Seconds: of one attempt, and of all attempts at a request together."""

    attempt: float = 600.0
    total: float = 3600.0


@dataclass
class RequestCounts:
    """What this run has done so far, for the progress bar."""

    attempts: int = 0  # HTTP requests sent
    usage: Usage = field(default_factory=Usage)  # of those that were answered
    perhaps_billed: Usage = field(default_factory=Usage)  # at most, of those that were sent and never answered


async def all_of(*asking: Coroutine[Any, Any, T]) -> list[T]:
    """Await all; raises the first error only when all have ended, so that none is abandoned that was paid for."""
    if not asking:
        return []
    results = await asyncio.gather(*asking, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


class ChatClient:
    """Asks questions of one server. `prices` are by model; a model without prices costs nothing."""

    def __init__(
        self,
        server: Server,
        journal: Journal,
        *,
        concurrency: int,
        prices: Mapping[str, Prices] | None = None,
        max_cost: float | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.server, self.journal = server, journal
        self.prices = dict(prices or {})
        self.timeouts = timeouts or Timeouts()
        self.pacer = Pacer(concurrency)
        spent = sum(
            self._prices(model).cost(t.prompt_tokens, t.completion_tokens) for model, t in journal.totals.items()
        )
        self.budget = Budget(max_cost, spent=spent)
        self.counts = RequestCounts()
        self.stop_reason: Exception | None = None
        self._stopping = asyncio.Event()
        self._several: bool | None = None  # whether the server gives several samples a request; None: not known yet
        self._finding_out = asyncio.Lock()
        # A question's lock lives as long as somebody holds it or waits for it.
        self._under_way: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._length_name = "max_tokens"
        self._failures_in_a_row = 0

    def stop(self, reason: Exception) -> None:
        """Send no new request; those under way are waited for. The first reason counts."""
        if self.stop_reason is None:
            self.stop_reason = reason
            self._stopping.set()
            self.pacer.close(StoppedError(str(reason)))

    async def ask(self, question: Question, samples: int = 1) -> list[Answer]:
        """Samples of the answer, from the journal where it has them.

        Raises ``FailedError`` if the server would not answer, ``StoppedError`` if the run is ending.
        """
        keys = question.keys(samples)
        # Two problems with the same text are the same question: the second waits for the first one's answers.
        lock = self._under_way.setdefault(keys[0], asyncio.Lock())
        async with lock:
            return await self._ask(question, keys)

    async def _ask(self, question: Question, keys: Sequence[str]) -> list[Answer]:
        missing = [key for key in keys if key not in self.journal]
        if len(missing) > 1 and self._several is not False:
            missing = await self._ask_for_several(question, missing)
        await all_of(*(self._request(question, [key]) for key in missing))
        entries = [entry for key in keys if (entry := self.journal.get(key))]
        if len(entries) < len(keys):
            raise FailedError(f"a line of the journal {self.journal.path} is damaged; another run asks again")
        return [Answer(entry.text or "", entry.reasoning, entry.finish_reason, self._usage(entry)) for entry in entries]

    async def _ask_for_several(self, question: Question, keys: list[str]) -> list[str]:
        """Ask for all samples in one request; returns the keys that it did not answer.

        The first request of a run finds out whether the server can do that, while others that want several wait.
        """
        async with self._finding_out if self._several is None else contextlib.nullcontext():
            if self._several is False:
                return keys
            if self._several:
                return await self._request(question, keys)
            try:
                left = await self._request(question, keys, trying=True)
                self._several = not left
                return left
            except RefusedError:
                left = await self._request(question, keys[:1])  # raises FailedError if several were not the reason
                self._several = False
                return keys[1:]

    async def _request(self, question: Question, keys: Sequence[str], *, trying: bool = False) -> list[str]:
        """Send one request for as many samples as there are keys, and journal them; returns the keys left over.

        Raises ``FailedError`` and ``StoppedError``; with ``trying``, ``RefusedError`` as it comes.
        """
        try:
            reply = await self._until_answered(question, len(keys))
            entries = self._journal_reply(question, keys, reply)
        except (FatalError, BudgetError, JournalError) as error:
            self.stop(error)
            raise StoppedError(str(error)) from error
        except RequestError as error:
            if trying and isinstance(error, RefusedError):
                raise
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= FAILURES_IN_A_ROW:
                self.stop(FatalError(f"the last {FAILURES_IN_A_ROW} requests all failed, the last one so: {error}"))
            raise FailedError(str(error)) from error
        self._failures_in_a_row = 0
        return list(keys[len(entries) :])

    async def _until_answered(self, question: Question, samples: int) -> Reply:
        """Send a request again and again until it is answered; raises the last error when there is no time left."""
        deadline = math.inf  # the clock starts with the first attempt, not in the queue before it
        for attempt in itertools.count():
            await self.pacer.start(first=attempt > 0)
            try:
                sent_at = time.monotonic()
                deadline = min(deadline, sent_at + self.timeouts.total)
                reply = await self._attempt(question, samples, min(self.timeouts.attempt, deadline - sent_at))
                self.pacer.answered()
                return reply
            except TransientError as error:
                last = error
                if error.rate_limited:
                    self.pacer.refused(sent_at, error.retry_after)
            except LengthRefusedError as error:
                if error.use is None or error.use == self._length_name:
                    raise
                self._length_name = error.use
                continue
            finally:
                self.pacer.end()
            await self._back_off(attempt, last, deadline)
        raise AssertionError

    async def _attempt(self, question: Question, samples: int, timeout: float) -> Reply:
        most_in, most_out = most_prompt_tokens(question.messages), question.max_tokens * samples
        most = cost = self._prices(question.model).cost(most_in, most_out)
        await self.budget.set_aside(most)
        try:
            cost = 0.0
            self._check_stop()
            self.counts.attempts += 1
            reply = await self.server.chat(self._body(question, samples), timeout)
            cost = self._reply_usage(question, reply).cost
            return reply
        except TransientError as error:
            if error.perhaps_billed:
                cost = most
                self.counts.perhaps_billed += Usage(1, most_in, most_out, most)
                self.journal.append([Entry("", question.model, most_in, most_out, 1, None)])
            raise
        finally:
            self.budget.settle(most, cost)

    async def _back_off(self, attempt: int, last: TransientError, deadline: float) -> None:
        """Wait before the next attempt, each time about twice as long; raises the last error if that is too late."""
        wait = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2**attempt) * random.uniform(0.5, 1.0)
        pause = self.pacer.pause_left if last.rate_limited else (last.retry_after or 0.0)
        if time.monotonic() + max(wait, pause) >= deadline:
            raise last
        with contextlib.suppress(TimeoutError):
            # The pause of all is kept by the pacer; here it is only looked at for the deadline.
            await asyncio.wait_for(self._stopping.wait(), wait if last.rate_limited else max(wait, pause))
        self._check_stop()

    def _check_stop(self) -> None:
        if self.stop_reason is not None:
            raise StoppedError(str(self.stop_reason))

    def _body(self, question: Question, samples: int) -> dict[str, Any]:
        body = {"model": question.model, "messages": question.messages, **question.parameters}
        body[self._length_name] = question.max_tokens
        return body | {"n": samples} if samples > 1 else body

    def _journal_reply(self, question: Question, keys: Sequence[str], reply: Reply) -> list[Entry]:
        usage = self._reply_usage(question, reply)
        choices = reply.choices[: len(keys)]
        share, rest = divmod(usage.completion_tokens, len(choices))
        entries = [
            Entry(
                key=key,
                model=question.model,
                prompt_tokens=0 if number else usage.prompt_tokens,
                completion_tokens=share if number else share + rest,
                requests=0 if number else 1,
                text=choice.text,
                reasoning=choice.reasoning,
                finish_reason=choice.finish_reason,
            )
            for number, (key, choice) in enumerate(zip(keys, choices, strict=False))
        ]
        self.journal.append(entries)
        self.counts.usage += usage
        return entries

    def _reply_usage(self, question: Question, reply: Reply) -> Usage:
        """What a reply was billed as; where the server does not count tokens, at most."""
        sent, received = reply.prompt_tokens, reply.completion_tokens
        if sent is None:
            sent = most_prompt_tokens(question.messages)
        if received is None:
            received = sum(len((c.text + (c.reasoning or "")).encode(errors="replace")) for c in reply.choices)
        return Usage(1, sent, received, self._prices(question.model).cost(sent, received))

    def _usage(self, entry: Entry) -> Usage:
        cost = self._prices(entry.model).cost(entry.prompt_tokens, entry.completion_tokens)
        return Usage(entry.requests, entry.prompt_tokens, entry.completion_tokens, cost)

    def _prices(self, model: str) -> Prices:
        return self.prices.get(model, FREE)
