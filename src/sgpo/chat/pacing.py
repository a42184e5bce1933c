"""How many requests run at once, and when none may: additive increase, multiplicative decrease, a shared cool-down.

The server says 429 when it is asked too much. Then everybody waits as long as it asks for (Retry-After), and afterwards
half as many requests run at once; each answer lets a little more through, one more for each round of answers.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds of a cool-down whose length the server did not say


class Pacer:
    """Lets at most ``limit`` requests run at once, a number between 1 and ``concurrency``, and none in a cool-down."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.limit = float(concurrency)
        self.running = 0
        self._resume_at = 0.0  # of time.monotonic: the end of the cool-down
        self._lowered_at = 0.0
        self._pauses_in_a_row = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._closed: Exception | None = None

    @property
    def pause_left(self) -> float:
        """Seconds until the cool-down ends; 0 without one."""
        return max(0.0, self._resume_at - time.monotonic())

    async def start(self, *, first: bool = False) -> None:
        """Wait for leave to send a request; ``first`` goes before the others that wait. ``end`` gives it back."""
        if self._closed:
            raise self._closed
        if self.running < int(self.limit) and not self._waiting and not self.pause_left:
            self.running += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if first else self._waiting.append)(turn)
        self._let_through()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.end()
            raise

    def end(self) -> None:
        self.running -= 1
        self._let_through()

    def answered(self) -> None:
        """A request was answered: let a little more through."""
        self._pauses_in_a_row = 0
        self.limit = min(float(self.concurrency), self.limit + 1 / self.limit)

    def refused(self, sent_at: float, retry_after: float | None) -> None:
        """A request, sent at ``sent_at`` of time.monotonic, met 429: pause as long as asked, then go on with half.

        Of many requests that were under way together, only the first lowers the limit.
        """
        now = time.monotonic()
        if sent_at >= self._lowered_at:
            self._lowered_at = now
            self.limit = max(1.0, self.limit / 2)
            self._pauses_in_a_row += 1
        own = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._pauses_in_a_row - 1))
        self._resume_at = max(self._resume_at, now + (own if retry_after is None else retry_after))

    def close(self, error: Exception) -> None:
        """Give no more leave: whoever waits, or asks from now on, gets the error."""
        self._closed = error
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(error)

    def _let_through(self) -> None:
        if self.pause_left and self._waiting:
            if self._alarm is None:
                self._alarm = asyncio.get_running_loop().call_later(self.pause_left + 0.001, self._alarm_rings)
            return
        while self._waiting and self.running < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self.running += 1
                turn.set_result(None)

    def _alarm_rings(self) -> None:
        self._alarm = None
        self._let_through()
