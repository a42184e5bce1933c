"""What the projection makes of the logits of a slice of tokens: their score, and in place the gradient of the loss.

A `SliceScore` turns the logits of a slice into its scores, and in place into the gradient of the scores by the logits:
two buffers of logits are all that is ever held. The work on them goes block by block of columns, in the cache. The
formulas stand in `sgpo.engine.projection`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

BLOCK_BYTES, BLOCK_BYTES_CPU = 32 * 1024**2, 4 * 1024**2  # of a buffer's columns that are worked on at once

# The scores [n] of a slice of tokens, and which slice -> the loss of each token [n]; differentiable.
SliceLoss = Callable[[Tensor, slice], Tensor]


@dataclass(frozen=True)
class Slice:
    loss: Tensor  # [n]
    score: Tensor  # [n]
    entropy: Tensor  # [n]
    slope: Tensor  # [n]
    # The gradient of the loss by the logits is factor [n] times gradient() [n, V], which is made in their buffers if
    # anything asks for it. A token of factor 0 has none.
    factor: Tensor
    gradient: Callable[[], Tensor]


class SliceScore(Protocol):
    def __call__(self, logits: Tensor, rows: slice, project: Callable[[Tensor], Tensor]) -> Slice: ...


@dataclass(frozen=True)
class LogprobScore:
    ids: Tensor
    loss: SliceLoss
    entropy_bonus: Tensor | None = None

    def __call__(self, logits: Tensor, rows: slice, project: Callable[[Tensor], Tensor]) -> Slice:
        ids = self.ids[rows].unsqueeze(-1)
        log_z, entropy = _log_normalizer(logits), torch.zeros_like(logits[:, 0])
        score = (logits.gather(-1, ids) - log_z).squeeze(-1)
        for block in _blocks(logits):
            logprobs = block - log_z
            torch.exp(logprobs, out=block)
            entropy -= _finite(logprobs).mul_(block).sum(-1)
        loss, slope = _loss_and_slope(self.loss, score, rows)
        if self.entropy_bonus is not None:
            bonus = self.entropy_bonus[rows]
            gradient = functools.partial(_with_entropy_bonus, logits, ids, slope, entropy, bonus)
            factor = ((slope != 0) | (bonus != 0)).to(slope.dtype)
            return Slice(loss - bonus * entropy, score, entropy, slope, factor, gradient)
        ones = torch.ones_like(log_z)
        return Slice(loss, score, entropy, slope, slope, lambda: logits.neg_().scatter_add_(-1, ids, ones))


def _with_entropy_bonus(probs: Tensor, ids: Tensor, slope: Tensor, entropy: Tensor, bonus: Tensor) -> Tensor:
    """The gradient by the logits with both factors in it, in place of the probabilities [n, V]."""
    slope, entropy, bonus = slope.unsqueeze(-1), entropy.unsqueeze(-1), bonus.unsqueeze(-1)
    for block in _blocks(probs):
        torch.add(torch.xlogy(block, block).mul_(bonus), block * (bonus * entropy - slope), out=block)
    return probs.scatter_add_(-1, ids, slope)


@dataclass(frozen=True)
class DivergenceScore:
    teacher_hidden: Tensor
    loss: SliceLoss
    reverse: bool

    def __call__(self, logits: Tensor, rows: slice, project: Callable[[Tensor], Tensor]) -> Slice:
        teacher_logits = project(self.teacher_hidden[rows])
        log_z, teacher_log_z = _log_normalizer(logits), _log_normalizer(teacher_logits)
        score, entropy = torch.zeros_like(logits[:, 0]), torch.zeros_like(logits[:, 0])
        for block, teacher_block in _blocks(logits, teacher_logits):
            logprobs = block.sub_(log_z)
            gaps = teacher_block.sub_(teacher_log_z).sub(logprobs)
            probs = logprobs.exp()
            entropy -= (probs * _finite(logprobs)).sum(-1)
            # What the first side excludes adds nothing; computed, it would be 0 times infinity.
            if self.reverse:
                weighted = torch.mul(probs, gaps.neg_(), out=block).masked_fill_(probs == 0, 0.0)
                teacher_block.copy_(probs)
            else:
                teacher_probs = teacher_block.exp_()
                torch.sub(probs, teacher_probs, out=block)
                weighted = gaps.mul_(teacher_probs).masked_fill_(teacher_probs == 0, 0.0)
            score += weighted.sum(-1)
        loss, slope = _loss_and_slope(self.loss, score, rows)

        def gradient() -> Tensor:
            return logits.addcmul_(teacher_logits, score.unsqueeze(-1), value=-1) if self.reverse else logits

        return Slice(loss, score, entropy, slope, slope, gradient)


@dataclass(frozen=True)
class JensenShannonScore:
    teacher_hidden: Tensor
    loss: SliceLoss

    def __call__(self, logits: Tensor, rows: slice, project: Callable[[Tensor], Tensor]) -> Slice:
        teacher_logits = project(self.teacher_hidden[rows])
        log_z, teacher_log_z = _log_normalizer(logits), _log_normalizer(teacher_logits)
        entropy, of_policy, of_teacher = (torch.zeros_like(logits[:, 0]) for _ in range(3))
        for block, teacher_block in _blocks(logits, teacher_logits):
            logprobs, teacher_logprobs = block.sub_(log_z), teacher_block.sub_(teacher_log_z)
            mixture = torch.logaddexp(logprobs, teacher_logprobs).sub_(math.log(2))
            probs, teacher_probs = logprobs.exp(), teacher_logprobs.exp()
            # What a side excludes adds nothing of that side; computed, it would be 0 times infinity.
            gaps = logprobs.sub(mixture).masked_fill_(probs == 0, 0.0)
            of_teacher += (
                teacher_logprobs.sub(mixture).masked_fill_(teacher_probs == 0, 0.0).mul_(teacher_probs).sum(-1)
            )
            entropy -= _finite(logprobs).mul_(probs).sum(-1)
            of_policy += torch.mul(gaps, probs, out=block).sum(-1)
            teacher_block.copy_(probs)
        score = (of_policy + of_teacher) / 2
        loss, slope = _loss_and_slope(self.loss, score, rows)

        def gradient() -> Tensor:
            return logits.addcmul_(teacher_logits, of_policy.unsqueeze(-1), value=-1)

        return Slice(loss, score, entropy, slope, slope / 2, gradient)


def _finite(logprobs: Tensor) -> Tensor:
    """In place: what a probability of 0 can be multiplied by. NaN stays."""
    return logprobs.clamp_(min=torch.finfo(logprobs.dtype).min)


def _blocks(*buffers: Tensor) -> Iterator[Any]:
    """The columns of buffers [n, V], in blocks; of one buffer alone, or of several together.

    Fresh memory costs as much as the arithmetic on it, so a CPU's block stays in its cache. And sums of blocks are more
    exact than one sum over a large vocabulary.
    """
    first = buffers[0]
    size = BLOCK_BYTES_CPU if first.device.type == "cpu" else BLOCK_BYTES
    columns = max(1, size // (len(first) * first.element_size()))
    parts = [buffer.split(columns, -1) for buffer in buffers]
    return iter(parts[0]) if len(parts) == 1 else zip(*parts, strict=True)


def _log_normalizer(logits: Tensor) -> Tensor:
    """-> [n, 1]"""
    return torch.cat([block.logsumexp(-1, keepdim=True) for block in _blocks(logits)], -1).logsumexp(-1, keepdim=True)


def _loss_and_slope(loss: SliceLoss, score: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """The loss of each token and its derivative by the token's score: vectors, free beside the projection."""
    with torch.enable_grad():
        score = score.detach().requires_grad_()
        losses = loss(score, rows)
        if not losses.requires_grad:
            return losses, torch.zeros_like(score)
        (slope,) = torch.autograd.grad(losses.sum(), score)
    return losses.detach(), slope
