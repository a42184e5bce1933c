"""What was sampled, to be read: a table in the terminal, and all of it as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm.auto import tqdm

from sgpo import distributed
from sgpo.files import replacing
from sgpo.methods.records import Decision, ProblemRollouts
from sgpo.runs.folder import completions_path
from sgpo.sampling.records import decode
from sgpo.training.step import Update

SHOWN_PROBLEMS = 2
HEAD, TAIL = 60, 100  # characters of a completion in the table

CompletionRow = dict[str, Any]


def is_due(step: int, every: int, updates_per_rollout: int) -> bool:
    """Whether the rollout batch that begins at update `step` is the first since a multiple of `every`."""
    return every > 0 and step % every < updates_per_rollout


def keep(updates: Sequence[Update], tokenizer: Any, output_dir: str | Path, step: int) -> list[list[CompletionRow]]:
    """Save and show what all processes sampled for a rollout batch. All of them have to call it.

    Returns:
        The rows of this process, for each update.
    """
    own = [
        completion_rows(update.groups, update.decisions, tokenizer, step=step, update=number)
        for number, update in enumerate(updates)
    ]
    rows = [row for part in distributed.gather(own) for of_update in part for row in of_update]
    if distributed.rank() == 0:
        show(rows, step, save_completions(rows, output_dir, step))
    return own


def completion_rows(
    groups: Sequence[ProblemRollouts], decisions: Sequence[Decision], tokenizer: Any, *, step: int, update: int
) -> list[CompletionRow]:
    """One row a completion, in the order of the groups and of their `rollouts`.

    Args:
        step: the updates that the policy had when it sampled.
        update: which update of the rollout batch, from 0, learns from them.
    """
    rows = []
    for group, decision in zip(groups, decisions, strict=True):
        for name, rollouts in (*group.groups.items(), ("expert", group.experts)):
            for rollout, text in zip(rollouts, decode(rollouts, tokenizer), strict=True):
                rows.append(
                    {
                        "step": step,
                        "update": update,
                        "problem": group.problem.id,
                        "prompt": group.problem.prompt,
                        "answer": group.problem.answer,
                        "strategy": group.problem.strategy,
                        "group": name,
                        "completion": text,
                        "completion_ids": list(rollout.completion_ids),
                        "reward": rollout.reward,
                        "correct": rollout.correct,
                        "tokens": len(rollout.completion_ids),
                        "truncated": rollout.truncated,
                        "target": any(rollout is one for one in decision.targets),
                        "alpha": decision.alpha,
                        "reason": decision.reason,
                        **{f"rewards/{name}": value for name, value in rollout.rewards.items()},
                        **rollout.logged,
                    }
                )
    return rows


SCHEMA = pa.schema(
    [
        *((name, pa.int64()) for name in ("step", "update")),
        *((name, pa.string()) for name in ("problem", "prompt", "answer", "strategy", "group", "completion")),
        ("completion_ids", pa.list_(pa.int32())),
        ("reward", pa.float64()),
        ("tokens", pa.int64()),
        *((name, pa.bool_()) for name in ("correct", "truncated", "target")),
        ("alpha", pa.float64()),
        ("reason", pa.string()),
    ]
)


def save_completions(rows: Sequence[CompletionRow], output_dir: str | Path, step: int) -> Path:
    """completions/step-000050.parquet, whole or not at all."""
    path = completions_path(output_dir, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        pq.write_table(table_of(rows), partial)
    return path


def table_of(rows: Sequence[CompletionRow]) -> pa.Table:
    """The columns of every run, then those of the reward functions."""
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    for name in dict.fromkeys(name for row in rows for name in row):
        if name not in SCHEMA.names:
            table = table.append_column(name, _column([row.get(name) for row in rows]))
    return table


def _column(values: Sequence[Any]) -> pa.Array:
    """Of the values' type; as text where they have several."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])


def show(rows: Sequence[CompletionRow], step: int, path: Path, console: Console | None = None) -> None:
    """The completions of the first problems."""
    console = console or Console()
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    with tqdm.external_write_mode():  # above the bar of the run
        for problem in problems[:SHOWN_PROBLEMS]:
            of_problem = [row for row in rows if row["problem"] == problem]
            console.print(problem_table(of_problem, step))
        console.print(f"{len(rows)} completions of {len(problems)} problems: {path}", highlight=False, soft_wrap=True)


def problem_table(rows: Sequence[CompletionRow], step: int) -> Table:
    """Group by group, in the order of sampling; the target has a star."""
    first = rows[0]
    title = [f"After {step} updates, problem {first['problem']}", _line(first["prompt"], 120, 120)]
    title.append(f"answer {_line(first['answer'], 60, 0)}")
    if first["strategy"]:
        title.append(f"strategy {_line(first['strategy'], 120, 0)}")
    title.append(_line(first["reason"], 160, 0))
    table = Table(title=escape("\n".join(title)), title_justify="left", title_style="", expand=False)
    table.add_column("group")
    table.add_column("reward", justify="right")
    table.add_column("correct")
    table.add_column("tokens", justify="right")
    table.add_column("completion", overflow="fold")
    shown = None
    for row in rows:
        if row["group"] != shown:
            table.add_section()
        shown = row["group"]
        mark = f" ★ α {row['alpha']:.2f}" if row["target"] else ""
        cut = " cut" if row["truncated"] else ""
        style, correct = ("green", "yes") if row["correct"] else (None, "no")
        cells = (f"{row['group']}{mark}", f"{row['reward']:g}", correct, f"{row['tokens']}{cut}")
        table.add_row(*cells, escape(_line(row["completion"], HEAD, TAIL)), style=style)
    return table


def _line(text: str, head: int, tail: int) -> str:
    """On one line, without the middle of what is long."""
    text = " ".join(text.split())
    if len(text) <= head + tail + 3:
        return text
    return f"{text[:head]} … {text[len(text) - tail :]}" if tail else f"{text[:head]} …"
