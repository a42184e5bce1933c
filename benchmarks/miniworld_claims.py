"""The paper's claims (a) to (l) and (n), as differences with intervals, from the results of the two comparisons.

    python benchmarks/miniworld_claims.py docs/data/miniworld-v1-methods.jsonl

A claim is about the sign of a difference, and *holds* where the difference has that sign beyond chance, *does not hold*
where it has the other one so, and otherwise the data *cannot tell*: then the last column says with how many cells a
difference of the observed size would be seen in four of five cases, the problems being the same. Beyond chance means
that Holm's p over all claims is below .05, of the intervals of `sgpo compare`. Scores are avg@4 on the test problems,
in points; what happens in training has cells, and no problems. Of fewer than three cells nothing is said. Claim (m) has
a script of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from miniworld_tables import p_value

from sgpo.comparison.results import CellResult, read_results
from sgpo.comparison.statistics import CellKey, CrossedDifference, crossed_difference, holm
from sgpo.comparison.summary import rates_by_cell

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


def verdict(found: CrossedDifference, sign: int, adjusted_p: float) -> str:
    if adjusted_p >= 0.05 or found.cells < FEWEST:
        return "cannot tell"
    return "holds" if sign * found.mean > 0 else "does not hold"


PARTS = {START: "first tenth", EARLY: "first third", LATE: "last fifth", ALL: "all of the training"}
BASELINES = {"sft": "", "sft-all": "", "grpo": "+2.2", "luffy": "", "hpt": ""}
CLAIMS = (
    *(Claim("a", "sgpo", first, paper=paper) for first, paper in BASELINES.items()),
    Claim("c", "sgpo", "grpo-8"),
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
    Claim("h", "sgpo", "sgpo-reverse", paper="+1.2"),
    Claim("i", "sgpo", "sgpo-likelihood", paper="+2.8"),
    Claim("i", "sgpo", "sgpo-likelihood", metric="reward/autonomous", window=EARLY),
    Claim("j", "sgpo", "grpo", metric="surprisal"),
    Claim("k", "sgpo", "grpo", metric="length/autonomous", since=START),
    Claim("l", "sgpo", sign=-1, metric="alpha", since=START),
    Claim("n", "sgpo-foreign", "sgpo", -1, metric="alpha", window=ALL),
)
# Of no claim of the paper's, but needed to read the others.
BESIDE = (
    Claim("", "grpo", "grpo-8"),
    Claim("", "sgpo", "sgpo-delta-3"),
    Claim("", "sgpo-foreign", "grpo"),
    Claim("", "sgpo-no-constraints", "sgpo", metric="grad_norm", window=ALL),
)


def measure(rows: Sequence[CellResult], claim: Claim) -> CrossedDifference | None:
    """None where there are fewer than two cells with it; of scores, where there is none."""
    return _of_training(rows, claim) if claim.metric else _of_scores(rows, claim)


def _of_scores(rows: Sequence[CellResult], claim: Claim) -> CrossedDifference | None:
    seeds = sorted({row["seed"] for row in rows if row["seed"] is not None})
    first, second = ([row for row in rows if row["method"] == name] for name in (claim.first, claim.second))
    return crossed_difference([(rates_by_cell(first, "test", seeds), rates_by_cell(second, "test", seeds))])


def _of_training(rows: Sequence[CellResult], claim: Claim) -> CrossedDifference | None:
    """Each cell has one value, as if of one problem."""
    second = _by_cell(rows, claim.second, claim)
    first = _by_cell(rows, claim.first, claim) if claim.first else {key: {"": 0.0} for key in second}
    return crossed_difference([(first, second)]) if len(first.keys() & second.keys()) > 1 else None


def _by_cell(rows: Sequence[CellResult], method: str, claim: Claim) -> dict[CellKey, dict[str, float]]:
    found = {}
    for row in rows:
        if row["method"] == method:
            value = _part(row, claim.metric, claim.window)
            before = _part(row, claim.metric, claim.since) if claim.since else 0.0
            found[row["base"], row["seed"]] = {"": value - before}
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
    p_values = {i: found.p for i, found in enumerate(measured) if found is not None}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    yield "| | difference | paper | ours [95% interval] | seen | cells | p (Holm) | verdict | cells needed |"
    yield "|---|---|---:|---:|---:|---:|---:|---|---:|"
    for i, (claim, found) in enumerate(zip(claims, measured, strict=True)):
        if found is None:
            yield f"| {claim.letter} | {claim.text} | {claim.paper} | not measured | | | | | |"
        else:
            yield f"| {claim.letter} | {claim.text} | {claim.paper} | {_cells(claim, found, adjusted[i])} |"


def _cells(claim: Claim, found: CrossedDifference, adjusted_p: float) -> str:
    """From "ours" on; "seen" is the smallest difference that so many cells see in four of five cases."""
    scale, digits = (1, 1 if "length" in claim.metric else 3) if claim.metric else (100, 1)
    said = verdict(found, claim.sign, adjusted_p) if claim.letter else ""
    needed = (found.cells_needed() or "more problems") if said == "cannot tell" else ""
    seen = f"{scale * found.smallest_seen:.{digits}f}"
    return f"{_ours(found, scale, digits)} | {seen} | {found.cells} | {p_value(adjusted_p)} | {said} | {needed}"


def _ours(found: CrossedDifference, scale: int = 100, digits: int = 1) -> str:
    mean, low, high = (f"{scale * value:+.{digits}f}" for value in (found.mean, *found.interval))
    return f"{mean} [{low}, {high}]"


def gains(rows: Sequence[CellResult], method: str = "sgpo") -> Iterator[str]:
    """Markdown for claim (b): what each base model gains over its warm-up, and how much more the last of them gains."""
    bases = list(dict.fromkeys(row["base"] for row in rows))
    yield f"| base model | warm-up | `{method}` minus it | the gain of {bases[-1]} minus this one |"
    yield "|---|---:|---:|---:|"
    for base in bases:
        (start,) = (row["sets"]["test"] for row in rows if row["base"] == base and row["method"] == "sft")
        gain = measure([row for row in rows if row["base"] == base], Claim("b", method, "sft"))
        more = crossed_difference([tuple(_gain_by_cell(rows, each, method) for each in (base, bases[-1]))])
        assert gain is not None
        assert more is not None
        beside = _ours(more) if base != bases[-1] else ""
        yield f"| {base.removeprefix('base-')} | {100 * start['score']:.1f} | {_ours(gain)} | {beside} |"


def _gain_by_cell(rows: Sequence[CellResult], base: str, method: str) -> dict[CellKey, dict[str, float]]:
    """Of each seed and problem, the method's rate minus that of the warm-up."""
    own = [row for row in rows if row["base"] == base]
    (start,) = (row["sets"]["test"]["rates"] for row in own if row["method"] == "sft")
    found = {row["seed"] or 0: row["sets"]["test"]["rates"] for row in own if row["method"] == method}
    return {("", seed): {name: rates[name] - start[name] for name in start} for seed, rates in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    rows = read_results(parser.parse_args().results)
    print("\n".join(table(rows, CLAIMS)), end="\n\n")
    print("\n".join(table(rows, BESIDE)), end="\n\n")
    print("\n".join(gains(rows)))


if __name__ == "__main__":
    main()
