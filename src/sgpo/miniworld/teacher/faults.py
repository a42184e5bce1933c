"""Which fault a request meets: a pure function of its hash and its attempt number, so that runs can be compared.

Only what happens on the way depends on the attempt. What the teacher says (`garbled` included) depends on the request
alone, so that a client which asks until it is answered ends with the same texts, whatever was lost before.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields

ON_THE_WAY = ("rate_limited", "error", "dropped", "hanging", "malformed", "truncated")


@dataclass(frozen=True)
class Faults:
    """Shares of requests, 0 to 1, and times in seconds.

    Example: ``Faults(rate_limited=0.05, error=0.05, hanging=0.02, malformed=0.03, latency=0.05, seed=1)``

    Raises ``ValueError`` for shares that are none, or that exceed 1 together.
    """

    rate_limited: float = 0.0  # 429 with Retry-After
    error: float = 0.0  # 500
    dropped: float = 0.0  # the connection ends within the answer
    hanging: float = 0.0  # no answer at all
    malformed: float = 0.0  # status 200 and no JSON
    truncated: float = 0.0  # status 200 and JSON that breaks off
    garbled: float = 0.0  # of the candidates: not in three parts, until the client says so
    latency: float = 0.0  # on average; between half and one and a half of it
    retry_after: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "seed" and not 0 <= value < float("inf"):
                raise ValueError(f"{field.name} must be 0 or more; it is {value:g}")
        if self.garbled > 1 or sum(getattr(self, name) for name in ON_THE_WAY) > 1:
            raise ValueError(f"garbled, and {', '.join(ON_THE_WAY)} together, are shares of at most 1")


def fault_of(faults: Faults, digest: str, attempt: int) -> str | None:
    """The name of the fault (one of `ON_THE_WAY`) that the attempt, counted from 0, of a request meets."""
    point = random.Random(f"fault {faults.seed} {digest} {attempt}").random()
    for name in ON_THE_WAY:
        point -= getattr(faults, name)
        if point < 0:
            return name
    return None


def latency_of(faults: Faults, digest: str, attempt: int) -> float:
    """Seconds before the attempt is answered."""
    return faults.latency * random.Random(f"latency {faults.seed} {digest} {attempt}").uniform(0.5, 1.5)
