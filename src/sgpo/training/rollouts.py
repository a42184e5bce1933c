"""The records of one training step, from what was sampled to what is optimised.

Rollout           one completion and its reward
ProblemRollouts   both groups of one problem
TrainingSequence  one row of the update: tokens, a loss term, one weight a token
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sgpo.problems import Problem


@dataclass(frozen=True)
class Rollout:
    """One sampled completion.

    Example: ``Rollout(completion_ids=[17, 4, 2], sampler_logprobs=[-0.1, -0.7, 0.0], truncated=False, reward=1.0)``
    """

    completion_ids: list[int]  # with the end-of-sequence token, unless truncated
    sampler_logprobs: list[float]  # log-probability of each token, full vocabulary, temperature 1, nats
    truncated: bool  # hit the length limit: reward 0, and never a distillation target
    reward: float = 0.0


@dataclass(frozen=True)
class ProblemRollouts:
    """What the policy answered to one problem: G1 autonomous rollouts and G2 guided ones."""

    problem: Problem
    prompt_ids: list[int]  # unguided prompt
    guided_prompt_ids: list[int] | None  # None if the problem has no strategy
    autonomous: list[Rollout]
    guided: list[Rollout] = field(default_factory=list)


@dataclass(frozen=True)
class TrainingSequence:
    """One row of the update. Its loss is ``sum_t weights[t] * term(token t)``; all normalisation is in the weights."""

    term: str  # a key of sgpo.training.objectives.TERMS
    prompt_ids: list[int]
    completion_ids: list[int]
    weights: list[float]  # one a completion token
    old_logprobs: list[float] | None = None  # log pi_old of each completion token; None: pi_old is the present policy
    teacher_prompt_ids: list[int] | None = None  # distillation: the prompt of the fixed side (with the strategy)
