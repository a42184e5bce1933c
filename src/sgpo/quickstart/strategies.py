"""What came of the strategies of a quickstart: kept, rejected by reason, scores, and how many are right."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sgpo.miniworld.cards import ways_of
from sgpo.miniworld.families import FAMILIES
from sgpo.problems import Problem, load_problems
from sgpo.strategies.record import parse_strategy


def strategy_summary(extracted: Path) -> dict[str, Any]:
    """Counts of problems and of candidates, and scores.

    ``flagged`` counts candidates by what the checks found first; ``right`` the kept strategies that name a route of the
    problem's family, which the mini-world knows and the pipeline does not.
    """
    rows = load_problems(extracted)
    kept = [row for row in rows if row.extra["status"] == "kept"]
    candidates = [candidate for row in rows for candidate in row.extra["candidates"]]
    flags = [candidate["flags"][0].partition(":")[0] for candidate in candidates if candidate["flags"]]
    scores = [candidate["score"] for candidate in candidates if candidate["score"] is not None]
    return {
        "problems": len(rows),
        "kept": len(kept),
        "rejected": dict(
            Counter(row.extra["reason"] for row in rows if row.extra["status"] == "rejected").most_common()
        ),
        "failed": sum(row.extra["status"] == "failed" for row in rows),
        "mean_score": _mean([row.extra["score"] for row in kept]),
        "right": sum(map(_is_right, kept)),
        "candidates": len(candidates),
        "flagged": dict(Counter(flags).most_common()),
        "mean_score_of_candidates": _mean(scores),
    }


def _is_right(row: Problem) -> bool:
    family = FAMILIES[row.extra["family"]]
    ways = ways_of(family, parse_strategy(row.strategy or ""))
    return bool(ways) and all(way in family.routes for way in ways)


def _mean(values: list[float]) -> float | None:
    return round(statistics.mean(values), 4) if values else None


def print_strategies(console: Console, summary: Mapping[str, Any]) -> None:
    """A table of problems, and one line on the candidates."""
    table = Table(
        title=f"Strategies of {summary['problems']} training problems", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("", no_wrap=True)
    table.add_column("problems", justify="right")
    table.add_column("mean score", justify="right")
    table.add_row("kept", str(summary["kept"]), _written(summary["mean_score"]))
    table.add_row("  of these right", str(summary["right"]), "", style="dim")
    for reason, count in summary["rejected"].items():
        table.add_row(f"rejected: {reason}", str(count), "")
    if summary["failed"]:
        table.add_row("failed", str(summary["failed"]), "")
    console.print()
    console.print(table)
    flagged = ", ".join(f"{count} {kind}" for kind, count in summary["flagged"].items())
    console.print(
        f"Of {summary['candidates']} candidates the checks dropped {sum(summary['flagged'].values())} ({flagged}); the "
        f"others scored {_written(summary['mean_score_of_candidates'])} on average.",
        highlight=False,
    )


def _written(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"
