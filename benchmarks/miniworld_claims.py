"""The paper's claims (a) to (l) and (n), as differences with intervals, from the results of the two comparisons.

    python benchmarks/miniworld_claims.py docs/data/miniworld-v1-methods.jsonl

The rule for every line was written before the results were complete. A claim is about the sign of a difference, and
*holds* where the difference has that sign beyond chance, *does not hold* where it has the other one so, and otherwise
the data *cannot tell*. Beyond chance means: for scores, in points of avg@4 on the test problems, that Holm's p over all
claims about scores is below .05, of the bootstrap of `sgpo compare`, whose 95% interval is shown; for what happens in
training, that the 95% t interval over paired cells leaves out zero. Of fewer than three cells nothing is
said. Claim (m) has a script of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sgpo.comparison.results import CellResult, read_results
from sgpo.comparison.statistics import crossed_difference, holm, standard_deviation
from sgpo.comparison.summary import rates_by_cell

# Student's t at 97.5%, by cells - 2.
T = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)
START, EARLY, LATE, ALL = (0.0, 0.1), (0.0, 1 / 3), (0.8, 1.0), (0.0, 1.0)  # parts of the training
FEWEST = 3  # cells

Window = tuple[float, float]


@dataclass(frozen=True)
class Claim:
    """A difference, second minus first, of which the paper claims the sign.

    Without a metric it is one of scores. With ``since`` it is of the change between two parts of the training, and
    without ``first`` it is one method's own change.
    """

    letter: str
    second: str
    first: str = ""
    sign: int = 1
    paper: str = ""
    metric: str = ""
    window: Window = LATE
    since: Window | None = None

    @property
    def text(self) -> str:
        pair = f"{self.second} minus {self.first}" if self.first else self.second
        if not self.metric:
            return f"score, {pair}"
        if not self.since:
            return f"{self.metric}, {PARTS[self.window]}, {pair}"
        return f"change of {self.metric}, {PARTS[self.window]} minus {PARTS[self.since]}, {pair}"


@dataclass(frozen=True)
class Found:
    """Example: ``Found(3.1, (0.8, 5.4), cells=5, p=0.012)``"""

    mean: float
    interval: tuple[float, float]
    cells: int
    p: float | None = None  # of scores

    def verdict(self, sign: int, adjusted_p: float | None) -> str:
        low, high = self.interval
        chance = low <= 0 <= high if adjusted_p is None else adjusted_p >= 0.05
        chance = chance or self.cells < FEWEST
        return "cannot tell" if chance else "holds" if sign * self.mean > 0 else "does not hold"


PARTS = {START: "first tenth", EARLY: "first third", LATE: "last fifth", ALL: "all of the training"}
CLAIMS = (
    *(Claim("a", "sgpo", first) for first in ("sft", "sft-all", "grpo", "luffy", "hpt")),
    Claim("c", "sgpo", "grpo-8", paper="+2.2"),
    Claim("c", "sgpo", "sgpo-no-autonomous", paper="+3.5"),
    Claim("c", "sgpo-no-autonomous", "sgpo", metric="reward/autonomous", window=EARLY),
    Claim("c", "sgpo-no-autonomous", "sgpo", -1, metric="reward/autonomous", window=LATE, since=EARLY),
    Claim("c", "sgpo-no-autonomous", "sgpo", -1, metric="surprisal"),
    Claim("d", "sgpo", "sgpo-no-constraints", paper="+6.8"),
    Claim("d", "sgpo-no-constraints", "sgpo", -1, metric="surprisal"),
    Claim("e", "sgpo", "sgpo-no-selection", paper="+4.0"),
    Claim("e", "sgpo", "sgpo-no-clipping", paper="+3.4"),
    Claim("e", "sgpo-no-clipping", "sgpo-no-selection", paper="+0.6"),
    Claim("f", "sgpo", "sgpo-alpha-1", paper="+1.2"),
    Claim("f", "sgpo", "sgpo-alpha-1", metric="reward/autonomous", window=EARLY),
    Claim("g", "sgpo", "sgpo-alpha-mean"),
    Claim("g", "sgpo", "sgpo-group-advantage"),
    Claim("h", "sgpo", "sgpo-reverse"),
    Claim("i", "sgpo", "sgpo-likelihood", paper="+2.8"),
    Claim("i", "sgpo", "sgpo-likelihood", metric="reward/autonomous", window=EARLY),
    Claim("j", "sgpo", "grpo", metric="surprisal"),
    Claim("k", "sgpo", "grpo", metric="length/autonomous", since=START),
    Claim("l", "sgpo", sign=-1, metric="alpha", since=START),
    Claim("n", "sgpo-shuffled", "sgpo", -1, metric="alpha", window=ALL),
)
# Of no claim of the paper's, but needed to read the others.
BESIDE = (
    Claim("", "grpo", "grpo-8"),
    Claim("", "sgpo", "sgpo-delta-1"),
    Claim("", "sgpo-shuffled", "grpo"),
    Claim("", "sgpo-no-constraints", "sgpo", metric="grad_norm", window=ALL),
)


def measure(rows: Sequence[CellResult], claim: Claim) -> Found | None:
    """None where there are fewer than two cells with it; of scores, where there is none."""
    return _of_training(rows, claim) if claim.metric else _of_scores(rows, claim)


def _of_scores(rows: Sequence[CellResult], claim: Claim) -> Found | None:
    seeds = sorted({row["seed"] for row in rows if row["seed"] is not None})
    first, second = ([row for row in rows if row["method"] == name] for name in (claim.first, claim.second))
    found = crossed_difference([(rates_by_cell(first, "test", seeds), rates_by_cell(second, "test", seeds))])
    if found is None:
        return None
    return Found(100 * found.mean, (100 * found.interval[0], 100 * found.interval[1]), found.cells, found.p)


def _of_training(rows: Sequence[CellResult], claim: Claim) -> Found | None:
    first, second = (_by_cell(rows, name, claim) for name in (claim.first, claim.second))
    values = [
        value - (first[key] if claim.first else 0.0) for key, value in second.items() if not claim.first or key in first
    ]
    if len(values) < 2:
        return None
    mean, half = float(np.mean(values)), T[len(values) - 2] * (standard_deviation(values) or 0.0) / len(values) ** 0.5
    return Found(mean, (mean - half, mean + half), len(values))


def _by_cell(rows: Sequence[CellResult], method: str, claim: Claim) -> dict[tuple[str, int], float]:
    found = {}
    for row in rows:
        if row["method"] == method:
            value = _part(row, claim.metric, claim.window)
            found[row["base"], row["seed"]] = value - (_part(row, claim.metric, claim.since) if claim.since else 0.0)
    return found


def _part(row: CellResult, metric: str, window: Window) -> float:
    """The mean of a curve over a part of the training; where nothing was measured, over what was."""
    steps, values = row["curves"]["step"], row["curves"][metric]
    last = steps[-1]
    inside = [
        v for s, v in zip(steps, values, strict=True) if window[0] * last < s <= window[1] * last and v is not None
    ]
    return float(np.mean(inside))


def table(rows: Sequence[CellResult], claims: Sequence[Claim]) -> Iterator[str]:
    """Markdown."""
    measured = [measure(rows, claim) for claim in claims]
    p_values = {i: found.p for i, found in enumerate(measured) if found is not None and found.p is not None}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    yield "| | difference | paper | ours [95% interval] | cells | p (Holm) | |"
    yield "|---|---|---:|---|---:|---:|---|"
    for i, (claim, found) in enumerate(zip(claims, measured, strict=True)):
        if found is None:
            yield f"| {claim.letter} | {claim.text} | {claim.paper} | not measured | | | |"
            continue
        digits = 1 if not claim.metric or "length" in claim.metric else 3
        ours = "{:+.{d}f} [{:+.{d}f}, {:+.{d}f}]".format(found.mean, *found.interval, d=digits)
        p, verdict = adjusted.get(i), found.verdict(claim.sign, adjusted.get(i)) if claim.letter else ""
        shown = "" if p is None else f"{p:.2g}"
        yield f"| {claim.letter} | {claim.text} | {claim.paper} | {ours} | {found.cells} | {shown} | {verdict} |"


def gains(rows: Sequence[CellResult], method: str = "sgpo") -> Iterator[str]:
    """Claim (b): what each base model gains over its warm-up, beside what that had."""
    for base in dict.fromkeys(row["base"] for row in rows):
        own = [row for row in rows if row["base"] == base]
        found = measure(own, Claim("b", method, "sft"))
        start = next((100 * row["sets"]["test"]["score"] for row in own if row["method"] == "sft"), None)
        if found is not None and start is not None:
            gain = "{:+.1f} [{:+.1f}, {:+.1f}]".format(found.mean, *found.interval)
            yield f"{base}: warm-up {start:.1f}, {method} {gain}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    rows = read_results(parser.parse_args().results)
    print("\n".join(table(rows, CLAIMS)), end="\n\n")
    print("\n".join(table(rows, BESIDE)), end="\n\n")
    print("\n".join(gains(rows)))


if __name__ == "__main__":
    main()
