"""The maths of Strategy-Guided Policy Optimization, as pure functions of tensors (arXiv:2606.24064).

    Eq. 1  J    = 1/G1 sum_i 1/|o_i| sum_t min(rho A_i, clip(rho, 1 - eps_low, 1 + eps_high) A_i)
           rho  = pi(o_it | q, o_i<t) / pi_old(o_it | q, o_i<t)
           A_i  = (R_i - mean R) / (std R + 1e-6)
    Eq. 3  d_t  = KL( stopgrad pi(. | q, s, g_<t)  ||  pi(. | q, g_<t) )
    Eq. 4  g+   = argmax over the correct guided completions of sum_t log pi(g_t | q, g_<t)
    Eq. 5  L_KD = 1/|g+| sum_t w_t d_t,  w_t = 1[d_t <= delta]
    Eq. 6  alpha = clip( a0 (p_guide - p_auto + gamma) / (p_auto + gamma), 0, a_max )

The loss of a batch is the mean over its B problems of L = -J + alpha L_KD. Every normaliser is positive and
known before the update, so it is computed once and carried by the token: the loss is a sum over tokens of a
*term* with the weight A_i / (B G1 |o_i|) in the rows of the autonomous group ("surrogate") and
alpha / (B |g+|) in the row of the target ("distillation"). A weight of the surrogate is a scaled advantage
and keeps its sign, on which clipping depends: min(rho c A, clip(rho) c A) = c min(rho A, clip(rho) A), c > 0.

Decisions, where the paper is silent or contradicts itself:

- The paper's Eq. 7 adds J with a plus sign and then descends; the sign is a slip, J is maximised here.
- std is unbiased. A group with equal rewards has A = 0, exactly, without the noise of a rounded mean.
- Probabilities are of the full vocabulary at temperature 1, in nats, computed in float32 at least.
- Eq. 3 uses the current parameters on both sides; the guided side is a constant.
- Eq. 4 is the literal sum, which favours short answers; the mean per token is a second function.
- w_t carries no gradient, and the denominator |g+| of Eq. 5 counts masked tokens too. A divergence that is
  not a number counts as not above delta, so that it reaches the loss and is seen there.
- Eq. 6 to the letter: (0, 0) gives 0.5, (1, 1) gives 0.045. That alpha is 0 without a correct guided
  completion is the rule of whoever assembles the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    eps_low: float = 0.2,
    eps_high: float = 0.28,
) -> Tensor:
    """Eq. 1 for each token, to be maximised. [...], [...], [...] -> [...]"""
    ratio = torch.exp(logprobs - old_logprobs)
    clipped_ratio = ratio.clamp(1 - eps_low, 1 + eps_high)
    return torch.minimum(ratio * advantages, clipped_ratio * advantages)


def shaped_probability(logprobs: Tensor, *, gamma: float = 0.1) -> Tensor:
    """f(p) = p / (p + gamma), which gives tokens that the policy finds unlikely a larger gradient. [...] -> [...]

    Policy shaping of LUFFY (arXiv:2504.14945), with the gamma of its authors.
    """
    probs = torch.exp(logprobs)
    return probs / (probs + gamma)


def token_divergence(teacher_logits: Tensor, logits: Tensor) -> Tensor:
    """Eq. 3: forward KL of each token, the guided side being fixed. [..., V], [..., V] -> [...]"""
    teacher_logprobs = _log_softmax(teacher_logits.detach())
    teacher_probs = teacher_logprobs.exp()
    summands = teacher_probs * (teacher_logprobs - _log_softmax(logits))
    # A token that the teacher excludes adds nothing; computed, it would be 0 times infinity.
    return torch.where(teacher_probs == 0, 0.0, summands).sum(-1)


def divergence_mask(divergence: Tensor, delta: float) -> Tensor:
    """w_t of Eq. 5 as booleans: the tokens whose divergence is at most delta. [...] -> [...]"""
    # "not above" rather than "at most": they differ only for NaN, which must not be masked out of sight.
    return ~(divergence.detach() > delta)


def token_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of each id under the distribution in its place. [..., V], [...] -> [...]"""
    return _log_softmax(logits).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each token's distribution in nats. [..., V] -> [...]"""
    logprobs = _log_softmax(logits)
    probs = logprobs.exp()
    return -(probs * logprobs.masked_fill(probs == 0, 0.0)).sum(-1)  # 0 log 0 = 0, and so is its gradient


def surrogate_loss(
    logprobs: Tensor, old_logprobs: Tensor, weights: Tensor, *, eps_low: float, eps_high: float
) -> Tensor:
    """-J in tokens whose weight is A_i / (B G1 |o_i|), with its sign. [...], [...], [...] -> [...]"""
    return -clipped_surrogate(logprobs, old_logprobs, weights, eps_low=eps_low, eps_high=eps_high)


def distillation_loss(divergence: Tensor, weights: Tensor, *, delta: float) -> Tensor:
    """alpha L_KD in tokens whose weight is alpha / (B |g+|). [...], [...] -> [...]"""
    # Selected, not multiplied: a masked divergence may be infinite.
    return weights * torch.where(divergence_mask(divergence, delta), divergence, 0.0)


@dataclass(frozen=True)
class Thresholds:
    """The bounds within which a token may move the policy.

    Example: ``Thresholds(eps_low=0.2, eps_high=0.28, delta=1.0)``; with ``delta=math.inf`` nothing is masked.
    """

    eps_low: float
    eps_high: float
    delta: float


@dataclass(frozen=True)
class Term:
    """What one row adds to the loss: a function of one score a token, and which score that is.

    Example: ``Term("divergence", distillation)``
    """

    score: str  # "logprob": log pi of the token; "divergence": d_t of Eq. 3; "reverse_divergence"
    # (scores [T], log-probabilities under the policy of Eq. 1's denominator [T], weights [T], thresholds) -> [T]
    loss: Callable[[Tensor, Tensor | None, Tensor, Thresholds], Tensor]
    masked: bool = False  # tokens whose divergence d_t is above delta are left out, though the score is another
    has_ratio: bool = False  # computes with log pi_old, whoever wrote the completion

    @property
    def has_teacher(self) -> bool:
        """Whether rows have a second prompt, that of the fixed side."""
        return self.masked or self.score != "logprob"


def _surrogate(logprobs: Tensor, old_logprobs: Tensor | None, weights: Tensor, thresholds: Thresholds) -> Tensor:
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    return surrogate_loss(logprobs, old, weights, eps_low=thresholds.eps_low, eps_high=thresholds.eps_high)


def _ratio(logprobs: Tensor, old_logprobs: Tensor | None, weights: Tensor, _: Thresholds) -> Tensor:
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    return -weights * torch.exp(logprobs - old)


def _shaped(logprobs: Tensor, _: Tensor | None, weights: Tensor, __: Thresholds) -> Tensor:
    return -weights * shaped_probability(logprobs)


def _likelihood(logprobs: Tensor, _: Tensor | None, weights: Tensor, __: Thresholds) -> Tensor:
    return -weights * logprobs


def _distillation(divergence: Tensor, _: Tensor | None, weights: Tensor, thresholds: Thresholds) -> Tensor:
    return distillation_loss(divergence, weights, delta=thresholds.delta)


# The sum over the tokens of a row is what the row adds to the loss of the batch, to be minimised.
TERMS: dict[str, Term] = {
    "surrogate": Term("logprob", _surrogate, has_ratio=True),
    "ratio": Term("logprob", _ratio, has_ratio=True),  # not clipped
    "shaped": Term("logprob", _shaped),  # LUFFY, of expert tokens
    "likelihood": Term("logprob", _likelihood),  # SFT
    "distillation": Term("divergence", _distillation),
    "reverse_distillation": Term("reverse_divergence", _distillation),
    "target_likelihood": Term("logprob", _likelihood, masked=True),
}


def _log_softmax(logits: Tensor) -> Tensor:
    return torch.log_softmax(_at_least_float32(logits), dim=-1)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
