"""What a strategy does to a model's next-token distributions along an answer, over the full vocabulary.

    answer -> hidden states without and with the strategy -> logits of a slice of tokens, both sides -> numbers

The divergence is d_t of Eq. 3, KL( with the strategy || without ). Logits of a slice are forgotten before the next ones
are made, so an answer of 16K tokens and a vocabulary of 150K need no more memory than a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from sgpo.engine.projection import SLICE_BYTES, Head, sliced_logits
from sgpo.methods.terms import entropy, token_divergence, token_logprobs
from sgpo.models.modes import evaluation_mode

TOP = 5  # tokens of a distribution that are kept


@dataclass(frozen=True)
class Side:
    """The distributions along an answer from one prompt. All on the CPU."""

    logprobs: Tensor  # [T] of the answer's tokens, nats
    entropy: Tensor  # [T] nats
    top_ids: Tensor  # [T, TOP] the most probable tokens, the first one first
    top_probs: Tensor  # [T, TOP]


@dataclass(frozen=True)
class TokenMeasures:
    """An answer of T tokens under one model. The SFT loss of a token is ``-bare.logprobs``."""

    divergence: Tensor  # [T] d_t, nats
    bare: Side  # from the prompt without the strategy
    guided: Side


@torch.no_grad()
def measure_tokens(
    model: Any, bare: Sequence[int], guided: Sequence[int], ids: Sequence[int], *, slice_bytes: int = SLICE_BYTES
) -> TokenMeasures:
    """Measure each token of an answer, given those before it, at temperature 1.

    Args:
        model: a causal language model of transformers with ``add_head_task``. Of a sharded one all processes have to
            call this.
        bare, guided: the prompts without and with the strategy.
        ids: the answer, T tokens.
        slice_bytes: size of one buffer of logits.

    Raises:
        ValueError: an empty answer.
    """

    def measure(hidden: Tensor, head: Head) -> TokenMeasures:
        targets, parts = torch.tensor(list(ids), device=hidden.device), []
        sides = (sliced_logits(each, head, slice_bytes) for each in (hidden, guided_hidden))
        for (rows, logits), (_, guided_logits) in zip(*sides, strict=True):
            divergence = token_divergence(guided_logits, logits)
            parts.append((divergence.cpu(), _side(logits, targets[rows]), _side(guided_logits, targets[rows])))
        divergences, bare_sides, guided_sides = zip(*parts, strict=True)
        return TokenMeasures(torch.cat(divergences), _joined(bare_sides), _joined(guided_sides))

    guided_hidden = _with_hidden(model, guided, ids, lambda hidden, _: hidden)
    return _with_hidden(model, bare, ids, measure)


@torch.no_grad()
def answer_logprobs(model: Any, prompt: Sequence[int], ids: Sequence[int], *, slice_bytes: int = SLICE_BYTES) -> Tensor:
    """Log-probability of each token of an answer, nats. [T] on the CPU; model and errors as of `measure_tokens`."""

    def logprobs(hidden: Tensor, head: Head) -> Tensor:
        targets = torch.tensor(list(ids), device=hidden.device)
        slices = sliced_logits(hidden, head, slice_bytes)
        return torch.cat([token_logprobs(logits, targets[rows]).cpu() for rows, logits in slices])

    return _with_hidden(model, prompt, ids, logprobs)


def _with_hidden(model: Any, prompt: Sequence[int], ids: Sequence[int], task: Callable[[Tensor, Head], Any]) -> Any:
    """``task(hidden states that predict the answer's tokens [T, H], head)``, inside the forward pass.

    There a sharded model has its weights in one piece.
    """
    if not ids:
        raise ValueError("the answer has no token; give one that is not empty")
    inputs = torch.tensor([[*prompt, *ids]], device=model.device)
    with evaluation_mode(model):
        return model(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            head_task=lambda hidden, head: task(hidden[0, len(prompt) - 1 : -1], head),
        )


def _side(logits: Tensor, ids: Tensor) -> Side:
    top = logits.softmax(-1).topk(min(TOP, logits.shape[-1]), -1)
    found = token_logprobs(logits, ids), entropy(logits), top.indices, top.values
    return Side(*(each.cpu() for each in found))


def _joined(sides: Sequence[Side]) -> Side:
    return Side(*(torch.cat([getattr(side, each.name) for side in sides]) for each in fields(Side)))
