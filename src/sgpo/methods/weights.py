"""From rewards and correctness to advantages, the adaptive weight and the target: pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sgpo.methods.terms import _at_least_float32
from sgpo.sampling.records import Rollout


def group_advantages(rewards: Tensor, *, std: bool = True) -> Tensor:
    """Advantage of each completion of one group (below Eq. 1), divided by its std or not. rewards [G] -> [G]"""
    rewards = _at_least_float32(rewards)
    if rewards.numel() < 2 or bool(rewards.max() == rewards.min()):
        return torch.zeros_like(rewards)
    centred = rewards - rewards.mean()
    return centred / (rewards.std(correction=1) + 1e-6) if std else centred


def adaptive_weight(p_auto: float, p_guide: float, *, a0: float = 0.5, gamma: float = 0.1, a_max: float = 0.8) -> float:
    """alpha of Eq. 6, from the share of correct completions in the autonomous and in the guided group."""
    for name, rate in (("p_auto", p_auto), ("p_guide", p_guide)):
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"{name} is a share of correct completions and lies in [0, 1], not {rate}")
    return min(max(a0 * (p_guide - p_auto + gamma) / (p_auto + gamma), 0.0), a_max)


def group_advantage_weight(target_reward: float, rewards: Sequence[float], *, a_max: float = 0.8) -> float:
    """Eq. 8 in place of Eq. 6: the target's advantage among the autonomous completions, clipped to 0..a_max."""
    merged = torch.tensor([target_reward, *rewards], dtype=torch.float64)
    return min(max(float(group_advantages(merged)[0]), 0.0), a_max)


def select_target(logprob_sums: Sequence[float]) -> int:
    """Eq. 4: index of the correct guided completion likeliest without the strategy; the first of equals.

    ``logprob_sums[j]`` is sum_t log pi(g_t | q, g_<t) of the j-th correct guided completion.
    """
    if not logprob_sums:
        raise ValueError("no correct guided completion to select from; a problem without one has no target")
    if any(math.isnan(total) for total in logprob_sums):
        raise ValueError(f"a log-probability is not a number: {list(logprob_sums)}")
    return max(range(len(logprob_sums)), key=lambda index: logprob_sums[index])


def select_target_per_token(logprob_sums: Sequence[float], lengths: Sequence[int]) -> int:
    """The option to Eq. 4: the mean over tokens in place of the sum, which favours short completions."""
    return select_target([total / length for total, length in zip(logprob_sums, lengths, strict=True)])


def pass_rate(rollouts: Sequence[Rollout]) -> float:
    """Share of the completions that are correct. An empty group has rate 0."""
    return sum(rollout.correct for rollout in rollouts) / len(rollouts) if rollouts else 0.0
