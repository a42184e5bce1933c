"""The problem record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One problem with a checkable answer.

    Example: ``Problem(id="17", prompt="Compute 1+2*3", answer="7", response="... \\\\boxed{7}",
    strategy="Problem type: ...")``
    """

    id: str
    prompt: str
    answer: str
    response: str | None = None  # a strong model's full solution
    strategy: str | None = None  # three parts: problem type, strategy, steps
    extra: Mapping[str, Any] = field(default_factory=dict)  # further columns, handed to reward functions
    more_responses: tuple[str, ...] = ()  # further solutions, where the column response is a list

    @property
    def responses(self) -> tuple[str, ...]:
        """All solutions, the first one first."""
        return (*([self.response] if self.response else []), *self.more_responses)
