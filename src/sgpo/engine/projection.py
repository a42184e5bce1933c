"""Loss terms straight from hidden states: the projection to the vocabulary in slices of tokens, in one pass.

Full-vocabulary logits, not the model, fill the memory of a training step. But every weight and threshold of a token is
known before the update, so its loss and gradient can be finished while its logits are there. For each slice of tokens

    z  = h W^T + b                              (also from the side with the strategy, for a divergence)
    s  = log pi(id), or the divergence d        from z
    l  = loss(s),  c = dl/ds                    a pure function of one number a token (sgpo.methods.terms)
    dz = c (onehot(id) - pi)                    log-probability
         + b pi (log pi + H)                    entropy bonus, -b H in the loss
         c (pi - pi_teacher)                    forward KL( teacher || policy ), Eq. 3
         c pi (log pi - log pi_teacher - d)     reverse KL( policy || teacher )
         c/2 pi (log pi - log m - KL(pi || m))  Jensen-Shannon divergence, m = (pi + pi_teacher) / 2
    dh = dz W,  dW += dz^T h,  db += sum dz

and the slice is forgotten. Nothing is projected twice, and a token with c = 0 (clipped, masked, of weight 0) costs no
backward projection. The result is exact over the full vocabulary; logits and sums are float32 at least.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

SLICE_BYTES = 128 * 1024**2  # of one [tokens, V] buffer; two of them live at a time
BLOCK_BYTES, BLOCK_BYTES_CPU = 32 * 1024**2, 4 * 1024**2  # of a buffer's columns that are worked on at once

# The scores [n] of a slice of tokens, and which slice -> the loss of each token [n]; differentiable.
SliceLoss = Callable[[Tensor, slice], Tensor]


@dataclass(frozen=True)
class Head:
    """The projection from hidden states to logits: ``softcap * tanh(scale * (h W^T + b) / softcap)``.

    Example: ``Head.of(model)``
    """

    weight: Tensor  # [V, H]
    bias: Tensor | None = None  # [V]
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: Any) -> Head:
        """The head of a transformers causal language model, with what its configuration does to logits.

        Raises ValueError for a head that is not an ordinary linear layer.
        """
        config, layer = model.config.get_text_config(), model.get_output_embeddings()
        if type(layer) is not nn.Linear and not _is_sharded_linear(layer):
            raise ValueError(
                f"the language model head is a {type(layer).__name__}, not an ordinary linear layer: leave it out of "
                "adapters (target_modules, modules_to_save) and of quantization"
            )
        return cls(layer.weight, layer.bias, _logit_scale(config), getattr(config, "final_logit_softcapping", None))

    def finish_(self, products: Tensor) -> Tensor:
        """In place: from h W^T, float32 at least, to logits."""
        if self.bias is not None:
            products.add_(self.bias.detach())
        if self.scale != 1.0:
            products.mul_(self.scale)
        if self.softcap is not None:
            products.div_(self.softcap).tanh_().mul_(self.softcap)
        return products


def _is_sharded_linear(layer: Any) -> bool:
    """fully_shard makes a class of its own for each class that it shards."""
    return isinstance(layer, FSDPModule) and type(layer).__bases__ == (FSDPModule, nn.Linear)


def _logit_scale(config: Any) -> float:
    """What a model multiplies its logits by, for which the families have different names."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    divisor = getattr(config, "logits_scaling", None)
    if divisor is None:
        return 1.0
    return float(divisor) if config.model_type == "hyperclovax" else 1.0 / float(divisor)


class Projected(NamedTuple):
    """What was found of T tokens. The loss has a gradient, the rest has none.

    A tuple, since that is where DeepSpeed looks for a module's output.
    """

    loss: Tensor  # scalar: the sum over the tokens
    score: Tensor  # [T] log-probability or divergence, nats
    entropy: Tensor  # [T] of the policy, nats
    slope: Tensor  # [T] derivative of a token's loss by its score; 0 for a token without gradient


def logprob_loss(
    hidden: Tensor,
    head: Head,
    ids: Tensor,
    loss: SliceLoss,
    *,
    entropy_bonus: Tensor | None = None,
    slice_bytes: int = SLICE_BYTES,
) -> Projected:
    """The summed loss of tokens, each a function of its log-probability, minus a bonus on its entropy.

    Args:
        hidden: [T, H] hidden states that predict the tokens.
        head: the projection. Gradients flow into hidden states, weight and bias, as far as they require them.
        ids: [T] the tokens.
        loss: see ``SliceLoss``; the scores are log-probabilities.
        entropy_bonus: [T] the entropy (nats) of each token times this is subtracted from the loss.
        slice_bytes: size of one buffer of logits.
    """
    return _project(hidden, head, _LogprobScore(ids, loss, entropy_bonus), slice_bytes)


def divergence_loss(
    hidden: Tensor,
    teacher_hidden: Tensor,
    head: Head,
    loss: SliceLoss,
    *,
    reverse: bool = False,
    slice_bytes: int = SLICE_BYTES,
) -> Projected:
    """The summed loss of tokens, each a function of the divergence of two distributions, the teacher's being fixed.

    Args:
        hidden, teacher_hidden: [T, H] each; the second gets no gradient, and the head none through it.
        loss: see ``SliceLoss``; the scores are divergences.
        reverse: KL(policy || teacher) in place of KL(teacher || policy), Eq. 3.
    """
    return _project(hidden, head, _DivergenceScore(teacher_hidden.detach(), loss, reverse), slice_bytes)


def jensen_shannon_loss(
    hidden: Tensor, teacher_hidden: Tensor, head: Head, loss: SliceLoss, *, slice_bytes: int = SLICE_BYTES
) -> Projected:
    """As `divergence_loss`, of the divergence (KL(policy || m) + KL(teacher || m)) / 2, m the mean of both."""
    return _project(hidden, head, _JensenShannonScore(teacher_hidden.detach(), loss), slice_bytes)


@torch.no_grad()
def token_scores(hidden: Tensor, head: Head, ids: Tensor, *, slice_bytes: int = SLICE_BYTES) -> Projected:
    """Log-probabilities and entropies of tokens, without gradients."""
    return logprob_loss(hidden, head, ids, lambda logprobs, _: torch.zeros_like(logprobs), slice_bytes=slice_bytes)


@torch.no_grad()
def token_divergences(hidden: Tensor, teacher_hidden: Tensor, head: Head, *, slice_bytes: int = SLICE_BYTES) -> Tensor:
    """d_t of Eq. 3 without gradients. [T, H], [T, H] -> [T]"""
    return divergence_loss(
        hidden, teacher_hidden, head, lambda d, _: torch.zeros_like(d), slice_bytes=slice_bytes
    ).score


@torch.no_grad()
def sliced_logits(hidden: Tensor, head: Head, slice_bytes: int = SLICE_BYTES) -> Iterator[tuple[slice, Tensor]]:
    """Logits of one slice of tokens after the other, as the losses have them: which tokens, and [n, V].

    The next slice takes the place of the one before. [T, H]
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    step = _slice_length(len(hidden), head, dtype, slice_bytes)
    projection = _Projection(head, _matmul_dtype(hidden), dtype, step)
    for start in range(0, len(hidden), step):
        rows = slice(start, start + step)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = projection.of_teacher(hidden[rows])
        yield rows, logits


def _slice_length(tokens: int, head: Head, dtype: torch.dtype, slice_bytes: int) -> int:
    """Of at least one token, even of none."""
    return max(1, min(tokens, slice_bytes // (head.weight.shape[0] * dtype.itemsize)))


# A `_Score` turns the logits of a slice into its scores, and in place into the gradient of the scores by the logits:
# two buffers of logits are all that is ever held. The work on them goes block by block of columns, in the cache.


@dataclass(frozen=True)
class _Slice:
    loss: Tensor  # [n]
    score: Tensor  # [n]
    entropy: Tensor  # [n]
    slope: Tensor  # [n]
    # The gradient of the loss by the logits is factor [n] times gradient() [n, V], which is made in their buffers if
    # anything asks for it. A token of factor 0 has none.
    factor: Tensor
    gradient: Callable[[], Tensor]


class _Score(Protocol):
    def __call__(self, logits: Tensor, rows: slice, project: Callable[[Tensor], Tensor]) -> _Slice: ...


@dataclass(frozen=True)
class _LogprobScore:
    ids: Tensor
    loss: SliceLoss
    entropy_bonus: Tensor | None = None

    def __call__(self, logits: Tensor, rows: slice, project: Callable[[Tensor], Tensor]) -> _Slice:
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
            return _Slice(loss - bonus * entropy, score, entropy, slope, factor, gradient)
        ones = torch.ones_like(log_z)
        return _Slice(loss, score, entropy, slope, slope, lambda: logits.neg_().scatter_add_(-1, ids, ones))


def _with_entropy_bonus(probs: Tensor, ids: Tensor, slope: Tensor, entropy: Tensor, bonus: Tensor) -> Tensor:
    """The gradient by the logits with both factors in it, in place of the probabilities [n, V]."""
    slope, entropy, bonus = slope.unsqueeze(-1), entropy.unsqueeze(-1), bonus.unsqueeze(-1)
    for block in _blocks(probs):
        torch.add(torch.xlogy(block, block).mul_(bonus), block * (bonus * entropy - slope), out=block)
    return probs.scatter_add_(-1, ids, slope)


@dataclass(frozen=True)
class _DivergenceScore:
    teacher_hidden: Tensor
    loss: SliceLoss
    reverse: bool

    def __call__(self, logits: Tensor, rows: slice, project: Callable[[Tensor], Tensor]) -> _Slice:
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

        return _Slice(loss, score, entropy, slope, slope, gradient)


@dataclass(frozen=True)
class _JensenShannonScore:
    teacher_hidden: Tensor
    loss: SliceLoss

    def __call__(self, logits: Tensor, rows: slice, project: Callable[[Tensor], Tensor]) -> _Slice:
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

        return _Slice(loss, score, entropy, slope, slope / 2, gradient)


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


# The pass over slices.


def _project(hidden: Tensor, head: Head, score: _Score, slice_bytes: int) -> Projected:
    if isinstance(head.weight, DTensor):
        raise ValueError("the head's weight is sharded on its own; shard it together with the root of the model")
    return Projected(*_SlicedProjection.apply(hidden, head.weight, head.bias, head, score, slice_bytes))


class _SlicedProjection(torch.autograd.Function):
    """Loss and gradients together in the forward pass; the backward pass hands the gradients on."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head, score: _Score, slice_bytes: int
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        inputs = (hidden, weight, bias)
        gradients = [
            torch.zeros_like(tensor, dtype=dtype) if tensor is not None and needed else None
            for tensor, needed in zip(inputs, ctx.needs_input_grad[:3], strict=True)
        ]
        per_token = hidden.new_zeros(4, len(hidden), dtype=dtype)
        step = _slice_length(len(hidden), head, dtype, slice_bytes)
        with torch.autocast(hidden.device.type, enabled=False):
            projection = _Projection(head, _matmul_dtype(hidden), dtype, step)
            for start in range(0, len(hidden), step):
                rows = slice(start, start + step)
                found = score(projection.of_policy(hidden[rows]), rows, projection.of_teacher)
                per_token[:, rows] = torch.stack([found.loss, found.score, found.entropy, found.slope])
                projection.backward(found, hidden, rows, gradients)
        ctx.gradients = [
            None if g is None or x is None else g.to(x.dtype) for g, x in zip(gradients, inputs, strict=True)
        ]
        loss, *others = per_token.unbind()
        ctx.mark_non_differentiable(*others)
        return loss.sum(), *others

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: Any) -> tuple[Any, ...]:
        gradients, ctx.gradients = ctx.gradients, [None, None, None]  # the weight's is large: not kept
        if grad_loss is not None:
            gradients = [None if g is None else g.mul_(grad_loss.to(g.dtype)) for g in gradients]
        return (*gradients, None, None, None)


def _matmul_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


class _Projection:
    """Logits of a slice, and from their gradient those of hidden states, weight and bias; the buffers are its own."""

    def __init__(self, head: Head, matmul_dtype: torch.dtype, dtype: torch.dtype, rows: int) -> None:
        self.head, self.dtype, self.rows = head, dtype, rows
        self.weight = head.weight.detach().to(matmul_dtype)
        self.chain: Tensor | None = None  # derivative of the capped logits by those before the cap

    @cached_property
    def first(self) -> Tensor:
        return self._buffer()

    @cached_property
    def second(self) -> Tensor:
        return self._buffer()

    def _buffer(self) -> Tensor:
        return self.weight.new_empty(self.rows, len(self.weight), dtype=self.dtype)

    def of_policy(self, hidden: Tensor) -> Tensor:
        """Logits of the side with a gradient: what the chain rule needs of them is kept for ``backward``."""
        logits = self._logits(hidden, self.first)
        if self.head.softcap is not None:
            self.chain = (logits / self.head.softcap).square_().neg_().add_(1)
        return logits

    def of_teacher(self, hidden: Tensor) -> Tensor:
        return self._logits(hidden, self.second)

    def _logits(self, hidden: Tensor, buffer: Tensor) -> Tensor:
        return self.head.finish_(self._matmul(hidden.to(self.weight.dtype), self.weight.t(), buffer[: len(hidden)]))

    def backward(self, found: _Slice, hidden: Tensor, rows: slice, gradients: list[Tensor | None]) -> None:
        """Add the slice's part to the gradients of hidden states, weight and bias."""
        active = found.factor.nonzero().squeeze(-1)
        if not len(active) or not any(gradient is not None for gradient in gradients):
            return
        grad_logits, factor, inputs = found.gradient(), found.factor, hidden[rows]
        if self.chain is not None:
            grad_logits.mul_(self.chain)
        if len(active) < len(factor):
            grad_logits = torch.index_select(grad_logits, 0, active, out=self.second[: len(active)])
            factor, inputs = factor[active], inputs[active]
        factor = factor * self.head.scale
        grad_hidden, grad_weight, grad_bias = gradients
        if grad_bias is not None:
            grad_bias.add_(factor @ grad_logits)
        grad_logits, column = grad_logits.to(self.weight.dtype), factor.unsqueeze(-1)
        if grad_hidden is not None:
            grad_hidden[rows.start + active] = self._matmul(grad_logits, self.weight).mul_(column)
        if grad_weight is not None:  # the factors go with the hidden states, which are few
            self._add_matmul(grad_weight, grad_logits.t(), (inputs * column).to(self.weight.dtype))

    def _matmul(self, left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
        """In the dtype of the model, with a result that keeps the accumulator's precision where the device can."""
        if left.dtype == self.dtype:
            return torch.mm(left, right, out=out)
        if left.is_cuda:
            return torch.mm(left, right, out_dtype=self.dtype, out=out)
        return torch.mm(left, right).to(self.dtype) if out is None else out.copy_(torch.mm(left, right))

    def _add_matmul(self, total: Tensor, left: Tensor, right: Tensor) -> None:
        if left.dtype == total.dtype:
            total.addmm_(left, right)
        else:
            total.add_(self._matmul(left, right))
