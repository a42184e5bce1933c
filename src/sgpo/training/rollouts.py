"""The records of one training step, from what was sampled to what is optimised.

Rollout           one completion, its reward, and whether it is correct
ProblemRollouts   both groups of one problem
TrainingSequence  one row of the update: tokens, a loss term, one weight a token
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sgpo.problems import Problem
from sgpo.rewards import Batch, Scores, reward_columns
from sgpo.training.objectives import TERMS


@dataclass(frozen=True)
class Rollout:
    """One sampled completion.

    Example: ``Rollout([17, 4, 2], [-0.1, -0.7, 0.0], truncated=False, reward=1.2, correct=True)``

    Raises:
        ValueError: a truncated completion that is called correct.
    """

    completion_ids: list[int]  # with the end-of-sequence token, unless truncated
    # Log-probability of each token, full vocabulary, temperature 1, nats; None where no engine sampled it.
    sampler_logprobs: list[float] | None
    truncated: bool  # hit the length limit: reward 0, and never a distillation target
    reward: float = 0.0  # the weighted sum of the reward functions, for advantages
    correct: bool = False  # what the correctness function says, for pass rates and targets
    rewards: Mapping[str, float | None] = field(default_factory=dict)  # of each function, None where it does not apply
    logged: Mapping[str, Any] = field(default_factory=dict)  # by reward functions, for the table of completions

    def __post_init__(self) -> None:
        if self.correct and self.truncated:
            raise ValueError("a truncated completion is not correct, whatever it says")


@dataclass(frozen=True)
class ProblemRollouts:
    """What the policy answered to one problem: G1 autonomous rollouts and G2 guided ones."""

    problem: Problem
    prompt_ids: list[int]  # unguided prompt
    guided_prompt_ids: list[int] | None  # None if the problem has no strategy
    autonomous: list[Rollout]
    guided: list[Rollout] = field(default_factory=list)
    expert: Rollout | None = None  # the strong model's response, for methods that learn from it

    @property
    def rollouts(self) -> list[Rollout]:
        """All of them: autonomous, guided, expert."""
        return [*self.autonomous, *self.guided, *([self.expert] if self.expert else [])]

    def with_rollouts(self, rollouts: Sequence[Rollout]) -> ProblemRollouts:
        """Others in the places of `rollouts`."""
        first, last = len(self.autonomous), len(self.autonomous) + len(self.guided)
        expert = rollouts[last] if self.expert else None
        return replace(self, autonomous=list(rollouts[:first]), guided=list(rollouts[first:last]), expert=expert)

    def row(self, term: str, rollout: Rollout, weight: float, *, entropy_bonus: float = 0.0) -> TrainingSequence:
        """All tokens of a rollout with the same weight, after the unguided prompt, with what the term computes with.

        The token ids are reused as they are, never decoded and encoded again. Raises KeyError for an unknown term.
        """
        return TrainingSequence(
            term=term,
            prompt_ids=self.prompt_ids,
            completion_ids=rollout.completion_ids,
            weights=[weight] * len(rollout.completion_ids),
            teacher_prompt_ids=self.guided_prompt_ids if TERMS[term].has_teacher else None,
            sampler_logprobs=rollout.sampler_logprobs if TERMS[term].has_ratio else None,
            entropy_bonus=entropy_bonus,
        )


@dataclass(frozen=True)
class TrainingSequence:
    """One row of the update. Its loss is ``sum_t weights[t] * term(token t)``; all normalisation is in the weights."""

    term: str  # a key of sgpo.training.objectives.TERMS
    prompt_ids: list[int]
    completion_ids: list[int]
    weights: list[float]  # one a completion token
    # Log pi_old of each completion token, of a term with a ratio; None: pi_old is the policy that samples.
    old_logprobs: list[float] | None = None
    teacher_prompt_ids: list[int] | None = None  # distillation: the prompt of the fixed side (with the strategy)
    sampler_logprobs: list[float] | None = None  # of a term with a ratio: those of the rollout, if an engine sampled it
    entropy_bonus: float = 0.0  # the entropy of each token times this is subtracted from the loss

    @property
    def contributes(self) -> bool:
        """Whether the row adds anything to the loss; one that does not costs no forward pass."""
        return any(self.weights) or self.entropy_bonus != 0

    @property
    def lacks_old_logprobs(self) -> bool:
        """Whether log pi_old is still to be computed, once the policy is no longer the one that sampled."""
        return TERMS[self.term].has_ratio and self.old_logprobs is None


def expert_rollout(problem: Problem, tokenizer: Any) -> Rollout | None:
    """The strong model's response as if the policy had written it, with the token that ends a completion."""
    if not problem.response:
        return None
    ids = response_ids(problem.response, tokenizer)
    return Rollout(ids, sampler_logprobs=None, truncated=False)


def response_ids(response: str, tokenizer: Any) -> list[int]:
    """The tokens of a completion with this text."""
    return [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def with_importance(row: TrainingSequence, cap: float) -> TrainingSequence:
    """Weights times min(cap, pi_old / pi_sampler) of each token: the sampling engine has not quite the same policy.

    By token, not by sequence: under nucleus sampling the ratio of a whole sequence is far from 1 whatever the engine. A
    row that no engine sampled, such as an expert's, stays as it is.
    """
    if row.sampler_logprobs is None or row.old_logprobs is None:
        return row
    ratios = [
        min(cap, math.exp(min(ours - theirs, 80.0)))
        for ours, theirs in zip(row.old_logprobs, row.sampler_logprobs, strict=True)
    ]
    return replace(row, weights=[weight * ratio for weight, ratio in zip(row.weights, ratios, strict=True)])


def decode(rollouts: Sequence[Rollout], tokenizer: Any) -> list[str]:
    """The texts of the completions, without special tokens."""
    if not rollouts:
        return []  # of nothing the tokenizer makes one empty text
    return tokenizer.batch_decode([rollout.completion_ids for rollout in rollouts], skip_special_tokens=True)


def reward_batch(
    rollouts: Sequence[Rollout],
    problems: Sequence[Problem],
    texts: Sequence[str],
    columns: Sequence[str],
    trainer_state: Any = None,
) -> Batch:
    """What reward functions are asked about; ``columns`` are those of the whole data set."""
    return Batch(
        [problem.prompt for problem in problems],
        texts,
        reward_columns(problems, columns),
        [rollout.completion_ids for rollout in rollouts],
        trainer_state,
    )


def with_scores(rollouts: Sequence[Rollout], scores: Scores) -> list[Rollout]:
    """The rollouts with what the reward functions say of them."""
    return [
        replace(
            rollout,
            reward=scores.rewards[place],
            correct=scores.correct[place],
            rewards={name: values[place] for name, values in scores.of_functions.items()},
            logged={name: values[place] for name, values in scores.columns.items()},
        )
        for place, rollout in enumerate(rollouts)
    ]
