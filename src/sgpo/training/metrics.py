"""What is measured of one update. Means over nothing are left out, never NaN."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sgpo.training.methods import Assembly
from sgpo.training.methods.base import pass_rate
from sgpo.training.rollouts import ProblemRollouts, Rollout, TrainingSequence
from sgpo.verification import TIMEOUT, VerdictCounts

logger = logging.getLogger(__name__)

MAX_TIMEOUT_SHARE = 0.05  # of a rollout batch's verdicts; more is warned of


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def group_metrics(groups: Sequence[ProblemRollouts], assembly: Assembly) -> dict[str, float]:
    """Rewards, lengths and decisions of the problems of one update."""
    autonomous = [rollout for group in groups for rollout in group.autonomous]
    guided = [rollout for group in groups for rollout in group.guided]
    equal = [len({rollout.reward for rollout in group.autonomous}) == 1 for group in groups]
    weighted = [alpha for alpha, has_target in zip(assembly.alphas, assembly.targets, strict=True) if has_target]
    values = {
        **_rollout_metrics("autonomous", autonomous),
        **_rollout_metrics("guided", guided),
        "zero_variance_share": mean([float(flag) for flag in equal]),
        "alpha": mean(assembly.alphas),
        "alpha_with_target": mean(weighted),
        "target_share": mean([float(flag) for flag in assembly.targets]),
    }
    return {name: value for name, value in values.items() if value is not None}


def sampler_mismatch(rows: Sequence[TrainingSequence]) -> dict[str, float]:
    """Mean absolute difference between the sampler's log-probabilities and those that training recomputed, nats."""
    differences = [
        abs(ours - theirs)
        for row in rows
        if row.old_logprobs is not None and row.sampler_logprobs is not None
        for ours, theirs in zip(row.old_logprobs, row.sampler_logprobs, strict=True)
    ]
    average = mean(differences)
    return {} if average is None else {"sampler_mismatch": average}


def verdict_metrics(counts: VerdictCounts) -> dict[str, float]:
    """The share of each verdict; warns of many time-outs, whose reward says nothing about the answer."""
    timeouts = counts["timeout"]
    if timeouts > MAX_TIMEOUT_SHARE * counts.total:
        logger.warning(
            "%d of %d answers of this step were not compared within the verifier's %g s (or its memory limit) and got "
            "no reward. If the machine is busy, leave the verifier some cores; if it is not, read the answers in the "
            "boxes: the policy may be learning to write what cannot be computed.",
            timeouts,
            counts.total,
            TIMEOUT,
        )
    return {f"verdicts/{status}": share for status, share in counts.shares().items()}


def _rollout_metrics(group: str, rollouts: Sequence[Rollout]) -> dict[str, float | None]:
    if not rollouts:
        return {}
    return {
        f"reward/{group}": mean([rollout.reward for rollout in rollouts]),
        f"pass_rate/{group}": pass_rate([rollout.reward for rollout in rollouts]),
        f"length/{group}": mean([float(len(rollout.completion_ids)) for rollout in rollouts]),
        f"truncated/{group}": mean([float(rollout.truncated) for rollout in rollouts]),
    }
