"""From a micro-batch to its part of the loss, and log-probabilities of given completions.

Nothing here ever holds logits of all tokens: the model's forward pass hands its hidden states to the sliced projection
(`sgpo.engine.projection`). That happens inside the forward pass, so that whatever wraps the model (mixed precision,
PEFT, a parallel wrapper) does its part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sgpo import distributed
from sgpo.engine.batching import BatchLayout, MicroBatch, ModelInputs, collate, split_by_token_budget
from sgpo.engine.projection import Head, Projected, divergence_loss, logprob_loss, token_divergences, token_scores
from sgpo.means import Means
from sgpo.methods.records import TrainingSequence
from sgpo.methods.terms import TERMS, Thresholds, divergence_mask
from sgpo.models.modes import evaluation_mode, without_dropout

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


def microbatch_loss(model: nn.Module, batch: MicroBatch, thresholds: Thresholds, means: Means) -> Tensor:
    """The weighted sum over the tokens of one micro-batch, of one term. -> scalar with gradient

    The model needs ``add_head_task``. ``means`` get what is measured of the tokens.
    """
    term = TERMS[batch.term]

    def loss(score: Tensor, rows: slice) -> Tensor:
        old_logprobs = None if batch.old_logprobs is None else batch.old_logprobs[rows]
        return term.loss(score, old_logprobs, batch.weights[rows], thresholds)

    if batch.teacher is None:
        found = with_hidden(
            model,
            batch.policy,
            lambda h, head: logprob_loss(h, head, batch.completion_ids, loss, entropy_bonus=batch.entropy_bonus),
        )
        measure_logprobs(batch, found, thresholds, means)
        return found.loss
    with torch.no_grad():
        teacher = with_hidden(model, batch.teacher, lambda hidden, _: hidden)

    def with_teacher(hidden: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        """-> the loss, and the divergences, of whatever direction the term has"""
        if not term.masked:
            reverse = term.score == "reverse_divergence"
            found = divergence_loss(hidden, teacher, head, loss, reverse=reverse)
            return found.loss, found.score
        divergence = token_divergences(hidden, teacher, head)
        kept = divergence_mask(divergence, thresholds.delta)
        found = logprob_loss(
            hidden, head, batch.completion_ids, lambda score, rows: torch.where(kept[rows], loss(score, rows), 0.0)
        )
        return found.loss, divergence

    total, divergence = with_hidden(model, batch.policy, with_teacher)
    means.add("divergence", divergence)
    means.add("divergence_masked_share", ~divergence_mask(divergence, thresholds.delta))
    return total


def measure_logprobs(batch: MicroBatch, found: Projected, thresholds: Thresholds, means: Means) -> None:
    if not TERMS[batch.term].has_ratio:
        means.add("imitated_surprisal", -found.score)
        return
    means.add("entropy", found.entropy)
    if batch.term == "surrogate":
        clipped = found.slope == 0
        # The clip is one-sided: it stops a token of positive weight above, one of negative weight below.
        means.add("clipped_share/high", clipped & (batch.weights > 0))
        means.add("clipped_share/low", clipped & (batch.weights < 0))


def with_hidden(model: nn.Module, inputs: ModelInputs, task: HeadTask) -> Any:
    """``task(hidden states that predict the completion tokens [T, H], head)``, inside the model's forward pass."""
    return model(**inputs.arguments, head_task=lambda hidden, head: task(hidden.flatten(0, 1)[inputs.predictors], head))


class Accumulated(NamedTuple):
    """What an update found beside its gradients; sums and means over all processes."""

    loss: float
    means: dict[str, float]  # over tokens: entropy, clipped_share, divergence, ..., as far as there are such tokens
    tokens: int  # that went through the model with a gradient, prompts too, padding not


def accumulate_gradients(
    model: nn.Module,
    sequences: Sequence[TrainingSequence],
    layout: BatchLayout,
    thresholds: Thresholds,
    *,
    backward: Callable[[Tensor], None] = Tensor.backward,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Accumulated:
    """Forward and backward passes over all micro-batches of an update; gradients are added to the parameters'.

    The passes are without dropout, whatever the mode of the model, which stays what it was. Of several processes each
    has its own sequences, as many or as few as it may be; the gradient is that of their sum.

    Args:
        model: with ``add_head_task``, bare or wrapped, on one device.
        sequences: of ``Method.assemble``; all normalisation is in their weights.
        backward: in place of ``loss.backward()``, such as accelerate's.
        context: entered around each forward pass, such as autocast.

    Raises:
        ValueError: several processes and a model that is not wrapped for them.
    """
    # The wrapper takes the mean over the processes, where the sum is wanted: the weights are those of all problems.
    scale = distributed.count() if distributed.averages_gradients(model) else 1
    device, means, loss, tokens = next(model.parameters()).device, Means(), 0.0, 0
    parts = in_step(split_by_token_budget(sequences, layout.max_tokens, packed=layout.packed), layout)
    with without_dropout(model):
        for number, rows in enumerate(parts):
            batch = collate(rows, layout.pad_token_id, device, packed=layout.packed)
            with distributed.gradient_sync(model, last=number == len(parts) - 1):
                with context():
                    part = microbatch_loss(model, batch, thresholds, means if rows[0].contributes else Means())
                backward(part * scale)
            loss += part.item()
            tokens += sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
    found = distributed.gather((loss, tokens, means))
    joined = Means.joined([part for _, _, part in found]).values()
    if "clipped_share/high" in joined:
        joined["clipped_share"] = joined["clipped_share/high"] + joined["clipped_share/low"]
    return Accumulated(sum(part for part, _, _ in found), joined, sum(part for _, part, _ in found))


def in_step(parts: list[list[TrainingSequence]], layout: BatchLayout) -> list[list[TrainingSequence]]:
    """As many micro-batches of each term as the process that has most, in one order.

    Each forward pass of a sharded model, and the last backward pass of a replicated one, waits for those of the other
    processes. So what a process lacks is filled up by rows of two tokens and zero weight, which add exactly nothing.
    """
    if distributed.count() == 1:
        return parts
    have = {term: [rows for rows in parts if rows[0].term == term] for term in TERMS}
    wanted = distributed.most({term: len(some) for term, some in have.items()})
    pad = [layout.pad_token_id]
    filled = []
    for term, some in have.items():
        teacher = pad if TERMS[term].has_teacher else None
        nothing = TrainingSequence(term, pad, pad, weights=[0.0], teacher_prompt_ids=teacher)
        filled += some + [[nothing]] * (wanted[term] - len(some))
    return filled


@torch.no_grad()
def completion_logprobs(
    model: Any, sequences: Sequence[tuple[list[int], list[int]]], layout: BatchLayout
) -> list[list[float]]:
    """Log-probability of each completion token given its prompt: (prompt ids, completion ids) -> a list for each."""
    rows = [TrainingSequence("surrogate", prompt, ids, weights=[1.0] * len(ids)) for prompt, ids in sequences]
    found: dict[int, list[float]] = {}
    parts = split_by_token_budget(rows, layout.max_tokens, packed=layout.packed)
    with evaluation_mode(model):
        for part in in_step(parts, layout) if distributed.is_sharded(model) else parts:
            batch = collate(part, layout.pad_token_id, model.device, packed=layout.packed)
            scores = with_hidden(model, batch.policy, functools.partial(token_scores, ids=batch.completion_ids))
            of_rows = scores.score.split([len(row.completion_ids) for row in part])
            found |= {id(row): values.tolist() for row, values in zip(part, of_rows, strict=True)}
    return [found[id(row)] for row in rows]
