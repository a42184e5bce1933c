"""What requests cost, and a limit that is kept before it is exceeded.

Before a request is sent, the most that it can cost is set aside: every byte of the messages as a token (tokenizers that
fall back to bytes make no more), and the longest answers that were asked for. Its answer says what it did cost. A
request whose answer never came may have been billed all the same, so what was set aside for it counts as spent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

CHAT_TEMPLATE_TOKENS = 300  # a server's template may add a system prompt of its own


class BudgetError(Exception):
    """The next request could exceed --max-cost."""


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens. Example: ``Prices(prompt=0.28, completion=0.42)``"""

    prompt: float
    completion: float

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


FREE = Prices(0.0, 0.0)


@dataclass(frozen=True)
class Usage:
    """Requests, tokens and US dollars; usages add up.

    Example: ``Usage(requests=2, prompt_tokens=3100, completion_tokens=900, cost=0.0012)``
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
        )


def most_prompt_tokens(messages: Sequence[Mapping[str, str]]) -> int:
    """A number of tokens that the prompt does not exceed."""
    return CHAT_TEMPLATE_TOKENS + sum(len(m["content"].encode("utf-8", errors="replace")) for m in messages)


@dataclass
class Budget:
    """What has been spent, what is set aside for requests under way, and the limit; all in US dollars."""

    limit: float | None
    spent: float = 0.0
    aside: float = 0.0
    _waiting: list[asyncio.Future[None]] = field(default_factory=list)

    async def set_aside(self, amount: float) -> None:
        """Set an amount aside; waits for requests under way where they may cost less than was set aside for them.

        Raises ``BudgetError`` if the limit leaves no room with nothing under way.
        """
        while self.limit is not None and self.spent + self.aside + amount > self.limit:
            if self.aside <= 1e-12:
                raise BudgetError(
                    f"--max-cost {self.limit:g}: ${self.spent:.4f} is spent, and the next request may cost up to "
                    f"${amount:.4f}"
                )
            settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(settled)
            await settled
        self.aside += amount

    def settle(self, amount: float, cost: float) -> None:
        """A request for which ``amount`` was set aside is over, and cost ``cost``."""
        self.aside = max(0.0, self.aside - amount)
        self.spent += cost
        waiting, self._waiting = self._waiting, []
        for settled in waiting:
            if not settled.done():
                settled.set_result(None)
