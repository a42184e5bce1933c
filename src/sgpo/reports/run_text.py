"""Runs at a glance in a terminal: `sgpo report --text`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sgpo.reports.page import shown_text
from sgpo.reports.run_completions import gains_by_type, read_sampled
from sgpo.reports.run_folder import RunFolder, Score, scores_of

BARS = "▁▂▃▄▅▆▇█"
BUCKETS = 24  # characters of a curve
METRICS = {
    "reward/autonomous": "reward, autonomous",
    "reward/guided": "reward, guided",
    "alpha": "alpha",
    "entropy": "entropy, nats",
    "length/autonomous": "tokens, autonomous",
    "truncated/autonomous": "truncated, autonomous",
    "divergence": "divergence, nats",
    "divergence_masked_share": "masked share",
    "seconds/sample": "seconds, sample",
    "seconds/optimise": "seconds, optimise",
}
SHOWN_TYPES = 5


def print_runs(runs: Sequence[RunFolder], scores: Sequence[Score] = (), console: Console | None = None) -> None:
    """Raises ValueError for a table of completions that cannot be read."""
    console = console or Console()
    for number, run in enumerate(runs):
        ended = "finished" if run.is_finished else "not finished"
        console.print(Text(f"{shown_text(run.name)}: {run.updates} updates, {ended}", style="bold"))
        console.print(_dynamics(run))
        for score in scores_of(run):
            console.print(_sentence(score))
        problems = [problem for path in run.completions for problem in read_sampled(path, number)]
        both = [problem for problem in problems if problem.gain is not None]
        if both:
            unlocked = sum(problem.is_unlocked for problem in both)
            console.print(Text(f"Guidance unlocked {unlocked} of {len(both)} sampled problems. Largest gains:"))
            for row in gains_by_type(both)[:SHOWN_TYPES]:
                text = f"  {100 * row['gain']:+4.0f} points  {row['type']} ({row['problems']})"
                console.print(Text(text, overflow="ellipsis", no_wrap=True))
        console.print()
    for score in scores:
        console.print(_sentence(score))


def _sentence(score: Score) -> Text:
    interval = score.interval
    between = f" (95 %: {100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
    return Text(f"{shown_text(score.label)}: {100 * score.mean:.1f} %{between}, {shown_text(score.detail)}")


def _dynamics(run: RunFolder) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("metric", no_wrap=True)
    for name in ("first", "last"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("over the run", no_wrap=True)
    for metric, words in METRICS.items():
        _, values = run.values(metric)
        if values:
            table.add_row(words, f"{values[0]:.3g}", f"{values[-1]:.3g}", sparkline(values))
    return table


def sparkline(values: Sequence[float]) -> str:
    """Means of at most `BUCKETS` equal parts, from the smallest of them to the largest. Example: [0, 1] gives "▁█"."""
    count = min(BUCKETS, len(values))
    edges = [len(values) * place // count for place in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    return "".join(BARS[int((mean - low) / (high - low) * 7.999)] if high > low else BARS[0] for mean in means)
