"""What an evaluation says in the terminal at its end: a table, and what to be careful about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from sgpo.evaluation.arguments import EvalArguments
from sgpo.evaluation.benchmarks import partly_guided

if TYPE_CHECKING:
    from sgpo.evaluation.results import Result

LOUD_TRUNCATION = 0.05  # share of truncated answers above which an evaluation warns


def print_set_results(args: EvalArguments, results: Sequence[Result], repeatable: str) -> None:
    console = console_for_tables()
    console.print(results_table(args, results))
    if args.group_by:
        for result in results:
            console.print(_groups_table(result, args.group_by))
    said = "± one standard error over problems. Cut off: share of answers that reached the length limit. Tokens: mean."
    console.print(f"{said} No answer, time-out: counts of answers without a readable one, or too slow to compare.")
    console.print(f"With the same seed again: {repeatable}.")
    for result in results:
        if line := partly_guided(result.problems):
            console.print(line, markup=False)
    for warning in warnings(results):
        console.print(warning, style="bold yellow", markup=False)


def console_for_tables() -> Console:
    """The terminal's width, or enough for a table where the output is a file."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=110)


def results_table(args: EvalArguments, results: Sequence[Result]) -> Table:
    """A row for each set, and their mean."""
    greedy = any(result.greedy for result in results)
    title = f"{args.model}{' (guided)' if args.guided else ''}, %"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))  # narrow enough for 80 columns
    table.add_column("benchmark", overflow="fold")
    columns = ("N", "k", "avg@k", *(["greedy"] if greedy else []), "pass@k", "maj@k", "cut off", "tokens")
    for name in (*columns, "no answer", "time-out"):
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for result in results:
        table.add_row(*_cells(result, greedy))
    if len(results) > 1:
        average = sum(result.evaluation.average for result in results) / len(results)
        error = sum(result.evaluation.standard_error**2 for result in results) ** 0.5 / len(results)
        table.add_section()
        table.add_row("average", "", "", _score(average, error))
    return table


def _cells(result: Result, greedy: bool) -> list[str]:
    evaluation = result.evaluation
    majority = evaluation.majority
    return [
        result.problems.name,
        str(len(evaluation.rates)),
        str(evaluation.k),
        _score(evaluation.average, evaluation.standard_error),
        *([f"{100 * result.greedy.average:.1f}" if result.greedy else ""] if greedy else []),
        f"{100 * evaluation.pass_at[evaluation.k]:.1f}",
        "" if majority is None else f"{100 * majority:.1f}",
        f"{100 * evaluation.truncated:.1f}",
        f"{evaluation.length:.0f}",
        str(evaluation.verdicts.get("unparsed", "")),
        str(evaluation.verdicts.get("timeout", "")),
    ]


def _score(average: float, error: float) -> str:
    return f"{100 * average:.1f} ± {100 * error:.1f}"


def _groups_table(result: Result, column: str) -> Table:
    evaluations = [evaluation for evaluation in (result.evaluation, result.greedy) if evaluation is not None]
    averages = [evaluation.by(column) for evaluation in evaluations]
    table = Table(title=f"{result.problems.name} by {column}", box=box.SIMPLE_HEAD)
    table.add_column(column)
    for name in ("avg@k", "greedy")[: len(evaluations)]:
        table.add_column(name, justify="right")
    for name in averages[0]:
        table.add_row(name, *(f"{100 * average[name]:.1f}" for average in averages))
    return table


def warnings(results: Sequence[Result]) -> list[str]:
    """Of each set of which more than 5% of the answers are truncated."""
    return [
        f"WARNING: {100 * result.evaluation.truncated:.0f}% of the answers on {result.problems.name} were cut off at "
        f"{result.asked.sampling.max_new_tokens} tokens and count as wrong: this is a score within that length"
        for result in results
        if result.evaluation.truncated > LOUD_TRUNCATION
    ]
