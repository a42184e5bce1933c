"""What is measured of one update, and the file that it goes into; docs/metrics.md describes every name.

Means over nothing are left out, never NaN. ``metrics.jsonl`` in the folder of a run has a line for each log.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sgpo import distributed
from sgpo.files import replacing
from sgpo.means import Means
from sgpo.methods.records import Decision, ProblemRollouts, TrainingSequence
from sgpo.rewards.metrics import add_rewards
from sgpo.sampling.records import Rollout
from sgpo.verification import STATUSES, VerdictCounts

FILE = "metrics.jsonl"


def append_line(folder: str | Path, entry: dict[str, Any]) -> None:
    """One line more of the run's file."""
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def cut_lines(folder: str | Path, last_step: int) -> None:
    """Keep the lines up to a step: what a run that is repeated from there had logged later is gone.

    A line that a crash cut off is no line.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return
    lines = [line for line in path.read_text().splitlines() if last_step and _step(line) <= last_step]
    with replacing(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines))


def _step(line: str) -> float:
    if not re.fullmatch(r"\{.*\}", line):
        return float("inf")
    return json.loads(line).get("step", 0)


def group_metrics(groups: Sequence[ProblemRollouts], decisions: Sequence[Decision]) -> Means:
    """Rewards, lengths and decisions of the problems of one update."""
    means = Means()
    for name in dict.fromkeys(["autonomous", "guided", *(name for group in groups for name in group.groups)]):
        _add_rollouts(means, name, [rollout for group in groups for rollout in group.groups.get(name, ())])
    _add_rollouts(means, "expert", [rollout for group in groups for rollout in group.experts])
    add_rewards(means, [r.rewards for group in groups for some in group.groups.values() for r in some])
    means.add("zero_variance_share", [len({r.reward for r in group.autonomous}) == 1 for group in groups])
    for decision in decisions:
        for name, value in decision.metrics.items():
            means.add(name, [value])
    for group in groups:
        for rollout in group.autonomous:
            if rollout.sampler_logprobs is not None:
                means.add("surprisal", -rollout.sampler_logprobs.double())
    return means


def _add_rollouts(means: Means, group: str, rollouts: Sequence[Rollout]) -> None:
    means.add(f"reward/{group}", [rollout.reward for rollout in rollouts])
    means.add(f"pass_rate/{group}", [rollout.correct for rollout in rollouts])
    means.add(f"length/{group}", [len(rollout.completion_ids) for rollout in rollouts])
    means.add(f"truncated/{group}", [rollout.truncated for rollout in rollouts])


def sampler_mismatch(rows: Sequence[TrainingSequence]) -> Means:
    """Mean absolute difference between the sampler's log-probabilities and those that training recomputed, nats."""
    means = Means()
    for row in rows:
        if row.old_logprobs is not None and row.sampler_logprobs is not None:
            means.add("sampler_mismatch", (row.old_logprobs.cpu().double() - row.sampler_logprobs.double()).abs())
    return means


def verdict_metrics(counts: VerdictCounts) -> Means:
    """The share of each of the verifier's verdicts."""
    return Means({f"verdicts/{status}": (float(counts[status]), counts.total) for status in STATUSES})


class Logbook:
    """Collects until a line is written.

    Example: ``with book.timed("sample"): ...; book.record(means); book.take() == {"seconds/sample": 1.5, ...}``
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.occasions: list[Means] = []
        self.seconds: dict[str, list[float]] = {}
        self.tokens: dict[str, int] = {}

    def record(self, means: Means, *, goes_on: bool = False) -> None:
        """What was measured on one occasion, or on one that goes on. Every process records the same, each its part."""
        before = [self.occasions.pop()] if goes_on else []
        self.occasions.append(Means.joined([*before, means]))

    @contextmanager
    def timed(self, phase: str, *, goes_on: bool = False) -> Iterator[None]:
        """An occasion of a phase; or one that goes on, whose seconds are added to those of the last."""
        start = time.perf_counter()
        yield
        occasions = self.seconds.setdefault(phase, [])
        before = occasions.pop() if goes_on else 0.0
        occasions.append(before + time.perf_counter() - start)

    def count_tokens(self, phase: str, number: int) -> None:
        """Tokens that this process worked on in a phase."""
        self.tokens[phase] = self.tokens.get(phase, 0) + number

    def take(self) -> dict[str, float]:
        """The mean of each name over its occasions, and forget them. All processes take together.

        Seconds are those of the slowest process; tokens a second those of all processes together.
        """
        found = distributed.gather((self.occasions, self.seconds, self.tokens))
        self.clear()
        lines: dict[str, list[float]] = {}
        for parts in zip(*(occasions for occasions, _, _ in found), strict=True):
            for name, value in Means.joined(parts).values().items():
                lines.setdefault(name, []).append(value)
        values = {name: sum(some) / len(some) for name, some in lines.items()}
        for phase in found[0][1]:
            slowest = [max(some) for some in zip(*(seconds[phase] for _, seconds, _ in found), strict=True)]
            values[f"seconds/{phase}"] = sum(slowest) / len(slowest)
            if tokens := sum(of_process.get(phase, 0) for _, _, of_process in found):
                values[f"tokens_per_second/{phase}"] = tokens / max(sum(slowest), 1e-9)
        return values
