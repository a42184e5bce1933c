"""What a user sees: progress while it runs, a table at the end, an estimate, and strategies one by one."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from sgpo.chat.client import ChatClient
from sgpo.chat.costs import Usage
from sgpo.chat.session import Run
from sgpo.screen import LINE_SECONDS, amount, duration

ERRORS_SHOWN = 3  # of those by which requests failed, the most frequent
WINDOW = 300.0  # seconds over which the rate, and the time left, are measured


class Finished(Protocol):
    """What `Outcome` and `Solved` have in common."""

    @property
    def status(self) -> str: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def detail(self) -> str | None: ...
    @property
    def usage(self) -> Usage: ...


@contextmanager
def progress(total: int, console: Console) -> Iterator[Callable[[ChatClient], Callable[[object], None]]]:
    """A bar with problems, requests a second, tokens, cost and time left; lines where there is no terminal."""
    bar = Progress(
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        console=console,
        disable=not console.is_terminal,
        refresh_per_second=2,
    )
    with bar:
        task = bar.add_task("", total=total, status="")

        def watch(client: ChatClient) -> Callable[[object], None]:
            speed = Speed(client, total)
            last_line = time.monotonic()

            def done(_: object) -> None:
                nonlocal last_line
                speed.problem_done()
                bar.update(task, advance=1, status=speed.line())
                if not console.is_terminal and time.monotonic() - last_line >= LINE_SECONDS:
                    last_line = time.monotonic()
                    console.print(f"{speed.done}/{total} problems, {speed.line()}", highlight=False)

            return done

        yield watch


class Speed:
    """Problems and requests a second over the last minutes, of this run's requests only."""

    def __init__(self, client: ChatClient, total: int) -> None:
        self.client, self.total, self.done = client, total, 0
        self._marks: list[tuple[float, int, int]] = [(time.monotonic(), 0, 0)]  # time, problems, requests

    def problem_done(self) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self._marks[-1][0] >= 1.0:
            self._marks.append((now, self.done, self.client.counts.usage.requests))
            while self._marks[0][0] < now - WINDOW:
                self._marks.pop(0)

    def line(self) -> str:
        began, problems, requests = self._marks[0]
        seconds = max(1e-3, time.monotonic() - began)
        usage = self.client.counts.usage
        rate = (self.done - problems) / seconds
        left = duration((self.total - self.done) / rate) if rate else "?"
        return (
            f"{(usage.requests - requests) / seconds:.1f} requests/s, {amount(usage.prompt_tokens)} tokens in, "
            f"{amount(usage.completion_tokens)} out, ${self.client.budget.spent:.2f} so far, {left} left"
        )


def summary_table(run: Run[Any], *, kept: str, priced: bool) -> Table:
    """How many problems ended how, and what it took. ``kept`` is the word for problems that came through."""
    outcomes: Sequence[Finished] = run.outcomes
    counts = Counter(outcome.status for outcome in outcomes)
    table = Table(show_header=False, title=f"{len(outcomes)} problems")
    table.add_column()
    table.add_column(justify="right")
    table.add_row(kept, str(counts["kept"]))
    table.add_row("rejected", str(counts["rejected"]))
    reasons = Counter(o.reason for o in outcomes if o.status == "rejected")
    for reason, count in reasons.most_common():
        table.add_row(f"  {reason}", str(count))
    table.add_row("failed", str(counts["failed"]))
    errors = Counter(o.detail for o in outcomes if o.status == "failed").most_common()
    for error, count in errors[:ERRORS_SHOWN]:
        table.add_row(escape(f"  {error}"), str(count))
    if others := sum(count for _, count in errors[ERRORS_SHOWN:]):
        table.add_row("  other errors", str(others))
    if run.unfinished:
        table.add_row("not finished", str(run.unfinished))
    scores = [score for o in outcomes if (score := getattr(o, "score", None)) is not None and o.status == "kept"]
    if scores:
        table.add_row("mean score", f"{statistics.mean(scores):.3f}")
    usage = sum((outcome.usage for outcome in outcomes), Usage())
    table.add_row("requests, of this run", f"{usage.requests}, {run.counts.usage.requests}")
    table.add_row("tokens in, out", f"{amount(usage.prompt_tokens)}, {amount(usage.completion_tokens)}")
    if priced:
        table.add_row("cost", f"${usage.cost:.4f}")
        if run.counts.perhaps_billed.requests:
            lost = run.counts.perhaps_billed
            table.add_row(f"{lost.requests} requests without an answer, at most", f"${lost.cost:.4f}")
    if run.damaged:
        table.add_row("damaged lines of the journal, asked again", str(run.damaged))
    return table


def estimate_table(outcomes: Sequence[Finished], total: int, *, priced: bool) -> Table:
    """Requests, tokens and cost of all problems, from those of a pilot; ± is one standard error."""
    table = Table("", "pilot", "estimate", title=f"{len(outcomes)} of {total} problems asked")
    measured: Mapping[str, list[float]] = {
        "requests": [o.usage.requests for o in outcomes],
        "tokens in": [o.usage.prompt_tokens for o in outcomes],
        "tokens out": [o.usage.completion_tokens for o in outcomes],
        **({"cost, $": [o.usage.cost for o in outcomes]} if priced else {}),
    }
    for name, values in measured.items():
        write = (lambda v: f"{v:.4f}") if name.startswith("cost") else amount
        error = statistics.stdev(values) * total / len(values) ** 0.5 if len(values) > 1 else 0.0
        table.add_row(name, write(sum(values)), f"{write(statistics.mean(values) * total)} ± {write(error)}")
    return table


def show_strategies(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Problem, strategy and score of some rows; of those that no strategy has been asked for, the response."""
    for row in rows:
        score = row.get("score")
        title = f"{row['id']}" + (f", score {score:.2f}" if score is not None else "")
        name = "strategy" if row.get("strategy") or "prompt_version" in row else "response"
        shown = row.get(name) or f"none: {row.get('reason') or row.get('detail') or 'not asked for'}"
        text = f"[bold]Problem[/bold]\n{escape(row['prompt'])}\n\n[bold]{name.capitalize()}[/bold]\n{escape(shown)}"
        console.print(Panel(text, title=escape(title), title_align="left", expand=False))
