"""The table of a comparison: on the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from sgpo.comparison.results import CellResult
from sgpo.comparison.summary import Cost, MethodSummary, SetSummary, budget_notes, costs, summarise
from sgpo.evaluation.report import console_for_tables

COLUMNS = ("method", "cells", "samples", "mean ± sd", "minus {baseline}", "95% interval", "p (Holm)", "every seed")
COSTS = ("method", "samples", "sampled tokens", "trained tokens", "seconds")
TABLE = "table.md"


def write_table(rows: Sequence[CellResult], baseline: str, output: Path, methods: Sequence[str] = ()) -> None:
    """Print the table, and write OUTPUT/table.md."""
    sets = summarise(rows, baseline, methods)
    spent = costs(rows, methods)
    notes = [*budget_notes(rows, baseline, methods), *explanations(sets, baseline)]
    output.mkdir(parents=True, exist_ok=True)
    (output / TABLE).write_text(markdown(sets, spent, notes, baseline), encoding="utf-8")
    print_tables(sets, spent, notes, baseline)


def explanations(sets: Sequence[SetSummary], baseline: str) -> list[str]:
    claims = max((sum(line.difference is not None for line in each.lines) for each in sets), default=0)
    return [
        "Mean ± standard deviation over seeds and base models, % of problems solved without strategies; samples: a "
        "problem, in training",
        f"Minus {baseline}: on the same base models, seeds and problems; interval and p: Student's t over seeds and "
        f"problems, for these base models; Holm's correction is for {claims} claims a set",
        "Seconds: of sampling, verifying, assembling and optimising (of SFT: of its command); of cells that ran side "
        "by side they are comparable only roughly",
    ]


def smallest_seen(each: SetSummary) -> str:
    """What a comparison of this size can tell at all; nothing where nothing is compared."""
    seen = [line.difference.smallest_seen for line in each.lines if line.difference is not None]
    if not seen:
        return ""
    size = f"{100 * min(seen):.1f}" if len(seen) == 1 else f"{100 * min(seen):.1f} to {100 * max(seen):.1f}"
    return f"Smallest difference that such a comparison sees in four of five cases: {size} points, by method."


def cells_of(line: MethodSummary) -> list[str]:
    """As COLUMNS has them."""
    found = line.difference
    difference, interval, p = "", "", ""
    if found is not None and line.adjusted_p is not None:
        difference = points(found.mean)
        interval = " to ".join(map(points, found.interval))
        p = f"{line.adjusted_p:.4f}" if line.adjusted_p < 0.001 else f"{line.adjusted_p:.3f}"
    samples = "" if line.samples is None else str(line.samples)
    return [
        line.method,
        str(len(line.scores)),
        samples,
        mean_and_spread(line),
        difference,
        interval,
        p,
        every_seed(line),
    ]


def mean_and_spread(line: MethodSummary) -> str:
    """In %. Example: ``44.1 ± 1.2``; without the deviation of a single cell."""
    deviation = "" if line.deviation is None else f" ± {100 * line.deviation:.1f}"
    return f"{100 * line.mean:.1f}{deviation}"


def points(share: float) -> str:
    """Example: ``+3.1``; what rounds to zero has no minus."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def every_seed(line: MethodSummary) -> str:
    """Example: ``44.1 45.2 43.0; base-102: 40.2 41.3``"""
    bases = list(dict.fromkeys(base for base, _ in line.scores))
    parts = [" ".join(f"{100 * score:.1f}" for (own, _), score in line.scores.items() if own == base) for base in bases]
    return parts[0] if len(bases) == 1 else "; ".join(f"{b}: {p}" for b, p in zip(bases, parts, strict=True))


def cost_cells(cost: Cost) -> list[str]:
    """As COSTS has them."""
    counts = ["" if value is None else f"{value:,.0f}" for value in (cost.completions, cost.sampled_tokens)]
    trained = "" if cost.trained_tokens is None else f"{cost.trained_tokens:,.0f}"
    return [cost.method, *counts, trained, f"{cost.seconds:,.0f}" if cost.seconds else ""]


def heading(each: SetSummary) -> str:
    return each.name if each.k is None else f"{each.name}: {each.problems} problems, avg@{each.k}"


# ---------------------------------------------------------------------- Markdown


def markdown(sets: Sequence[SetSummary], spent: Sequence[Cost], notes: Sequence[str], baseline: str) -> str:
    parts = []
    for each in sets:
        columns = [name.format(baseline=baseline) for name in COLUMNS]
        seen = smallest_seen(each)
        parts += [
            f"### {heading(each)}",
            *([seen] if seen else []),
            _markdown_table(columns, [cells_of(line) for line in each.lines]),
        ]
    parts += ["### Cost of a cell", _markdown_table(COSTS, [cost_cells(cost) for cost in spent])]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)]) + "\n"


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# ---------------------------------------------------------------------- terminal


def print_tables(
    sets: Sequence[SetSummary],
    spent: Sequence[Cost],
    notes: Sequence[str],
    baseline: str,
    console: Console | None = None,
) -> None:
    console = console or console_for_tables()
    for each in sets:
        if seen := smallest_seen(each):
            console.print(seen, style="dim", markup=False)
        table = _table(heading(each), [name.format(baseline=baseline) for name in COLUMNS])
        for line in each.lines:
            table.add_row(*cells_of(line), style="bold" if line.method == baseline else None)
        console.print(table)
    table = _table("cost of a cell", COSTS)
    for cost in spent:
        table.add_row(*cost_cells(cost))
    console.print(table)
    for note in notes:
        console.print(f"{note}.", style="dim", markup=False)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        last = name == "every seed"
        table.add_column(name, justify="left" if number == 0 or last else "right", no_wrap=not last, overflow="fold")
    return table
