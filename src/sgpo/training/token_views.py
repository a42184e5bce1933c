"""Some targets of a rollout batch, token by token, for the page of the run (`sgpo.reports.run_views`).

What the strategy does to the distributions along a target is measured when the targets are known, with the policy that
sampled them. For those of the rollout batch's first update these are the numbers of the loss.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sgpo import distributed, sharding
from sgpo.files import replacing
from sgpo.inspection.answers import answer_of_row
from sgpo.inspection.measure import measure_tokens
from sgpo.inspection.page import InspectedAnswer, answer_data
from sgpo.inspection.texts import TokenNames, token_texts
from sgpo.prompts import GUIDED
from sgpo.runs.folder import views_path
from sgpo.training.completions_table import CompletionRow
from sgpo.training.step import Update

TARGETS = 4  # of a rollout batch
LONGEST = 1_000  # tokens that are measured of one
SLICE_BYTES = 32 * 1024**2  # of a buffer of logits, of which measuring needs several


class Target(NamedTuple):
    """What is distilled: the target, without and with the strategy before it."""

    alpha: float
    bare: list[int]
    guided: list[int]
    row: CompletionRow  # of the target, in the table of completions


def keep_views(
    updates: Sequence[Update],
    rows: Sequence[Sequence[CompletionRow]],
    model: Any,
    tokenizer: Any,
    output_dir: str | Path,
    step: int,
    delta: float,
) -> None:
    """Measure and save the targets of largest alpha of all processes. All of them have to call it.

    Args:
        rows: of each update, its part of the table of completions.
        model: with ``add_head_task``; the policy that sampled.
        step: the updates that it has had.
        delta: see Eq. 5.
    """
    own = [target for pair in zip(updates, rows, strict=True) for target in targets_of(*pair)]
    chosen = _largest([target for part in distributed.gather(_largest(own)) for target in part])
    first = distributed.rank() == 0
    if not first and not sharding.is_sharded(model):
        return  # of a sharded model every process makes every forward pass
    answers = [_measured(target, model, delta) for target in chosen]
    if first and chosen:
        views = [_view_of(answer, target, tokenizer) for answer, target in zip(answers, chosen, strict=True)]
        with replacing(views_path(output_dir, step)) as partial:
            partial.write_text(json.dumps([view for view in views if view is not None], separators=(",", ":")))


def targets_of(update: Update, rows: Sequence[CompletionRow]) -> list[Target]:
    """The targets of an update whose teacher has the strategy, the largest alpha first; at most `TARGETS`.

    Args:
        rows: of `completion_rows`.
    """
    found: list[Target] = []
    rest = iter(rows)
    of_groups = [[*islice(rest, len(group.rollouts))] for group in update.groups]
    decided = list(zip(update.groups, update.decisions, of_groups, strict=True))
    for group, decision, of_group in sorted(decided, key=lambda each: -(each[1].alpha or 0.0)):
        guided = group.prompts.get(GUIDED)  # other teachers than the strategy's have prompts of their own
        taught = [row for row in decision.rows if guided and row.teacher_prompt_ids == guided and row.contributes]
        if not taught or len(found) >= TARGETS:
            continue
        for row in of_group:
            learnt = next((each for each in taught if list(each.completion_ids) == row["completion_ids"]), None)
            if guided and row["target"] and learnt is not None:
                found.append(Target(decision.alpha or 0.0, learnt.prompt_ids, guided, row))
    return found[:TARGETS]


def _largest(targets: Sequence[Target]) -> list[Target]:
    return sorted(targets, key=lambda target: -target.alpha)[:TARGETS]


def _measured(target: Target, model: Any, delta: float) -> InspectedAnswer:
    answer = answer_of_row(target.row)
    ids, facts = answer.ids[:LONGEST], list(answer.facts)
    if len(answer.ids) > LONGEST:
        facts.append(f"shown are the first {LONGEST:,} of {len(answer.ids):,} tokens")
    measures = measure_tokens(model, target.bare, target.guided, ids, slice_bytes=SLICE_BYTES)
    problem = answer.problem
    return InspectedAnswer(answer.label, problem.prompt, problem.strategy or "", facts, ids, measures, None, delta)


def _view_of(answer: InspectedAnswer, target: Target, tokenizer: Any) -> dict[str, Any] | None:
    """What the page draws, and by what it chooses; None where a number is not finite, as JSON has no such numbers."""
    measures = answer.measures
    numbers = (measures.divergence, measures.bare.logprobs, measures.bare.entropy, measures.guided.entropy)
    if not all(bool(values.isfinite().all()) for values in numbers):
        return None
    special = frozenset(tokenizer.all_special_ids)
    data = answer_data(answer, token_texts(tokenizer, answer.ids), TokenNames(tokenizer), special)
    mean = float(measures.divergence.mean())
    return {"step": target.row["step"], "id": target.row["problem"], "mean_divergence": mean, "answer": data}
