"""The tables of docs/results-miniworld.md and results-miniworld-claims.md, from the results of a comparison.

    python benchmarks/miniworld_tables.py docs/data/miniworld-v2-methods.jsonl [--baseline grpo] [--methods grpo sgpo]

Scores are avg@4 in %: the mean over base models and their seeds ± the standard deviation over all cells. The interval
and Holm's p are those of `sgpo compare`, of the first set. The second table has the first set by base model.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from sgpo.comparison.results import CellResult, methods_of, read_results
from sgpo.comparison.summary import MethodSummary, summarise
from sgpo.comparison.table import mean_and_spread, points


def scores_table(rows: Sequence[CellResult], baseline: str, methods: Sequence[str]) -> Iterator[str]:
    """Markdown: a row for each method, a column for each set."""
    sets = [each for each in summarise(rows, baseline, methods) if each.k is not None]
    names = [each.name.removeprefix("test_") for each in sets]
    yield f"| | cells | {names[0]} | minus `{baseline}` | p (Holm) | {' | '.join(names[1:])} |"
    yield f"|---|---:|---:|---:|---:|{'---:|' * len(names[1:])}"
    for lines in zip(*(each.lines for each in sets), strict=True):
        first, *others = lines
        cells = [str(len(first.scores)), mean_and_spread(first), *difference(first), *map(mean_and_spread, others)]
        yield f"| `{first.method}` | {' | '.join(cells)} |"


def difference(line: MethodSummary) -> tuple[str, str]:
    """Difference to the baseline with its interval, in points, and p."""
    if line.difference is None:
        return "", ""
    low, high = map(points, line.difference.interval)
    p = "" if line.adjusted_p is None else p_value(line.adjusted_p)
    return f"{points(line.difference.mean)} [{low}, {high}]", p


def p_value(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-4 else "< .0001"


def mean_and_each(scores: Sequence[float], *, bold: bool = False) -> str:
    """Scores in %: their mean, and in brackets each of them if there are several."""
    mean = f"**{fmean(scores):.1f}**" if bold else f"{fmean(scores):.1f}"
    return mean + (f" ({', '.join(f'{score:.1f}' for score in scores)})" if len(scores) > 1 else "")


def bases_table(rows: Sequence[CellResult], baseline: str, methods: Sequence[str]) -> Iterator[str]:
    """Markdown: the first set, a row for each base model."""
    lines = summarise(rows, baseline, methods)[0].lines
    yield f"| base model | {' | '.join(f'`{line.method}`' for line in lines)} |"
    yield f"|---|{'---:|' * len(lines)}"
    for base in dict.fromkeys(row["base"] for row in rows):
        means = [fmean(value for (own, _), value in line.scores.items() if own == base) for line in lines]
        yield f"| {base.removeprefix('base-')} | {' | '.join(f'{100 * mean:.1f}' for mean in means)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--baseline", default="grpo")
    parser.add_argument("--methods", nargs="+")
    options = parser.parse_args()
    rows = read_results(options.results)
    methods = options.methods or methods_of(rows)
    rows = [row for row in rows if row["method"] in methods]
    print("\n".join(scores_table(rows, options.baseline, methods)), end="\n\n")
    print("\n".join(bases_table(rows, options.baseline, methods)))


if __name__ == "__main__":
    main()
