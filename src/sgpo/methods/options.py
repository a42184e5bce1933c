"""Options that every method has, and how options are checked.

The options of a method are a dataclass in the method's own file, derived from `MethodOptions`. One name has one default
in the whole package, so that a configuration means the same under every method that knows the name.

Neither this module nor those of the methods import torch when they are loaded: `sgpo train --help` and the refusal of a
typo need their options alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sgpo.sizes import Default


@dataclass
class MethodOptions:
    """What is sampled of a problem, and how what was sampled is corrected. Defaults are the paper's (section 4)."""

    num_autonomous: int = field(default=8, metadata={"help": "G1: completions of the bare prompt."})
    num_guided: int = field(
        default=4,
        metadata={
            "help": "G2: completions with the strategy, or hints of scaf_grpo; other methods have G1 + G2 without."
        },
    )
    max_completion_length: int = field(
        default=Default(16384),
        metadata={"help": "Tokens of a completion; unset: half the context, if less."},
    )
    importance_cap: float | None = field(
        default=None,
        metadata={"help": "Weigh tokens by min(cap, pi_old / probability in the sampler); default: not at all."},
    )

    def refusals(self) -> Iterator[str]:
        """What is wrong with the values, one text each; a method's own options add theirs."""
        if self.num_autonomous < 2:
            yield "num_autonomous must be at least 2: an advantage compares completions of one group"
        if self.num_guided < 0:
            yield f"num_guided is {self.num_guided}; it must be 0 or positive"
        if self.importance_cap is not None and self.importance_cap <= 0:
            yield "importance_cap must be positive; leave it out for no correction"

    @property
    def num_samples(self) -> int:
        """G1 + G2."""
        return self.num_autonomous + self.num_guided


@dataclass
class ClipOptions(MethodOptions):
    """The clip range of the ratio, of methods with rows of the term ``surrogate``."""

    eps_low: float = field(default=0.2, metadata={"help": "Lower clip range (Eq. 1)."})
    eps_high: float = field(default=0.28, metadata={"help": "Upper clip range (Eq. 1)."})

    def refusals(self) -> Iterator[str]:
        yield from super().refusals()
        yield from negative(self, "eps_low", "eps_high")


def negative(options: Any, *names: str) -> Iterator[str]:
    """A refusal for each option that is below 0, or no number."""
    for name in names:
        if not getattr(options, name) >= 0:
            yield f"{name} is {getattr(options, name)}; it must be 0 or positive"


def without_ratios(options: MethodOptions) -> Iterator[str]:
    """A refusal for a method in whose loss no sampled completion has a ratio."""
    if options.importance_cap is not None:
        yield "importance_cap corrects ratios, and this method has none: leave it out"


def not_among(options: Any, choices: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A refusal for each option whose value is none of its choices."""
    for name, allowed in choices.items():
        if getattr(options, name) not in allowed:
            yield f"{name} is {getattr(options, name)!r}; choose one of {', '.join(allowed)}"
