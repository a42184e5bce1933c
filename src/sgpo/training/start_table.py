"""What a run is about to do, in one table at its start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers.trainer_utils import IntervalStrategy

from sgpo.methods.registry import find_method, options_from
from sgpo.models.precision import weight_rows
from sgpo.problems import Problem
from sgpo.prompts import AUTONOMOUS
from sgpo.runs.folder import REPORT
from sgpo.training.config import SGPOConfig


def print_start(
    args: SGPOConfig,
    problems: list[Problem],
    longest_prompt: int,
    max_steps: int,
    first_step: int,
    model: Any,
    evaluated: bool,
    console: Console | None = None,
) -> None:
    """The table of `start_rows`, and below them those of the model's weights."""
    table = Table(title=f"{args.method}: {args.output_dir}", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in [
        *start_rows(args, problems, longest_prompt, max_steps, first_step, evaluated),
        *weight_rows(model, args),
    ]:
        table.add_row(name, text)
    (console or Console()).print(table)


def start_rows(
    args: SGPOConfig, problems: list[Problem], longest_prompt: int, max_steps: int, first_step: int, evaluated: bool
) -> list[tuple[str, str]]:
    """Numbers are of all processes together unless they say otherwise; tokens of completions are upper bounds.

    Args:
        evaluated: whether there are evaluation problems.
    """
    method, count = find_method(args.method), args.problems_per_rollout
    options = options_from(method, args)
    counts = [method.sample_counts(problem, options) for problem in problems]
    kinds = sorted({tuple(each.items()) for each in counts}, key=len, reverse=True)
    most = count * max(sum(each.values()) for each in counts)
    row = longest_prompt + args.max_completion_length
    rows_a_pass = max(1, args.max_tokens_per_microbatch // row)
    # At most every completion and every expert's response is a row, those of a group in micro-batches of their own.
    of_process = math.ceil(args.problems_per_update / args.world_size)
    waiting = method.waiting(options)
    most_of = {name: max(each.get(name, 0) for each in counts) for name in method.all_prompts}
    if waiting:  # where nothing fails
        most_of[AUTONOMOUS] = max(sum(each.values()) for each in counts)
    groups = list(most_of.values())
    experts = max((len(method.solutions_of(problem)) for problem in problems), default=0)
    rows = [of_process * number for number in (*groups, experts)]
    passes = sum(math.ceil(number / rows_a_pass) for number in rows)
    rollouts = (max_steps - first_step) // args.updates_per_rollout
    each = " in each process" if args.world_size > 1 else ""
    return [
        ("problems", f"{len(problems):,}; {count} a rollout batch, {args.problems_per_update} an update"),
        ("samples a problem", " or ".join(_kind(dict(kind), waiting) for kind in kinds)),
        ("samples a rollout batch", f"{most:,}; up to {most * args.max_completion_length:,} tokens"),
        ("updates", _updates(args, max_steps, first_step, rollouts)),
        (
            "micro-batches an update",
            f"at most {passes}{each}: together they hold up to {sum(rows)} sequences of up to {row:,} tokens, "
            f"and each has room for {args.max_tokens_per_microbatch:,}",
        ),
        ("processes", f"{args.world_size}, on {args.device}"),
        ("checkpoints", _checkpoints(args)),
        ("evaluation", _evaluation(args, evaluated)),
        ("completions", f"every {args.completions_steps} updates" if args.completions_steps else "not kept"),
        ("metrics", ", ".join(["metrics.jsonl", *(name for name in args.report_to if name != "none")])),
        ("report", f"{REPORT}, kept current" if args.live_report else "not written"),
    ]


def _kind(counts: dict[str, int], waiting: Sequence[str]) -> str:
    said = " + ".join(f"{number} {name}" for name, number in counts.items())
    later = any(name in waiting for name in counts)
    return f"{said} after a failure, else {sum(counts.values())} {AUTONOMOUS}" if later else said


def _updates(args: SGPOConfig, max_steps: int, first_step: int, rollouts: int) -> str:
    after = f" after the first {first_step}" if first_step else ""
    return f"{max_steps - first_step:,}{after}, {args.updates_per_rollout} for each of {rollouts:,} rollout batches"


def _every(strategy: str, steps: Any) -> str:
    if strategy == "steps":
        return f"a share of {steps:g} of all updates" if steps < 1 else f"every {steps:g} updates"
    return {"no": "never", "epoch": "after each epoch", "best": "after each evaluation that is the best so far"}[
        strategy
    ]


def _evaluation(args: SGPOConfig, evaluated: bool) -> str:
    if not evaluated:
        return "never, without eval_problems"
    if args.eval_strategy == "no" and args.eval_at_end:
        return "after the last update"
    return _every(IntervalStrategy(args.eval_strategy).value, args.eval_steps)


def _checkpoints(args: SGPOConfig) -> str:
    limit = args.save_total_limit
    kept = "" if limit is None or args.save_strategy == "no" else f", the newest {limit} kept"
    return f"{_every(args.save_strategy.value, args.save_steps)}{kept}; after Ctrl-C"
