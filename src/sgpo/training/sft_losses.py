"""The losses of `sgpo sft`: what a token of a response adds, as pure functions of log-probabilities.

With p = pi(y_t | q, y_<t) of a token, and the mean over all tokens of the responses of an update:

    nll    -log p
    dft    -sg(p) log p                                                  (DFT, arXiv:2508.05629)
    iw     -sg(w) log p,   w = min(mean_t p / p_ref, w_max)              (iw-SFT, arXiv:2507.12856)
           where mean_t is the geometric mean over the tokens of the response, and p_ref that before training
    psft   -min(r, clip(r, 1 - eps_low, 1 + eps_high)),  r = p / p_old   (PSFT, arXiv:2508.17784)
           the clipped surrogate with the advantage 1, for which eps_low never matters

sg is the gradient's stop. Sources: verl/verl/trainer/fsdp_dft_trainer.py of yongliang-wu/DFT at e153181, whose branch
for sequence parallelism leaves out the factor p; bounding_trainers.py of emmyqin/iw_sft at 9a3e4e4 (temperature 1);
verl/recipe/psft of zwhong714/PSFT at 569b1ba. docs/methods.md has the authors' learning rates and batches.

No function needs logits: the scores come from the projection in slices that the loss of every warm-up goes through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # options are read without torch
    from torch import Tensor


@dataclass
class SFTLossArguments:
    """What a token of a response adds to the loss; defaults are the authors'."""

    loss: str = field(
        default="nll",
        metadata={"help": "The negative log-likelihood 'nll', or 'dft', 'iw', 'psft': DFT, iw-SFT, PSFT."},
    )
    iw_max: float = field(default=16.0, metadata={"help": "Largest weight of a response, with loss iw."})
    psft_eps_high: float = field(default=0.28, metadata={"help": "Upper clip range of the ratio, with loss psft."})
    psft_updates: int = field(default=8, metadata={"help": "Updates that share the old policy of loss psft."})

    def refusals_of_loss(self) -> Iterator[str]:
        """What of these values cannot work, with what else the configuration has."""
        if self.loss not in LOSSES:
            yield f"loss is {self.loss!r}; choose one of {', '.join(LOSSES)}"
            return
        for each in fields(SFTLossArguments):
            owner = next((name for name, loss in LOSSES.items() if each.name in loss.options), None)
            if owner not in (None, self.loss) and getattr(self, each.name) != each.default:
                yield f"{each.name} belongs to loss {owner}; {self.loss} does not use it: leave it out"
        if not self.iw_max > 0:
            yield f"iw_max is {self.iw_max}; it must be positive"
        if not self.psft_eps_high >= 0:
            yield f"psft_eps_high is {self.psft_eps_high}; it must be 0 or positive"
        if self.psft_updates < 1:
            yield f"psft_updates is {self.psft_updates}; it must be at least 1"


# (log p [N, L], the other log-probabilities [N, L] or None, which places hold tokens [N, L], options)
#   -> the loss of each token [N, L], and what is measured of them [N, L] by name
TokenLosses = Callable[["Tensor", Any, "Tensor", SFTLossArguments], tuple["Tensor", dict[str, "Tensor"]]]


@dataclass(frozen=True)
class SFTLoss:
    """Example: ``SFTLoss(psft, options=("psft_eps_high", "psft_updates"), compares_with="old")``"""

    of_tokens: TokenLosses
    options: tuple[str, ...] = ()
    compares_with: str | None = None  # "reference", the policy before training; or "old", that of some updates ago


def nll(logprobs: Tensor, _: None, __: Tensor, ___: SFTLossArguments) -> tuple[Tensor, dict[str, Tensor]]:
    return -logprobs, {}


def dft(logprobs: Tensor, _: None, __: Tensor, ___: SFTLossArguments) -> tuple[Tensor, dict[str, Tensor]]:
    weights = logprobs.detach().exp()
    return -weights * logprobs, {"token_weight": weights}


def iw(
    logprobs: Tensor, reference: Tensor, tokens: Tensor, options: SFTLossArguments
) -> tuple[Tensor, dict[str, Tensor]]:
    """A row of [N, L] is a response, or none: then its weight is 1."""
    gaps = (logprobs.detach() - reference).where(tokens, 0.0)
    means = gaps.sum(-1, keepdim=True) / tokens.sum(-1, keepdim=True).clamp(min=1)
    weights = means.exp().clamp(max=options.iw_max).expand_as(logprobs)
    return -weights * logprobs, {"response_weight": weights}


def psft(logprobs: Tensor, old: Tensor, _: Tensor, options: SFTLossArguments) -> tuple[Tensor, dict[str, Tensor]]:
    ratio = (logprobs - old).exp()
    highest = 1 + options.psft_eps_high
    return -ratio.clamp(max=highest), {"clipped_share": (ratio.detach() > highest).to(ratio.dtype)}


LOSSES: dict[str, SFTLoss] = {
    "nll": SFTLoss(nll),
    "dft": SFTLoss(dft),
    "iw": SFTLoss(iw, options=("iw_max",), compares_with="reference"),
    "psft": SFTLoss(psft, options=("psft_eps_high", "psft_updates"), compares_with="old"),
}
