"""A method's loss and gradient, and the same formula written out in float64: full logits, one completion at a time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from engine_cases import LAYOUT, make_model
from method_cases import decided
from torch import Tensor

from sgpo.engine.update import accumulate_gradients, add_head_task, completion_scores
from sgpo.methods.records import ProblemRollouts, TokenScores, TrainingSequence
from sgpo.methods.registry import METHODS
from sgpo.methods.terms import Thresholds
from sgpo.sampling.records import Rollout

F64 = torch.float64


class Written:
    """What formulas are written with: nothing of the package but its records."""

    def __init__(self, policy: Any, old: Any, config: Any) -> None:
        self.policy, self.old, self.config = policy, old, config
        self.entropies: list[Tensor] = []
        self.seen: dict[str, list[float]] = {"divergence": [], "ratio": []}

    @staticmethod
    def distributions(model: Any, prompt: list[int], rollout: Rollout) -> Tensor:
        logits = model(torch.tensor([prompt + rollout.completion_ids])).logits[0]
        return logits[len(prompt) - 1 : -1].log_softmax(-1)

    def chosen(self, model: Any, prompt: list[int], rollout: Rollout) -> Tensor:
        return self.distributions(model, prompt, rollout)[range(len(rollout.completion_ids)), rollout.completion_ids]

    def ratio(self, group: ProblemRollouts, rollout: Rollout) -> Tensor:
        old = self.chosen(self.old, group.prompt_ids, rollout).detach()
        rho = (self.chosen(self.policy, group.prompt_ids, rollout) - old).exp()
        self.seen["ratio"] += rho.tolist()
        return rho

    @staticmethod
    def advantages(rewards: Sequence[float], std: bool) -> list[float]:
        mean = sum(rewards) / len(rewards)
        spread = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)) + 1e-6 if std else 1.0
        return [(r - mean) / spread for r in rewards]


def policies() -> tuple[Any, Any]:
    """The policy of a second update, and the one that sampled: ratios on both sides of both bounds."""
    old, policy = make_model(), make_model()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return policy, old


def ours(
    method: str,
    groups: list[ProblemRollouts],
    config: Any,
    deciding: dict[str, Any] | None = None,
    *,
    old_teacher: bool = False,
) -> tuple[float, list[Tensor]]:
    """Args:
    deciding: what of the context the method decides with is not the model that sampled.
    old_teacher: whether that model is on the fixed side of divergences.
    """
    policy, old = policies()
    for model in (policy, old):
        add_head_task(model)

    def scorer(pairs: Any) -> list[TokenScores]:
        return completion_scores(old, pairs, LAYOUT)

    def with_old(row: TrainingSequence) -> TrainingSequence:
        if not row.lacks_old_logprobs:
            return row
        return replace(row, old_logprobs=scorer([(row.prompt_ids, row.completion_ids)])[0].logprobs)

    rows = [
        with_old(row)
        for row in decided(METHODS[method], groups, config, **{"scorer": scorer, **(deciding or {})}).sequences
    ]
    found = accumulate_gradients(
        policy, rows, LAYOUT, Thresholds.of(config), teacher=old.requires_grad_(False) if old_teacher else None
    )
    return found.loss, [p.grad for p in policy.parameters() if p.grad is not None]


def expected(
    reference_class: Any, method: str, groups: list[ProblemRollouts], config: Any
) -> tuple[float, list[Tensor], Any]:
    """Args: reference_class: a `Written` with a method of that name, the loss of the groups."""
    policy, old = (copy.deepcopy(model).double() for model in policies())
    reference = reference_class(policy, old, config)
    loss: Callable[[list[ProblemRollouts]], Tensor] = getattr(reference, method)
    total = loss(groups)
    total.backward()
    return total.item(), [p.grad for p in policy.parameters() if p.grad is not None], reference
