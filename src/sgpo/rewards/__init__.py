"""Reward functions with TRL's signature, and what they say of completions: rewards, and which are correct.

functions   what a reward function is; `math_reward`
chosen      the functions of a run, their weights, and which of them say what is correct
scoring     calls them, and sums up
"""

from __future__ import annotations

from sgpo.rewards.chosen import VERIFIER, Rewards, choose_rewards
from sgpo.rewards.functions import Completion, RewardFunction, completion_text, load_reward, math_reward
from sgpo.rewards.scoring import Scores, reward_columns, score

__all__ = [
    "VERIFIER",
    "Completion",
    "RewardFunction",
    "Rewards",
    "Scores",
    "choose_rewards",
    "completion_text",
    "load_reward",
    "math_reward",
    "reward_columns",
    "score",
]
