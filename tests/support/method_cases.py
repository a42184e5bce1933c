"""Groups, and what methods decide about them, with little to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sgpo.methods.method import Method
from sgpo.methods.records import Decision, ProblemRollouts, Scorer, TokenScores, TrainingSequence, UpdateContext
from sgpo.methods.registry import options_from
from sgpo.problems import Problem
from sgpo.sampling.records import Rollout


def group_of(
    problem: Problem,
    prompt_ids: list[int],
    guided_prompt_ids: list[int] | None,
    autonomous: Sequence[Rollout],
    guided: Sequence[Rollout] = (),
    expert: Rollout | None = None,
) -> ProblemRollouts:
    prompts = {"autonomous": prompt_ids} | ({} if guided_prompt_ids is None else {"guided": guided_prompt_ids})
    groups = {"autonomous": list(autonomous)} | ({"guided": list(guided)} if guided else {})
    return ProblemRollouts(problem, prompts, groups, [] if expert is None else [expert])


@dataclass(frozen=True)
class Decided:
    """The decisions about the groups of one update."""

    decisions: list[Decision]

    @property
    def sequences(self) -> list[TrainingSequence]:
        return [row for decision in self.decisions for row in decision.rows]

    @property
    def alphas(self) -> list[float | None]:
        return [decision.alpha for decision in self.decisions]

    def metric(self, name: str) -> list[float | None]:
        return [decision.metrics.get(name) for decision in self.decisions]


def decided(
    method: Method,
    groups: Sequence[ProblemRollouts],
    options: Any,
    scorer: Scorer | None = None,
    *,
    num_problems: int | None = None,
    tokenizer: Any = None,
    system_prompt: str | None = None,
    state: dict[str, Any] | None = None,
) -> Decided:
    """As the trainer asks a method.

    Args:
        options: of the method, or the configuration of a run.
        state: instead of what a run begins with.
    """
    values = options_from(method, options) if hasattr(options, "method_options") else options
    given: dict[str, Any] = {} if scorer is None else {"policy": scorer}
    given |= {"state": method.state(values) if method.state and state is None else state or {}}
    context = UpdateContext(num_problems or len(groups), tokenizer=tokenizer, system_prompt=system_prompt, **given)
    return Decided(method.decide(groups, values, context))


def scores(logprobs: Sequence[float] | Tensor) -> TokenScores:
    values = torch.as_tensor(logprobs, dtype=torch.float64)
    return TokenScores(values, torch.zeros_like(values))


def weights_of(row: TrainingSequence) -> list[float]:
    """One for each token."""
    return torch.as_tensor(row.weights, dtype=torch.float64).expand(len(row.completion_ids)).tolist()
