"""From a micro-batch to its part of the loss, and log-probabilities of given completions.

Nothing here ever holds logits of all tokens: the model's forward pass hands its hidden states to the sliced projection
(`sgpo.training.projection`). That happens inside the forward pass, so that whatever wraps the model (mixed precision,
PEFT, a parallel wrapper) does its part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from sgpo.training.batching import BatchLayout, MicroBatch, ModelInputs, micro_batches
from sgpo.training.objectives import TERMS, Thresholds, divergence_mask
from sgpo.training.projection import Head, divergence_loss, logprob_loss, token_scores
from sgpo.training.rollouts import TrainingSequence

HeadTask = Callable[[Tensor, Head], Any]


def add_head_task(model: Any) -> None:
    """Let ``model(..., head_task=task)`` return ``task(hidden states [N, L, H], head)``; otherwise nothing changes.

    Raises ValueError for a head that is not an ordinary linear layer.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # of PEFT
    Head.of(model)
    if "head_task" in getattr(model.forward, "__dict__", {}):
        return
    original = model.forward.__func__  # not bound, so that a copy of the model calls itself

    @functools.wraps(type(model).forward)  # generate() reads the signature
    def forward(self: Any, *args: Any, head_task: HeadTask | None = None, **kwargs: Any) -> Any:
        if head_task is None:
            return original(self, *args, **kwargs)
        # Backbone and head are looked up at each call: PEFT and parallel wrappers replace them later.
        return head_task(self.base_model(*args, use_cache=False, **kwargs).last_hidden_state, Head.of(self))

    forward.head_task = True  # type: ignore[attr-defined]
    model.forward = MethodType(forward, model)


@dataclass
class LossSums:
    """Sums over the tokens of one update, for its metrics."""

    sums: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, values: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(values.sum())
        self.sums[f"{name}/count"] = self.sums.get(f"{name}/count", 0.0) + values.numel()

    def metrics(self) -> dict[str, float]:
        """The mean of each over its tokens; what had no token is left out."""
        names = [name for name in self.sums if not name.endswith("/count")]
        return {name: self.sums[name] / self.sums[f"{name}/count"] for name in names if self.sums[f"{name}/count"]}


def microbatch_loss(model: nn.Module, batch: MicroBatch, thresholds: Thresholds, sums: LossSums) -> Tensor:
    """The weighted sum over the tokens of one micro-batch, of one term. -> scalar with gradient

    The model needs ``add_head_task``.
    """
    term = TERMS[batch.term]

    def loss(score: Tensor, rows: slice) -> Tensor:
        old_logprobs = None if batch.old_logprobs is None else batch.old_logprobs[rows]
        return term.loss(score, old_logprobs, batch.weights[rows], thresholds)

    if batch.teacher is None:
        found = with_hidden(model, batch.policy, lambda h, head: logprob_loss(h, head, batch.completion_ids, loss))
        sums.add("entropy", found.entropy)
        sums.add("clipped_share", ((found.slope == 0) & (batch.weights != 0)).float())
        return found.loss
    with torch.no_grad():
        teacher = with_hidden(model, batch.teacher, lambda hidden, _: hidden)
    found = with_hidden(model, batch.policy, lambda h, head: divergence_loss(h, teacher, head, loss))
    sums.add("divergence", found.score)
    sums.add("divergence_masked_share", (~divergence_mask(found.score, thresholds.delta)).float())
    return found.loss


def with_hidden(model: nn.Module, inputs: ModelInputs, task: HeadTask) -> Any:
    """``task(hidden states that predict the completion tokens [T, H], head)``, inside the model's forward pass."""
    return model(**inputs.arguments, head_task=lambda hidden, head: task(hidden.flatten(0, 1)[inputs.predictors], head))


def accumulate_gradients(
    model: nn.Module,
    sequences: Sequence[TrainingSequence],
    layout: BatchLayout,
    thresholds: Thresholds,
    *,
    backward: Callable[[Tensor], None] = Tensor.backward,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[float, dict[str, float]]:
    """Forward and backward passes over all micro-batches of an update; gradients are added to the parameters'.

    Args:
        model: with ``add_head_task``, bare or wrapped, on one device.
        sequences: of ``Method.assemble``; all normalisation is in their weights.
        backward: in place of ``loss.backward()``, such as accelerate's.
        context: entered around each forward pass, such as autocast.

    Returns the loss of the update, and means over its tokens: entropy, clipped_share, divergence,
    divergence_masked_share, as far as there are such tokens.
    """
    device, sums, loss = next(model.parameters()).device, LossSums(), 0.0
    for _, batch in micro_batches(sequences, layout, device):
        with context():
            part = microbatch_loss(model, batch, thresholds, sums)
        backward(part)
        loss += part.item()
    return loss, sums.metrics()


@torch.no_grad()
def completion_logprobs(
    model: Any, sequences: Sequence[tuple[list[int], list[int]]], layout: BatchLayout
) -> list[list[float]]:
    """Log-probability of each completion token given its prompt: (prompt ids, completion ids) -> a list for each."""
    rows = [TrainingSequence("surrogate", prompt, ids, weights=[1.0] * len(ids)) for prompt, ids in sequences]
    found: dict[int, list[float]] = {}
    was_training = model.training
    model.eval()
    for part, batch in micro_batches(rows, layout, model.device):
        scores = with_hidden(model, batch.policy, functools.partial(token_scores, ids=batch.completion_ids))
        of_rows = scores.score.split([len(row.completion_ids) for row in part])
        found |= {id(row): values.tolist() for row, values in zip(part, of_rows, strict=True)}
    model.train(was_training)
    return [found[id(row)] for row in rows]
