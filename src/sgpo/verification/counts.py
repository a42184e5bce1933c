"""How many answers were judged in which way, for whoever wants to know."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

Status = Literal["correct", "wrong", "unparsed", "timeout"]
STATUSES: tuple[Status, ...] = get_args(Status)


class VerdictCounts:
    """The number of verdicts of each status.

    Example: ``counts["timeout"], counts.total, counts.shares()``
    """

    def __init__(self) -> None:
        self._counts: dict[Status, int] = dict.fromkeys(STATUSES, 0)
        self._lock = threading.Lock()

    def __getitem__(self, status: Status) -> int:
        return self._counts[status]

    @property
    def total(self) -> int:
        return sum(self._counts.values())

    def shares(self) -> dict[str, float]:
        """The share of each status; nothing where nothing was judged."""
        total = self.total
        return {status: number / total for status, number in self._counts.items()} if total else {}

    def as_dict(self) -> dict[Status, int]:
        return dict(self._counts)

    def add(self, statuses: Iterable[Status]) -> None:
        with self._lock:
            for status in statuses:
                self._counts[status] += 1


_counting: ContextVar[tuple[VerdictCounts, ...]] = ContextVar("counting verdicts", default=())


@contextmanager
def count_verdicts() -> Iterator[VerdictCounts]:
    """Count what ``verify`` and ``verify_many`` decide inside the ``with`` block, whoever calls them there.

    Blocks may be nested; each counts. Threads and tasks started inside count too where they inherit the context, as
    with ``asyncio.to_thread`` and tasks; those of a ``ThreadPoolExecutor`` do not.
    """
    counts = VerdictCounts()
    token = _counting.set((*_counting.get(), counts))
    try:
        yield counts
    finally:
        _counting.reset(token)


def add_verdicts(statuses: Iterable[Status]) -> None:
    """Add verdicts to every block around."""
    statuses = list(statuses)
    for counts in _counting.get():
        counts.add(statuses)
