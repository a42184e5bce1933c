"""Reward functions with TRL's signature, and their verdict on completions: rewards, and which are correct.

functions   what a reward function is; `math_reward`
chosen      the functions of a run, their weights, and which of them say what is correct
arguments   what a function gets
calling     calls, also asynchronous ones, and what a function logs
scoring     sums, and what is correct
rollouts    rollouts with their rewards
metrics     means of rewards for the log, and names that functions may not log under
"""

from __future__ import annotations

from sgpo.rewards.arguments import check_signatures, column_names, reward_columns
from sgpo.rewards.calling import Batch
from sgpo.rewards.chosen import VERIFIER, Rewards, choose_rewards
from sgpo.rewards.functions import Completion, RewardFunction, completion_text, load_reward, math_reward
from sgpo.rewards.scoring import Scores, score

__all__ = [
    "VERIFIER",
    "Batch",
    "Completion",
    "RewardFunction",
    "Rewards",
    "Scores",
    "check_signatures",
    "choose_rewards",
    "column_names",
    "completion_text",
    "load_reward",
    "math_reward",
    "reward_columns",
    "score",
]
