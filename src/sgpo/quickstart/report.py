"""What the quickstart found: its summary, its table and where to go next."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sgpo import __version__
from sgpo.evaluation.compare import pass_rates
from sgpo.evaluation.statistics import paired_difference
from sgpo.problems import load_problems

TEST = "test"  # the set of test.jsonl, as sgpo eval calls it


# ---------------------------------------------------------------------- summary


def build_summary(evaluation: Path, models: Sequence[str]) -> dict[str, Any]:
    """Scores from what `sgpo eval` wrote into the folders `evaluation`/MODEL and `evaluation`/MODEL-guided."""
    rates = {name: pass_rates(evaluation / name, TEST) for name in models}
    guided = {name: evaluation / f"{name}-guided" / "summary.json" for name in models}
    return {
        "scores": {name: _scores(_read(evaluation / name / "summary.json")) for name in models},
        "guided": {name: _guided(_read(path)) for name, path in guided.items() if path.exists()},
        "sgpo_minus_grpo": _difference(rates["grpo"], rates["sgpo"]),
        "problems": len(rates["sgpo"]),
        "versions": {
            "python": platform.python_version(),
            "sgpo": __version__,
            **{name: version(name) for name in ("torch", "transformers", "trl")},
        },
    }


def _read(path: Path) -> dict[str, Any]:
    """The numbers of the test set."""
    return json.loads(path.read_text(encoding="utf-8"))["benchmarks"][TEST]


def _scores(summary: Mapping[str, Any]) -> dict[str, Any]:
    greedy = summary["greedy"]
    return {
        "avg_at_4": summary["average"],
        "standard_error": summary["standard_error"],
        "greedy": greedy["average"],
        "truncated": summary["truncated"],
        "by_family": {
            family: {"avg_at_4": average, "greedy": greedy["by"][family]} for family, average in summary["by"].items()
        },
    }


def _guided(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {"pass_rate": summary["average"], "by_family": summary["by"]}


def _difference(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, Any]:
    """Second minus first on the same problems, with a 95% bootstrap interval over problems.

    The interval says how well these two checkpoints are told apart, not what other training seeds would give.
    """
    found = paired_difference(first, second)
    return {"mean": found.mean, "interval_95": list(found.interval)}


# ---------------------------------------------------------------------- what is printed


def print_example(console: Console, problems: Path) -> None:
    """One problem with its strategy and the teacher's response."""
    all_problems = load_problems(problems)
    taught = [problem for problem in all_problems if problem.strategy] or all_problems
    problem = next((p for p in taught if p.extra["family"] == "equation"), taught[0])
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    grid.add_row("problem", Text(problem.prompt))
    grid.add_row("strategy", Text(problem.strategy or "", style="cyan"))
    grid.add_row("response", Text(problem.response or ""))
    note = Text("A strategy names the way, not the numbers; only training sees it.", style="dim")
    console.print(Padding(Panel.fit(Group(grid, Text(), note), title="one problem", border_style="dim"), (0, 4)))


def print_scores(console: Console, summary: Mapping[str, Any]) -> None:
    """The table, the difference and how much to believe."""
    scores, guided = summary["scores"], summary["guided"]
    title = f"Solved without strategies, % of {summary['problems']} test problems: avg@4 / greedy"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))  # narrow enough for 80 columns
    table.add_column("family", no_wrap=True)
    for name in scores:
        table.add_column("base" if name == "base" else name.upper(), justify="right", no_wrap=True)
    for name in guided:
        table.add_column(
            f"{'base' if name == 'base' else name.upper()}\nguided", justify="right", style="dim", no_wrap=True
        )
    for family in scores["base"]["by_family"]:
        cells = [_cell(score["by_family"][family]) for score in scores.values()]
        table.add_row(family, *cells, *(f"{100 * values['by_family'][family]:.0f}" for values in guided.values()))
    table.add_section()
    totals = [_cell(score, digits=1) for score in scores.values()]
    table.add_row("all", *totals, *(f"{100 * v['pass_rate']:.0f}" for v in guided.values()), style="bold")
    console.print()
    console.print(table)
    gap = summary["sgpo_minus_grpo"]
    low, high = (100 * value for value in gap["interval_95"])
    console.print(
        f"SGPO - GRPO, avg@4: {100 * gap['mean']:+.1f} points (95% interval over problems {low:+.1f} to {high:+.1f}).",
        highlight=False,
    )
    if summary["fast"]:
        warning = "With --fast there was next to no training: these numbers only show that everything runs."
        console.print(f"[bold yellow]{warning}[/]")
    else:
        console.print(
            "This is one seed, and training seeds differ by more than the interval says. Over ten seeds SGPO's lead at "
            "this length was 0.9 points [0.1, 1.8] (docs/results-miniworld.md): one run cannot show it.",
            style="dim",
        )


def _cell(score: Mapping[str, float], digits: int = 0) -> str:
    return f"{100 * score['avg_at_4']:.{digits}f} / {100 * score['greedy']:.{digits}f}"


def print_next_steps(console: Console, output: Path, recipes: Path) -> None:
    """Where the results lie and what to try."""
    lines = (
        ("[bold]Look at[/]", ""),
        ("report", f"{output / 'report.html'}  (both runs at a glance, for a browser)"),
        ("plot", output / "training.png"),
        ("strategies", output / "strategies.jsonl"),
        ("numbers", output / "summary.json"),
        ("completions", output / "evaluation" / "sgpo" / "samples" / f"{TEST}.parquet"),
        ("checkpoint", f"{output / 'sgpo'}  (an ordinary Hugging Face folder)"),
        ("commands", f"{output / 'commands.sh'}  (every command that was run)"),
        ("", ""),
        ("[bold]Try[/]", ""),
    )
    console.print()
    for name, value in lines:
        console.print(f"  {name:<12} {value}".rstrip(), highlight=False, soft_wrap=True)
    world = output / "miniworld"
    tries = (
        (
            "longer chains than it was trained on",
            f"sgpo eval --model {output / 'sgpo'} --problems {world / 'test_deeper.jsonl'} --group_by family",
        ),
        (
            "another weight of the distillation",
            f"sgpo train --config {recipes / 'sgpo.yaml'} --model {output / 'sft'} --problems "
            f"{output / 'strategies.jsonl'} --eval_problems {world / 'dev.jsonl'} --output_dir {output / 'mine'} "
            "--alpha_scale 0.25",
        ),
        (
            "your own model and problems (columns prompt, answer, strategy)",
            "sgpo train --model MODEL --problems problems.jsonl --output_dir runs/first",
        ),
    )
    for purpose, command in tries:
        console.print(f"  [dim]# {purpose}[/]", highlight=False, soft_wrap=True)
        console.print(f"  {command}", highlight=False, soft_wrap=True, markup=False)
    console.print("\n  README.md and docs/ of the project say more.", highlight=False)
