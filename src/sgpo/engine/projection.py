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

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from sgpo.engine.scores import DivergenceScore, JensenShannonScore, LogprobScore, Slice, SliceLoss, SliceScore

SLICE_BYTES = 128 * 1024**2  # of one [tokens, V] buffer; two of them live at a time


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
    return _project(hidden, head, LogprobScore(ids, loss, entropy_bonus), slice_bytes)


def divergence_loss(
    hidden: Tensor,
    teacher_hidden: Tensor,
    head: Head,
    loss: SliceLoss,
    *,
    reverse: bool = False,
    teacher_head: Head | None = None,
    slice_bytes: int = SLICE_BYTES,
) -> Projected:
    """The summed loss of tokens, each a function of the divergence of two distributions, the teacher's being fixed.

    Args:
        hidden, teacher_hidden: [T, H] each; the second gets no gradient, and the head none through it.
        loss: see ``SliceLoss``; the scores are divergences.
        reverse: KL(policy || teacher) in place of KL(teacher || policy), Eq. 3.
        teacher_head: of a teacher that is another model; default: ``head``.
    """
    return _project(hidden, head, DivergenceScore(teacher_hidden.detach(), loss, reverse), slice_bytes, teacher_head)


def jensen_shannon_loss(
    hidden: Tensor,
    teacher_hidden: Tensor,
    head: Head,
    loss: SliceLoss,
    *,
    teacher_head: Head | None = None,
    slice_bytes: int = SLICE_BYTES,
) -> Projected:
    """As `divergence_loss`, of the divergence (KL(policy || m) + KL(teacher || m)) / 2, m the mean of both."""
    return _project(hidden, head, JensenShannonScore(teacher_hidden.detach(), loss), slice_bytes, teacher_head)


@torch.no_grad()
def token_scores(hidden: Tensor, head: Head, ids: Tensor, *, slice_bytes: int = SLICE_BYTES) -> Projected:
    """Log-probabilities and entropies of tokens, without gradients."""
    return logprob_loss(hidden, head, ids, lambda logprobs, _: torch.zeros_like(logprobs), slice_bytes=slice_bytes)


@torch.no_grad()
def token_divergences(
    hidden: Tensor,
    teacher_hidden: Tensor,
    head: Head,
    *,
    teacher_head: Head | None = None,
    slice_bytes: int = SLICE_BYTES,
) -> Tensor:
    """d_t of Eq. 3 without gradients. [T, H], [T, H] -> [T]"""
    return divergence_loss(
        hidden,
        teacher_hidden,
        head,
        lambda d, _: torch.zeros_like(d),
        teacher_head=teacher_head,
        slice_bytes=slice_bytes,
    ).score


@torch.no_grad()
def sliced_logits(hidden: Tensor, head: Head, slice_bytes: int = SLICE_BYTES) -> Iterator[tuple[slice, Tensor]]:
    """Logits of one slice of tokens after the other, as the losses have them: which tokens, and [n, V].

    The next slice takes the place of the one before. [T, H]
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    step = _slice_length(len(hidden), head, dtype, slice_bytes)
    projection = _Projection(head, head, _matmul_dtype(hidden), dtype, step)
    for start in range(0, len(hidden), step):
        rows = slice(start, start + step)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = projection.of_teacher(hidden[rows])
        yield rows, logits


def _slice_length(tokens: int, head: Head, dtype: torch.dtype, slice_bytes: int) -> int:
    """Of at least one token, even of none."""
    return max(1, min(tokens, slice_bytes // (head.weight.shape[0] * dtype.itemsize)))


# The pass over slices.


def _project(
    hidden: Tensor, head: Head, score: SliceScore, slice_bytes: int, teacher_head: Head | None = None
) -> Projected:
    if isinstance(head.weight, DTensor):
        raise ValueError("the head's weight is sharded on its own; shard it together with the root of the model")
    heads = head, teacher_head or head
    return Projected(*_SlicedProjection.apply(hidden, head.weight, head.bias, heads, score, slice_bytes))


class _SlicedProjection(torch.autograd.Function):
    """Loss and gradients together in the forward pass; the backward pass hands the gradients on."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        heads: tuple[Head, Head],
        score: SliceScore,
        slice_bytes: int,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        inputs = (hidden, weight, bias)
        gradients = [
            torch.zeros_like(tensor, dtype=dtype) if tensor is not None and needed else None
            for tensor, needed in zip(inputs, ctx.needs_input_grad[:3], strict=True)
        ]
        per_token = hidden.new_zeros(4, len(hidden), dtype=dtype)
        step = _slice_length(len(hidden), heads[0], dtype, slice_bytes)
        with torch.autocast(hidden.device.type, enabled=False):
            projection = _Projection(*heads, _matmul_dtype(hidden), dtype, step)
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

    def __init__(
        self, head: Head, teacher_head: Head, matmul_dtype: torch.dtype, dtype: torch.dtype, rows: int
    ) -> None:
        self.head, self.teacher_head, self.dtype, self.rows = head, teacher_head, dtype, rows
        self.weight = head.weight.detach().to(matmul_dtype)
        own = teacher_head.weight is head.weight
        self.teacher_weight = self.weight if own else teacher_head.weight.detach().to(matmul_dtype)
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
        logits = self._logits(hidden, self.head, self.weight, self.first)
        if self.head.softcap is not None:
            self.chain = (logits / self.head.softcap).square_().neg_().add_(1)
        return logits

    def of_teacher(self, hidden: Tensor) -> Tensor:
        return self._logits(hidden, self.teacher_head, self.teacher_weight, self.second)

    def _logits(self, hidden: Tensor, head: Head, weight: Tensor, buffer: Tensor) -> Tensor:
        return head.finish_(self._matmul(hidden.to(weight.dtype), weight.t(), buffer[: len(hidden)]))

    def backward(self, found: Slice, hidden: Tensor, rows: slice, gradients: list[Tensor | None]) -> None:
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
