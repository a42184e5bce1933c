"""The options of the methods: group sizes, and what enters the loss with which weight."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class MethodArguments:
    """Defaults are those of the paper (arXiv:2606.24064, section 4 and Appendix E)."""

    method: str = field(default="sgpo", metadata={"help": "What enters the loss: sgpo or grpo."})
    num_autonomous: int = field(default=8, metadata={"help": "G1: completions of the bare prompt."})
    num_guided: int = field(
        default=4,
        metadata={"help": "G2: completions with the strategy; grpo samples G1 + G2 autonomous ones."},
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
    target_score: str = field(
        default="sum",
        metadata={"help": "Target selection by the 'sum' of log-probabilities (Eq. 4), or their 'mean' a token."},
    )
    without_strategy: str = field(
        default="autonomous",
        metadata={"help": "A problem without a strategy gets G1 + G2 'autonomous' samples, or is left out: 'drop'."},
    )

    def check_method_arguments(self) -> None:
        """Raises ValueError for values that exclude each other."""
        choices = {
            "target_score": (self.target_score, ["sum", "mean"]),
            "without_strategy": (self.without_strategy, ["autonomous", "drop"]),
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; choose one of {', '.join(allowed)}")
        if self.num_autonomous < 2:
            raise ValueError("num_autonomous must be at least 2: an advantage compares completions of one group")
        if self.method == "sgpo" and self.num_guided < 1:
            raise ValueError("num_guided must be at least 1 for sgpo; without guided completions use method: grpo")
        if self.importance_cap is not None and self.importance_cap <= 0:
            raise ValueError("importance_cap must be positive; leave it out for no correction")
        if not self.delta > 0:
            raise ValueError("delta must be positive; for no clipping write delta: .inf")
        for name in ("eps_low", "eps_high", "alpha_scale", "alpha_max"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or positive")
        if not self.alpha_smoothing > 0:
            raise ValueError("alpha_smoothing must be positive: it divides where no autonomous completion is correct")
