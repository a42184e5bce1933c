"""Hostile answers: none is correct, none takes long or much memory, and ordinary ones after them are judged right."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gold_cases import CASES
from hostile_answers import KINDS, hostile

from sgpo.verification import pool, verify, verify_many
from sgpo.verification.worker import ADDRESS_SPACE

GIB = 1024**3


def ordinary() -> list[tuple[str, str, bool]]:
    """100 ordinary answers: (response, gold, correct)."""
    rows = []
    for gold, (same, near) in CASES.items():
        rows += [(rf"\boxed{{{same[0]}}}", gold, True), (rf"\boxed{{{near[0]}}}", gold, False)]
    return rows[:100]


def judged_right(timeout: float) -> bool:
    rows = ordinary()
    assert len(rows) == 100
    verdicts = verify_many([(response, gold) for response, gold, _ in rows], timeout=timeout)
    return [verdict.correct for verdict in verdicts] == [correct for *_, correct in rows]


def test_the_answers_are_the_same_each_time():
    assert hostile(100) == hostile(1000)[:100]
    assert len(KINDS) >= 45


def test_fifty_hostile_answers():
    rows = hostile(50)
    verdicts = verify_many([(response, gold) for _, response, gold in rows], timeout=0.5)
    assert [row for row, verdict in zip(rows, verdicts, strict=True) if verdict.correct] == []
    assert judged_right(timeout=60)


class Memory(threading.Thread):
    """Watches the worker processes: their largest resident size together, and the limit of each."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.largest = 0
        self.limits: set[str] = set()
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.1):
            server = pool._server
            assert server is not None
            resident = 0
            for stat in Path("/proc").glob("[0-9]*/stat"):
                try:
                    fields = stat.read_text().rpartition(") ")[2].split()
                    if int(fields[2]) == server.process.pid:
                        resident += int(fields[21]) * 4096
                        if int(fields[1]) == server.process.pid:
                            limits = (stat.parent / "limits").read_text().splitlines()
                            self.limits |= {line.split()[3] for line in limits if line.startswith("Max address space")}
                except (FileNotFoundError, ProcessLookupError):
                    continue  # ended while being looked at
            self.largest = max(self.largest, resident)


@pytest.mark.integration
def test_a_thousand_hostile_answers():
    def judge(row: tuple[str, str, str]) -> tuple[str, float]:
        start = time.monotonic()
        status = verify(row[1], row[2]).status
        return status, time.monotonic() - start

    rows = hostile(1000)
    assert verify(r"\boxed{\frac12}", "0.5").correct  # starts the pool
    memory = Memory()
    memory.start()
    start = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(judge, rows))
    seconds = time.monotonic() - start
    memory.done.set()
    assert judged_right(timeout=60)
    slowest = max(taken for _, taken in results)
    print(f"{seconds:.0f} s in all, slowest {slowest:.2f} s, {memory.largest / GIB:.2f} GiB at most")
    print(Counter(status for status, _ in results))
    assert [row for row, (status, _) in zip(rows, results, strict=True) if status == "correct"] == []
    assert slowest <= 5
    assert seconds <= 600
    assert str(ADDRESS_SPACE) in memory.limits
    assert memory.largest <= pool._worker_count() * ADDRESS_SPACE + GIB
