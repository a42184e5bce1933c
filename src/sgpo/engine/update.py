"""From a micro-batch to its part of the loss, and log-probabilities of given completions.

Nothing here ever holds logits of all tokens: the model's forward pass hands its hidden states to the sliced projection
(`sgpo.engine.projection`). That happens inside the forward pass, so that whatever wraps the model (mixed precision,
PEFT, a parallel wrapper) does its part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sgpo import distributed, sharding
from sgpo.engine.batching import BatchLayout, MicroBatch, ModelInputs
from sgpo.engine.prefix_attention import prefix_attention, take
from sgpo.engine.projection import (
    Head,
    Projected,
    divergence_loss,
    jensen_shannon_loss,
    logprob_loss,
    token_divergences,
    token_scores,
)
from sgpo.means import Means
from sgpo.methods.records import TokenScores, TrainingSequence
from sgpo.methods.terms import TERMS, Thresholds, Tokens
from sgpo.models.modes import evaluation_mode, without_dropout

HeadTask = Callable[[Tensor, Head], Any]
DIVERGENCES: dict[str, Callable[..., Projected]] = {  # by the score of a term
    "divergence": divergence_loss,
    "reverse_divergence": functools.partial(divergence_loss, reverse=True),
    "jensen_shannon": jensen_shannon_loss,
}


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


class FixedSide(NamedTuple):
    """What the teacher of a batch says, before the projection."""

    hidden: Tensor  # [T, H] without a gradient
    head: Head | None  # of a teacher that is another model; None: it is the policy's


def microbatch_loss(
    model: nn.Module,
    batches: Sequence[MicroBatch],
    thresholds: Thresholds,
    means: Means,
    teacher: nn.Module | None = None,
) -> Tensor:
    """The weighted sum over the tokens of one forward pass, in which each term has a batch. -> scalar with gradient

    Both models need ``add_head_task``. ``means`` get what is measured of the tokens. ``teacher`` is the model on the
    fixed side of divergences, by default the policy itself.
    """
    sides = [batch.teacher for batch in batches if batch.teacher is not None]

    def keep(states: list[Tensor], head: Head) -> list[FixedSide]:
        return [FixedSide(each, None if teacher is None else head) for each in states]

    with torch.no_grad():
        fixed = iter(with_hidden(teacher or model, sides, keep) if sides else ())
    teachers = [None if batch.teacher is None else next(fixed) for batch in batches]

    def project(states: list[Tensor], head: Head) -> list[Tensor]:
        parts = zip(batches, states, teachers, strict=True)
        return [_loss_of(batch, own, side, head, thresholds, means) for batch, own, side in parts]

    losses = with_hidden(model, [batch.policy for batch in batches], project)
    return torch.stack(losses).sum() if len(losses) > 1 else losses[0]


def _loss_of(
    batch: MicroBatch, hidden: Tensor, teacher: FixedSide | None, head: Head, thresholds: Thresholds, means: Means
) -> Tensor:
    """Of a batch of one term, from its hidden states [T, H] and the fixed side. -> scalar"""
    term = TERMS[batch.term]
    measured: dict[str, list[Tensor]] = {}
    divergence = None
    if term.masked and teacher is not None:
        divergence = token_divergences(hidden, teacher.hidden, head, teacher_head=teacher.head)

    def loss(score: Tensor, rows: slice) -> Tensor:
        """Of a slice of the tokens; called once for each."""
        losses, measures = term.loss(_tokens(batch, score, rows, divergence), thresholds)
        for name, values in measures.items():
            measured.setdefault(name, []).append(values)
        return losses

    if teacher is None or term.masked:
        found = logprob_loss(hidden, head, batch.completion_ids, loss, entropy_bonus=batch.entropy_bonus)
    else:
        found = DIVERGENCES[term.score](hidden, teacher.hidden, head, loss, teacher_head=teacher.head)
    for name, parts in measured.items():  # not within the slices: a number of a device is waited for
        means.add(name, torch.cat(parts))
    if term.has_ratio or term.of_sampled:
        means.add("entropy", found.entropy)
    return found.loss


def _tokens(batch: MicroBatch, score: Tensor, rows: slice, divergence: Tensor | None) -> Tokens:
    old = None if batch.old_logprobs is None else batch.old_logprobs[rows]
    return Tokens(score, batch.weights[rows], old, None if divergence is None else divergence[rows])


def with_hidden(model: nn.Module, inputs: Sequence[ModelInputs], task: Callable[[list[Tensor], Head], Any]) -> Any:
    """``task(hidden states that predict the completion tokens of each [T, H], head)``, inside one forward pass.

    All inputs have the same arguments, and predictors of their own.
    """

    def of_predictors(hidden: Tensor, head: Head) -> Any:
        return task([take(hidden.flatten(0, 1), each.predictors) for each in inputs], head)

    return model(**inputs[0].arguments, head_task=of_predictors)


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
    teacher: nn.Module | None = None,
    backward: Callable[[Tensor], None] = Tensor.backward,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Accumulated:
    """Forward and backward passes over all micro-batches of an update; gradients are added to the parameters'.

    The passes are without dropout, whatever the mode of the model, which stays what it was. Of several processes each
    has its own sequences, as many or as few as it may be; the gradient is that of their sum.

    Args:
        model: with ``add_head_task``, bare or wrapped, on one device.
        sequences: the rows of a method's decisions; all normalisation is in their weights.
        teacher: see `microbatch_loss`; frozen, and without dropout.
        backward: in place of ``loss.backward()``, such as accelerate's.
        context: entered around each forward pass, such as autocast.

    Raises:
        ValueError: several processes and a model that is not wrapped for them.
    """
    # The wrapper takes the mean over the processes, where the sum is wanted: the weights are those of all problems.
    scale = distributed.count() if sharding.averages_gradients(model) else 1
    device, means, loss, tokens = next(model.parameters()).device, Means(), 0.0, 0
    layout = layout.for_rows(sequences)
    parts = in_step(layout.split(sequences), layout)
    models = [model] if teacher is None else [model, teacher]
    with without_dropout(model), ExitStack() as attention:
        for each in models:
            attention.enter_context(prefix_attention(each, layout.share_prefixes))
        for number, rows in enumerate(parts):
            batches = layout.collate(rows, device)
            with sharding.gradient_sync(model, last=number == len(parts) - 1):
                with context():
                    measured = means if rows[0].contributes else Means()
                    part = microbatch_loss(model, batches, thresholds, measured, teacher)
                backward(part * scale)
            loss += part.item()
            tokens += sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
    found = distributed.gather((loss, tokens, means))
    joined = Means.joined([part for _, _, part in found]).values()
    if "clipped_share/high" in joined:
        joined["clipped_share"] = joined["clipped_share/high"] + joined["clipped_share/low"]
    return Accumulated(sum(part for part, _, _ in found), joined, sum(part for _, part, _ in found))


def in_step(parts: list[list[TrainingSequence]], layout: BatchLayout) -> list[list[TrainingSequence]]:
    """As many micro-batches with a teacher, and without, as the process that has most, in one order.

    Each forward pass of a sharded model, and the last backward pass of a replicated one, waits for those of the other
    processes. So what a process lacks is filled up by rows of two tokens and zero weight, which add exactly nothing.
    """
    if distributed.count() == 1:
        return parts
    have: dict[str, list[list[TrainingSequence]]] = {"surrogate": [], "distillation": []}
    for rows in parts:
        taught = any(row.teacher_prompt_ids is not None for row in rows)
        have["distillation" if taught else "surrogate"].append(rows)
    wanted = distributed.most({term: len(some) for term, some in have.items()})
    pad = [layout.pad_token_id]
    filled = []
    for term, some in have.items():
        teacher = pad if TERMS[term].has_teacher else None
        nothing = TrainingSequence(term, pad, pad, weights=0.0, teacher_prompt_ids=teacher)
        filled += some + [[nothing]] * (wanted[term] - len(some))
    return filled


@torch.no_grad()
def completion_scores(
    model: Any, sequences: Sequence[tuple[list[int], list[int]]], layout: BatchLayout
) -> list[TokenScores]:
    """Log-probability and entropy of each completion token given its prompt: (prompt ids, completion ids) of each."""
    rows = [TrainingSequence("surrogate", prompt, ids, weights=1.0) for prompt, ids in sequences]
    found: dict[int, TokenScores] = {}
    layout = layout.for_rows(rows)
    parts = layout.split(rows)
    with evaluation_mode(model), prefix_attention(model, layout.share_prefixes):
        for part in in_step(parts, layout) if sharding.is_sharded(model) else parts:
            (batch,) = layout.collate(part, model.device)  # all rows are of one term
            scores = with_hidden(model, [batch.policy], functools.partial(_scores_of, batch.completion_ids))
            lengths = [len(row.completion_ids) for row in part]
            pairs = zip(scores.score.split(lengths), scores.entropy.split(lengths), strict=True)
            found |= {id(row): TokenScores(*pair) for row, pair in zip(part, pairs, strict=True)}
    return [found[id(row)] for row in rows]


def _scores_of(ids: Tensor, hidden: list[Tensor], head: Head) -> Projected:
    (states,) = hidden
    return token_scores(states, head, ids)
