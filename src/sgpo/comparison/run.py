"""Run a plan: what is finished is not run again, what was cut off goes on, a failure does not stop the others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sgpo.command_runner import Job, JobRunner, ending_signals
from sgpo.comparison.devices import Place
from sgpo.comparison.jobs import all_jobs, check_warmup_is_same
from sgpo.comparison.plan import Cell, ComparisonPlan, changes
from sgpo.comparison.results import RESULTS, CellResult, append_result, key_of, read_results
from sgpo.errors import UnfinishedError

TAIL_BYTES = 16_384


def unfinished_cells(plan: ComparisonPlan) -> list[Cell]:
    """The cells without a result.

    Raises:
        ValueError: a finished cell, or a warm-up, that was made with another configuration.
    """
    finished = {key_of(row): row for row in read_results(plan.output / RESULTS)}
    for base in plan.bases:
        check_warmup_is_same(plan, base)
    # Also those of other seeds: they stand in the same table.
    bases, methods = {base.name: base for base in plan.bases}, {method.name: method for method in plan.recipe.methods}
    for (base_name, seed, name), row in finished.items():
        if base_name not in bases or name not in methods:
            continue
        cell = Cell(bases[base_name], seed, methods[name])
        if found := changes(row["configuration"], plan.configuration(cell)):
            raise ValueError(
                f"the finished cell {cell.name} was made with another configuration: {found}. Go on with the old "
                f"one, write another --output, or delete its line in {plan.output / RESULTS} to run it again"
            )
    return [cell for cell in plan.cells if cell.key not in finished]


def run_plan(plan: ComparisonPlan, todo: list[Cell], places: Sequence[Place], lock: int, *, keep_models: bool) -> None:
    """Run the unfinished cells, and append a line to results.jsonl for each.

    Raises:
        UnfinishedError: some failed; the others have been run.
    """
    console, failures = Console(highlight=False), dict[str, str]()
    done = len(plan.cells) - len(todo)
    at_once = f"{len(places)} at a time" if len(places) > 1 else "one at a time"
    console.print(f"{len(plan.cells)} cells, {done} of them finished; {at_once}. Logs: {plan.output / 'logs'}")

    if not todo:
        return

    def finished(row: CellResult) -> None:
        append_result(plan.output / RESULTS, row)
        console.print(_line(row), markup=False)

    def failed(name: str, message: str) -> None:
        failures[name] = message
        console.print(f"FAILED {message}", style="red", markup=False)

    jobs = all_jobs(plan, todo, finished, keep_models=keep_models)
    with ending_signals(), _bar(console, plan, jobs) as bar:
        runner = JobRunner(plan.output / "logs", places, failed, bar.watch, kept_open=(lock,))
        runner.run(jobs)
    if runner.lost:
        waited = sorted(runner.lost - failures.keys())
        others = f"; {', '.join(waited)} waited for them" if waited else ""
        raise UnfinishedError(
            f"{len(failures)} failed: {', '.join(failures)}{others}. The ends of their logs are above; the same "
            "command goes on with what is left"
        )


def _line(row: CellResult) -> str:
    scores = "  ".join(f"{name} {100 * found['score']:.1f}" for name, found in row["sets"].items())
    seed = "" if row["seed"] is None else f" seed {row['seed']}"
    return f"{row['base']}{seed} {row['method']}: {scores}"


class _Bar:
    """One bar over all jobs; beside it what runs, and how far it is."""

    def __init__(self, progress: Progress, plan: ComparisonPlan, count: int) -> None:
        self.progress, self.plan = progress, plan
        self.task = progress.add_task("jobs", total=count, note="")

    def watch(self, ended: set[str], running: Sequence[str]) -> None:
        self.progress.update(self.task, completed=len(ended), note="  ".join(map(self._note, running)))

    def _note(self, name: str) -> str:
        step = newest_step(self.plan.output / "cells" / name / "run" / "metrics.jsonl")
        return name if step is None else f"{name} {step}"


def newest_step(path: Path) -> int | None:
    """That of the newest whole line; only the end of the file is read, since this is asked several times a second."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        steps = re.findall(rb'"step": (\d+)[^\n]*\n', file.read())
    return int(steps[-1]) if steps else None


@contextmanager
def _bar(console: Console, plan: ComparisonPlan, jobs: dict[str, Job]) -> Iterator[_Bar]:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}", style="dim"), console=console) as progress:
        yield _Bar(progress, plan, len(jobs))
