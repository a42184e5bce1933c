"""From a micro-batch to its part of the loss, and log-probabilities of given completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sgpo.training.batching import MicroBatch, collate, split_by_token_budget
from sgpo.training.objectives import (
    TERMS,
    Thresholds,
    TokenScores,
    divergence_mask,
    entropy,
    token_divergence,
    token_logprobs,
)
from sgpo.training.rollouts import TrainingSequence


def completion_logits(model: nn.Module, inputs: dict[str, Tensor], length: int) -> Tensor:
    """Logits that predict the last `length` tokens. -> [N, length, V]"""
    return model(**inputs, use_cache=False, logits_to_keep=length + 1).logits[:, :-1]


@dataclass
class LossSums:
    """Sums over the tokens of one update, for its metrics."""

    sums: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, values: Tensor, mask: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(values.detach().float()[mask].sum())
        self.sums[f"{name}/count"] = self.sums.get(f"{name}/count", 0.0) + float(mask.sum())

    def metrics(self) -> dict[str, float]:
        """The mean of each over its tokens; what had no token is left out."""
        names = [name for name in self.sums if not name.endswith("/count")]
        return {name: self.sums[name] / self.sums[f"{name}/count"] for name in names if self.sums[f"{name}/count"]}


def microbatch_loss(model: nn.Module, batch: MicroBatch, thresholds: Thresholds, sums: LossSums) -> Tensor:
    """The weighted sum over the tokens of one micro-batch, of one term. -> scalar with gradient"""
    length, mask = batch.completion_ids.shape[1], batch.completion_mask
    logits = completion_logits(model, batch.model_inputs, length)
    if batch.teacher_inputs is not None:
        with torch.no_grad():
            teacher_logits = completion_logits(model, batch.teacher_inputs, length)
        divergence = token_divergence(teacher_logits, logits)
        scores = TokenScores(divergence=divergence)
        sums.add("divergence", divergence, mask)
        sums.add("divergence_masked_share", ~divergence_mask(divergence, thresholds.delta), mask)
    else:
        logprobs = token_logprobs(logits, batch.completion_ids)
        old_logprobs = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        scores = TokenScores(logprobs=logprobs, old_logprobs=old_logprobs)
        sums.add("entropy", entropy(logits.detach()), mask)
        sums.add("clipped_share", clipped(logprobs, old_logprobs, batch.weights, thresholds), mask)
    losses = TERMS[batch.term](scores, batch.weights, thresholds)
    return torch.where(mask, losses, 0.0).sum()


def clipped(logprobs: Tensor, old_logprobs: Tensor, weights: Tensor, thresholds: Thresholds) -> Tensor:
    """Whether the clip of Eq. 1 stops a token's gradient. -> boolean, the shape of logprobs"""
    ratio = torch.exp(logprobs.detach() - old_logprobs)
    too_high = (ratio > 1 + thresholds.eps_high) & (weights > 0)
    return too_high | ((ratio < 1 - thresholds.eps_low) & (weights < 0))


@torch.no_grad()
def completion_logprobs(
    model: Any, sequences: Sequence[tuple[list[int], list[int]]], *, max_tokens: int, pad_token_id: int
) -> list[list[float]]:
    """Log-probability of each completion token given its prompt: (prompt ids, completion ids) -> a list for each."""
    rows = [TrainingSequence("score", prompt, ids, weights=[1.0] * len(ids)) for prompt, ids in sequences]
    places = {id(row): place for place, row in enumerate(rows)}
    found: list[list[float]] = [[] for _ in rows]
    was_training = model.training
    model.eval()
    for part in split_by_token_budget(rows, max_tokens):
        batch = collate(part, pad_token_id, model.device)
        logits = completion_logits(model, batch.model_inputs, batch.completion_ids.shape[1])
        logprobs = token_logprobs(logits, batch.completion_ids).tolist()
        for row, values in zip(part, logprobs, strict=True):
            found[places[id(row)]] = values[: len(row.completion_ids)]
    model.train(was_training)
    return found
