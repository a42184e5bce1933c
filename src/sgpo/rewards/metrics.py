"""What is measured of reward functions, and which names they may not log under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sgpo.means import Means

# What stands before the first slash of every name in docs/metrics.md; the prefixes are those of evaluations and totals.
OF_SAMPLES = ("reward", "rewards", "pass_rate", "length", "truncated", "surprisal", "zero_variance_share", "verdicts")
OF_TARGETS = ("target_share", "alpha", "alpha_with_target")
OF_OTHER_METHODS = ("imitated_share", "imitated_surprisal", "hinted_share", "hint_level", "taught_share")
OF_DIVERGENCE = ("divergence", "divergence_masked_share")
OF_UPDATES = ("loss", "grad_norm", "skipped_updates", "learning_rate", "epoch", "step", "entropy", "clipped_share")
OF_TIME = ("sampler_mismatch", "seconds", "tokens_per_second", "total_flos")
OWN_NAMES = {*OF_SAMPLES, *OF_TARGETS, *OF_OTHER_METHODS, *OF_DIVERGENCE, *OF_UPDATES, *OF_TIME}
OWN_PREFIXES = ("eval_", "train_")


def add_rewards(means: Means, rewards: Sequence[Mapping[str, float | None]]) -> None:
    """Mean and spread of each reward function over the completions to which it applies; TRL's names."""
    for name in dict.fromkeys(name for each in rewards for name in each):
        means.add_spread(f"rewards/{name}", [value for each in rewards if (value := each.get(name)) is not None])


def logged_metrics(logged: Mapping[str, Sequence[float]]) -> Means:
    """The mean of what reward functions gave to log_metric under each name.

    Raises:
        ValueError: a name under which something else is logged.
    """
    means = Means()
    for name, values in logged.items():
        if name.partition("/")[0] in OWN_NAMES or name.startswith(OWN_PREFIXES):
            raise ValueError(f"log_metric: {name!r} is a name of sgpo's own metrics; a reward function needs another")
        means.add(name, values)
    return means
