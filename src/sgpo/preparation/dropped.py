"""What is left out: how much of each kind, with the first of it as an example."""

from __future__ import annotations

from dataclasses import dataclass, field

LONGEST = 240  # characters of an example


@dataclass
class Count:
    """Example: ``Count(3, "train.jsonl, row 17: the answer is empty")``"""

    number: int = 0
    example: str = ""


@dataclass
class Dropped:
    """Counts by kind, in the order in which the kinds were met."""

    counts: dict[str, Count] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        count = self.counts.setdefault(kind, Count(0, on_one_line(example)))
        count.number += 1

    def number(self, kind: str) -> int:
        return self.counts[kind].number if kind in self.counts else 0


def on_one_line(text: str, longest: int = LONGEST) -> str:
    """On one line, and not longer than asked."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 3] + "..."
