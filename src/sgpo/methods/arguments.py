"""The options of the methods: group sizes, and what enters the loss with which weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sgpo.errors import Refusals
from sgpo.sizes import Default


@dataclass
class MethodArguments:
    """Defaults are those of the paper (arXiv:2606.24064, section 4 and Appendix E)."""

    method: str = field(
        default="sgpo", metadata={"help": "What enters the loss: sgpo, grpo, luffy, hpt, or path/to/file.py:METHOD."}
    )
    num_autonomous: int = field(default=8, metadata={"help": "G1: completions of the bare prompt."})
    num_guided: int = field(
        default=4,
        metadata={"help": "G2: completions with the strategy; other methods have G1 + G2 without."},
    )
    max_completion_length: int = field(
        default=Default(16384),
        metadata={"help": "Tokens of a completion; unset: half the context, if less."},
    )
    eps_low: float = field(default=0.2, metadata={"help": "Lower clip range of the ratio (Eq. 1)."})
    eps_high: float = field(default=0.28, metadata={"help": "Upper clip range of the ratio (Eq. 1)."})
    importance_cap: float | None = field(
        default=None,
        metadata={"help": "Weigh tokens by min(cap, pi_old / probability in the sampler); default: not at all."},
    )
    delta: float = field(default=1.0, metadata={"help": "Tokens of larger divergence are left out (Eq. 5), nats."})
    alpha_scale: float = field(default=0.5, metadata={"help": "a0 of the adaptive weight (Eq. 6)."})
    alpha_smoothing: float = field(default=0.1, metadata={"help": "gamma of the adaptive weight (Eq. 6)."})
    alpha_max: float = field(default=0.8, metadata={"help": "a_max of the adaptive weight (Eq. 6)."})
    alpha_rule: str = field(
        default="pass_rate",
        metadata={"help": "'pass_rate' (Eq. 6), 'fixed', or the target's 'group_advantage' (Eq. 8)."},
    )
    alpha_fixed: float = field(default=1.0, metadata={"help": "The weight of alpha_rule: fixed."})
    target_selection: str = field(
        default="sum",
        metadata={"help": "g+ by the 'sum' of log-probabilities (Eq. 4) or their 'mean' a token; or 'all' (Eq. 2)."},
    )
    distillation: str = field(
        default="forward_kl",
        metadata={"help": "'forward_kl' (Eq. 3), 'reverse_kl', or 'likelihood': SFT on the target's tokens."},
    )
    train_autonomous: bool = field(
        default=True, metadata={"help": "Whether the autonomous group enters the loss of sgpo."}
    )
    without_strategy: str = field(
        default="autonomous",
        metadata={"help": "A problem without a strategy gets G1 + G2 'autonomous' samples, or is left out: 'drop'."},
    )

    normalization: str = field(
        default="authors",
        metadata={"help": "luffy and hpt: as their 'authors' weigh tokens, or as 'grpo' does here."},
    )
    entropy_coefficient: float = field(default=0.001, metadata={"help": "Entropy bonus of luffy and hpt."})
    hpt_gate: float = field(
        default=0.0, metadata={"help": "hpt imitates the expert where the pass rate is at most this."}
    )
    hpt_sft_coefficient: float = field(default=1.0, metadata={"help": "Weight of hpt's imitation of the expert."})

    def check_method_arguments(self) -> None:
        """Raises ValueError for values that exclude each other, all of them in one."""
        refusals = Refusals()
        refusals.add(self._refusals_of_method())
        refusals.refuse()

    def _refusals_of_method(self) -> Iterator[str]:
        choices = {
            "alpha_rule": (self.alpha_rule, ["pass_rate", "fixed", "group_advantage"]),
            "target_selection": (self.target_selection, ["sum", "mean", "all"]),
            "distillation": (self.distillation, ["forward_kl", "reverse_kl", "likelihood"]),
            "without_strategy": (self.without_strategy, ["autonomous", "drop"]),
            "normalization": (self.normalization, ["authors", "grpo"]),
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                yield f"{name} is {value!r}; choose one of {', '.join(allowed)}"
        yield from self._refusals_of_groups()
        if self.importance_cap is not None and self.importance_cap <= 0:
            yield "importance_cap must be positive; leave it out for no correction"
        if not self.delta > 0:
            yield "delta must be positive; for no clipping write delta: .inf"
        if not self.hpt_gate < 1:
            yield f"hpt_gate is {self.hpt_gate}; it is a pass rate and must be below 1"
        not_negative = ("eps_low", "eps_high", "alpha_scale", "alpha_max", "alpha_fixed")
        for name in (*not_negative, "entropy_coefficient", "hpt_gate", "hpt_sft_coefficient"):
            if not getattr(self, name) >= 0:
                yield f"{name} is {getattr(self, name)}; it must be 0 or positive"
        if not self.alpha_smoothing > 0:
            yield "alpha_smoothing must be positive: it divides where no autonomous completion is correct"

    def _refusals_of_groups(self) -> Iterator[str]:
        if self.num_autonomous < 2:
            yield "num_autonomous must be at least 2: an advantage compares completions of one group"
        if self.num_guided < 0:
            yield f"num_guided is {self.num_guided}; it must be 0 or positive"
        elif self.method == "sgpo" and self.num_guided < 1:
            yield "num_guided must be at least 1 for sgpo; without guided completions use method: grpo"
        elif self.method == "luffy" and self.num_autonomous + self.num_guided < 3:
            yield "luffy has one completion less than the others: G1 + G2 must be at least 3"
