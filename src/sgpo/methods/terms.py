"""Loss terms: what a token adds to the loss, as pure functions of tensors (arXiv:2606.24064).

    Eq. 1  J    = 1/G1 sum_i 1/|o_i| sum_t min(rho A_i, clip(rho, 1 - eps_low, 1 + eps_high) A_i)
           rho  = pi(o_it | q, o_i<t) / pi_old(o_it | q, o_i<t)
    Eq. 3  d_t  = KL( stopgrad pi(. | q, s, g_<t)  ||  pi(. | q, g_<t) )
    Eq. 5  L_KD = 1/|g+| sum_t w_t d_t,  w_t = 1[d_t <= delta]

The loss of a batch is the mean over its B problems of L = -J + alpha L_KD. Every normaliser is positive and known
before the update, so it is computed once (`sgpo.methods.weights`) and carried by the token: the loss is a sum over
tokens of a *term* with the weight A_i / (B G1 |o_i|) in the rows of the autonomous group ("surrogate") and
alpha / (B |g+|) in the row of the target ("distillation"). A weight of the surrogate is a scaled advantage and keeps
its sign, on which clipping depends: min(rho c A, clip(rho) c A) = c min(rho A, clip(rho) A), c > 0.

Decisions, where the paper is silent or contradicts itself:

- The paper's Eq. 7 adds J with a plus sign and then descends; the sign is a slip, J is maximised here.
- Probabilities are of the full vocabulary at temperature 1, in nats, computed in float32 at least.
- Eq. 3 uses the current parameters on both sides; the guided side is a constant.
- w_t carries no gradient, and the denominator |g+| of Eq. 5 counts masked tokens too. A divergence that is
  not a number counts as not above delta, so that it reaches the loss and is seen there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sgpo.methods.weights import at_least_float32

if TYPE_CHECKING:  # methods are loaded without torch, see sgpo.methods.options
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
    ratio = (logprobs - old_logprobs).exp()
    clipped_ratio = ratio.clamp(1 - eps_low, 1 + eps_high)
    return (ratio * advantages).minimum(clipped_ratio * advantages)


def shaped_probability(logprobs: Tensor, *, gamma: float = 0.1) -> Tensor:
    """f(p) = p / (p + gamma), which gives tokens that the policy finds unlikely a larger gradient. [...] -> [...]

    Policy shaping of LUFFY (arXiv:2504.14945), with the gamma of its authors.
    """
    probs = logprobs.exp()
    return probs / (probs + gamma)


def token_divergence(teacher_logits: Tensor, logits: Tensor) -> Tensor:
    """Eq. 3: forward KL of each token, the guided side being fixed. [..., V], [..., V] -> [...]"""
    teacher_logprobs = _log_softmax(teacher_logits.detach())
    teacher_probs = teacher_logprobs.exp()
    summands = teacher_probs * (teacher_logprobs - _log_softmax(logits))
    # A token that the teacher excludes adds nothing; computed, it would be 0 times infinity.
    return summands.where(teacher_probs != 0, 0.0).sum(-1)


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
    return weights * divergence.where(divergence_mask(divergence, delta), 0.0)


@dataclass(frozen=True)
class Thresholds:
    """The bounds within which a token may move the policy.

    Example: ``Thresholds(eps_low=0.2, eps_high=0.28, delta=1.0)``; infinite ones bound nothing.
    """

    eps_low: float = math.inf
    eps_high: float = math.inf
    delta: float = math.inf

    @classmethod
    def of(cls, options: Any) -> Thresholds:
        """Those among the options of a method; `check_rows` refuses a row whose term needs another."""
        return cls(**{name: getattr(options, name, math.inf) for name in ("eps_low", "eps_high", "delta")})


class Tokens(NamedTuple):
    """What a term computes with, of n tokens."""

    score: Tensor  # [n] log pi of the token, or a divergence: see `Term.score`
    weights: Tensor  # [n]
    old_logprobs: Tensor | None = None  # [n] log pi_old, of a term with a ratio; None: pi_old is the present policy
    divergence: Tensor | None = None  # [n] d_t of Eq. 3 as a constant, of a term that is masked by it

    @property
    def old(self) -> Tensor:
        """log pi_old as a constant. [n]"""
        return self.score.detach() if self.old_logprobs is None else self.old_logprobs

    @property
    def ratio(self) -> Tensor:
        """rho. [n]"""
        return (self.score - self.old).exp()


Measures = Mapping[str, "Tensor"]  # of the tokens, by the name under which their mean is logged
TermLoss = Callable[[Tokens, Thresholds], tuple["Tensor", Measures]]


@dataclass(frozen=True)
class Term:
    """What one row adds to the loss, and which score of its tokens that is a function of.

    ``loss(tokens, thresholds)`` returns the loss of each token [n], and what is measured of the tokens.

    Example: ``Term("divergence", distillation, options=("delta",))``
    """

    score: str  # "logprob": log pi of the token; "divergence": d_t of Eq. 3; "reverse_divergence"; "jensen_shannon"
    loss: TermLoss
    options: tuple[str, ...] = ()  # the thresholds that it reads
    masked: bool = False  # computes with the divergence d_t too, though the score is another
    has_ratio: bool = False  # computes with log pi_old, whoever wrote the completion
    of_sampled: bool = False  # without a ratio, though of completions that the policy sampled: their entropy is logged

    @property
    def has_teacher(self) -> bool:
        """Whether rows have a second prompt, that of the fixed side."""
        return self.masked or self.score != "logprob"


def surrogate(tokens: Tokens, thresholds: Thresholds) -> tuple[Tensor, Measures]:
    """-J, in tokens whose weight is A_i / (B G1 |o_i|)."""
    eps_low, eps_high = thresholds.eps_low, thresholds.eps_high
    losses = surrogate_loss(tokens.score, tokens.old, tokens.weights, eps_low=eps_low, eps_high=eps_high)
    ratio = tokens.ratio.detach()
    # The clip is one-sided: it stops a token of positive weight above, one of negative weight below.
    high, low = (ratio > 1 + eps_high) & (tokens.weights > 0), (ratio < 1 - eps_low) & (tokens.weights < 0)
    return losses, {"clipped_share/high": high, "clipped_share/low": low}


def unclipped(tokens: Tokens, _: Thresholds) -> tuple[Tensor, Measures]:
    """The policy gradient with a ratio, without a bound."""
    return -tokens.weights * tokens.ratio, {}


def policy_gradient(tokens: Tokens, _: Thresholds) -> tuple[Tensor, Measures]:
    """The policy gradient without a ratio."""
    return -tokens.weights * tokens.score, {}


def shaped(tokens: Tokens, _: Thresholds) -> tuple[Tensor, Measures]:
    """LUFFY, of expert tokens."""
    return -tokens.weights * shaped_probability(tokens.score), {"imitated_surprisal": -tokens.score.detach()}


def likelihood(tokens: Tokens, _: Thresholds) -> tuple[Tensor, Measures]:
    """SFT."""
    return -tokens.weights * tokens.score, {"imitated_surprisal": -tokens.score.detach()}


def distillation(tokens: Tokens, thresholds: Thresholds) -> tuple[Tensor, Measures]:
    """alpha L_KD, in tokens whose weight is alpha / (B |g+|); of either direction of the divergence."""
    losses = distillation_loss(tokens.score, tokens.weights, delta=thresholds.delta)
    return losses, _of_divergence(tokens.score, thresholds)


def target_likelihood(tokens: Tokens, thresholds: Thresholds) -> tuple[Tensor, Measures]:
    """SFT on the target's tokens in place of the divergence, on those that Eq. 5 keeps."""
    assert tokens.divergence is not None  # the term is masked
    kept = divergence_mask(tokens.divergence, thresholds.delta)
    return (-tokens.weights * tokens.score).where(kept, 0.0), _of_divergence(tokens.divergence, thresholds)


def _of_divergence(divergence: Tensor, thresholds: Thresholds) -> Measures:
    masked = ~divergence_mask(divergence, thresholds.delta)
    return {"divergence": divergence.detach(), "divergence_masked_share": masked}


# The sum over the tokens of a row is what the row adds to the loss of the batch, to be minimised.
TERMS: dict[str, Term] = {
    "surrogate": Term("logprob", surrogate, options=("eps_low", "eps_high"), has_ratio=True),
    "ratio": Term("logprob", unclipped, has_ratio=True),
    "policy_gradient": Term("logprob", policy_gradient, of_sampled=True),
    "shaped": Term("logprob", shaped),
    "likelihood": Term("logprob", likelihood),
    "distillation": Term("divergence", distillation, options=("delta",)),
    "reverse_distillation": Term("reverse_divergence", distillation, options=("delta",)),
    "jensen_shannon_distillation": Term("jensen_shannon", distillation, options=("delta",)),
    "target_likelihood": Term("logprob", target_likelihood, options=("delta",), masked=True),
}


def _log_softmax(logits: Tensor) -> Tensor:
    return at_least_float32(logits).log_softmax(dim=-1)
