"""A loss or gradient that is not a number: training stops before it reaches the weights, and says what made it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sgpo import distributed, sharding
from sgpo.engine.batching import BatchLayout
from sgpo.engine.update import microbatch_loss
from sgpo.errors import UnfinishedError
from sgpo.means import Means
from sgpo.methods.records import TrainingSequence
from sgpo.methods.terms import Thresholds
from sgpo.models.modes import without_dropout

FOLDER = "not-finite"


class NotFiniteError(UnfinishedError, FloatingPointError):
    """The loss or the gradient of an update is infinite or NaN; the weights are those before the update."""


def offenders(
    model: nn.Module,
    sequences: Sequence[TrainingSequence],
    layout: BatchLayout,
    thresholds: Thresholds,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    teacher: nn.Module | None = None,
) -> list[TrainingSequence]:
    """The sequences whose own loss or gradient is not finite; all of them if each alone is.

    The gradients of the model are overwritten. A sharded model is not searched: that would need all processes.
    """
    weighted = [row for row in sequences if row.contributes]
    if sharding.is_sharded(model):
        return weighted
    bare: Any = getattr(model, "module", model)
    plain = replace(layout, share_prefixes=False)
    found = []
    for row in weighted:
        bare.zero_grad()
        with without_dropout(bare):
            with context():
                batches = plain.collate([row], bare.device)
                loss = microbatch_loss(bare, batches, thresholds, Means(), teacher)
            loss.backward()
        gradients = [p.grad for p in bare.parameters() if p.grad is not None]
        if not is_finite(loss) or not all(bool(g.isfinite().all()) for g in gradients):
            found.append(row)
    return found or weighted


def stop_run(
    what: str,
    step: int,
    output_dir: str | Path,
    rows: Sequence[TrainingSequence],
    tokenizer: Any,
) -> None:
    """Save the sequences of this process and end the run. All processes have to call it.

    Raises:
        NotFiniteError: always.
    """
    path = (
        Path(output_dir)
        / FOLDER
        / f"update-{step}{f'-process-{distributed.rank()}' if distributed.count() > 1 else ''}"
    )
    path = path.with_suffix(".jsonl")
    if rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            for row in rows:
                texts = {
                    "prompt": tokenizer.decode(row.prompt_ids),
                    "completion": tokenizer.decode(row.completion_ids),
                }
                file.write(json.dumps({**texts, **asdict(row)}, default=torch.Tensor.tolist) + "\n")
    saved = [(number, name) for number, name in distributed.gather((len(rows), str(path))) if number]
    where = ", ".join(f"{number} in {name}" for number, name in saved)
    raise NotFiniteError(
        f"{what} of update {step} is not finite, so it was not made. The sequences behind it: {where}. Look for "
        "weights that are not finite, or a learning_rate too high; then go on from the last checkpoint with --resume, "
        "or begin anew"
    )


def is_finite(value: float | torch.Tensor) -> bool:
    return math.isfinite(value.item() if isinstance(value, torch.Tensor) else value)
