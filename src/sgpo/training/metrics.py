"""What is measured of one update; docs/metrics.md describes every name. Means over nothing are left out, never NaN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sgpo.training.means import Means
from sgpo.training.methods import Assembly
from sgpo.training.rollouts import ProblemRollouts, Rollout, TrainingSequence
from sgpo.verification import STATUSES, VerdictCounts

# What stands before the first slash of every name in docs/metrics.md; the prefixes are those of evaluations and totals.
OF_SAMPLES = ("reward", "rewards", "pass_rate", "length", "truncated", "surprisal", "zero_variance_share", "verdicts")
OF_METHODS = ("target_share", "alpha", "alpha_with_target", "imitated_share", "imitated_surprisal")
OF_DIVERGENCE = ("divergence", "divergence_masked_share")
OF_UPDATES = ("loss", "grad_norm", "skipped_updates", "learning_rate", "epoch", "step", "entropy", "clipped_share")
OF_TIME = ("sampler_mismatch", "seconds", "tokens_per_second", "total_flos")
OWN_NAMES = {*OF_SAMPLES, *OF_METHODS, *OF_DIVERGENCE, *OF_UPDATES, *OF_TIME}
OWN_PREFIXES = ("eval_", "train_")


def group_metrics(groups: Sequence[ProblemRollouts], assembly: Assembly) -> Means:
    """Rewards, lengths and decisions of the problems of one update."""
    means = Means()
    _add_rollouts(means, "autonomous", [rollout for group in groups for rollout in group.autonomous])
    _add_rollouts(means, "guided", [rollout for group in groups for rollout in group.guided])
    _add_rollouts(means, "expert", [group.expert for group in groups if group.expert])
    add_rewards(means, [r.rewards for group in groups for r in (*group.autonomous, *group.guided)])
    means.add("zero_variance_share", [len({r.reward for r in group.autonomous}) == 1 for group in groups])
    means.add("alpha", assembly.alphas)
    means.add("alpha_with_target", [a for a, has in zip(assembly.alphas, assembly.targets, strict=True) if has])
    means.add("target_share", assembly.targets)
    means.add("imitated_share", assembly.imitated)
    for group in groups:
        for rollout in group.autonomous:
            means.add("surprisal", [-logprob for logprob in rollout.sampler_logprobs or ()])
    return means


def _add_rollouts(means: Means, group: str, rollouts: Sequence[Rollout]) -> None:
    means.add(f"reward/{group}", [rollout.reward for rollout in rollouts])
    means.add(f"pass_rate/{group}", [rollout.correct for rollout in rollouts])
    means.add(f"length/{group}", [len(rollout.completion_ids) for rollout in rollouts])
    means.add(f"truncated/{group}", [rollout.truncated for rollout in rollouts])


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


def sampler_mismatch(rows: Sequence[TrainingSequence]) -> Means:
    """Mean absolute difference between the sampler's log-probabilities and those that training recomputed, nats."""
    means = Means()
    for row in rows:
        if row.old_logprobs is not None and row.sampler_logprobs is not None:
            pairs = zip(row.old_logprobs, row.sampler_logprobs, strict=True)
            means.add("sampler_mismatch", [abs(ours - theirs) for ours, theirs in pairs])
    return means


def verdict_metrics(counts: VerdictCounts) -> Means:
    """The share of each of the verifier's verdicts."""
    return Means({f"verdicts/{status}": (float(counts[status]), counts.total) for status in STATUSES})
