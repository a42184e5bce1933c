"""What is measured of one update; docs/metrics.md describes every name. Means over nothing are left out, never NaN."""

from __future__ import annotations

from collections.abc import Sequence

from sgpo.training.means import Means
from sgpo.training.methods import Assembly
from sgpo.training.rollouts import ProblemRollouts, Rollout, TrainingSequence
from sgpo.verification import STATUSES, VerdictCounts


def group_metrics(groups: Sequence[ProblemRollouts], assembly: Assembly) -> Means:
    """Rewards, lengths and decisions of the problems of one update."""
    means = Means()
    _add_rollouts(means, "autonomous", [rollout for group in groups for rollout in group.autonomous])
    _add_rollouts(means, "guided", [rollout for group in groups for rollout in group.guided])
    _add_rollouts(means, "expert", [group.expert for group in groups if group.expert])
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
