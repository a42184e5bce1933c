"""Every method's loss and gradient against docs/method.md in float64: full logits, one completion at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from engine_cases import LAYOUT, distance
from group_cases import LONGEST, rollout_groups
from loss_cases import F64, Written, expected, ours, policies
from method_cases import decided
from torch import Tensor

from sgpo.engine.update import accumulate_gradients, add_head_task
from sgpo.methods.records import ProblemRollouts
from sgpo.methods.registry import METHODS
from sgpo.methods.sgpo import SGPOOptions
from sgpo.methods.terms import Thresholds
from sgpo.sampling.records import Rollout

DELTA = 0.4


class Reference(Written):
    """The formulas of docs/method.md."""

    # SGPO and its ablations

    def sgpo(self, groups: list[ProblemRollouts]) -> Tensor:
        total = torch.zeros((), dtype=F64)
        for group in groups:
            total = total - self.clipped_objective(group) * self.config.train_autonomous
            correct = [rollout for rollout in group.guided if rollout.correct]
            alpha = self.alpha(group, len(correct)) if correct else 0.0
            if not alpha:
                continue
            sums = [self.chosen(self.old, group.prompt_ids, g).sum().item() for g in correct]
            means = [s / len(g.completion_ids) for s, g in zip(sums, correct, strict=True)]
            targets = {
                "sum": [correct[sums.index(max(sums))]],
                "mean": [correct[means.index(max(means))]],
                "all": correct,
            }[self.config.target_selection]
            total = total + alpha * torch.stack([self.distilled(group, g) for g in targets]).mean()
        return total / len(groups)

    def clipped_objective(self, group: ProblemRollouts) -> Tensor:
        advantages = self.advantages([o.reward for o in group.autonomous], std=True)
        total = torch.zeros((), dtype=F64)
        for advantage, rollout in zip(advantages, group.autonomous, strict=True):
            rho = self.ratio(group, rollout)
            total = total + torch.minimum(rho * advantage, rho.clamp(0.8, 1.28) * advantage).mean()
        return total / len(group.autonomous)

    def alpha(self, group: ProblemRollouts, correct: int) -> float:
        solved = [float(o.correct) for o in group.autonomous]
        if self.config.alpha_rule == "fixed":
            return self.config.alpha_fixed
        if self.config.alpha_rule == "group_advantage":
            return min(max(self.advantages([1.0, *solved], std=True)[0], 0.0), 0.8)
        p_auto, p_guide = sum(solved) / len(solved), correct / len(group.guided)
        return min(max(0.5 * (p_guide - p_auto + 0.1) / (p_auto + 0.1), 0.0), 0.8)

    def distilled(self, group: ProblemRollouts, target: Rollout) -> Tensor:
        teacher = self.distributions(self.policy, group.prompts["guided"], target).detach()
        student = self.distributions(self.policy, group.prompt_ids, target)
        forward = (teacher.exp() * (teacher - student)).sum(-1)
        reverse = (student.exp() * (student - teacher)).sum(-1)
        likelihood = -self.chosen(self.policy, group.prompt_ids, target)
        kind = self.config.distillation
        measured = reverse if kind == "reverse_kl" else forward
        self.seen["divergence"] += measured.tolist()
        loss = {"forward_kl": forward, "reverse_kl": reverse, "likelihood": likelihood}[kind]
        return (loss * (measured.detach() <= self.config.delta)).mean()

    # LUFFY and HPT

    def luffy(self, groups: list[ProblemRollouts]) -> Tensor:
        total = torch.zeros((), dtype=F64)
        for group in groups:
            mixed = [*group.autonomous, *group.experts]
            total = total + self.unclipped(group, mixed, len(groups))
        return total - self.bonus(groups)

    def hpt(self, groups: list[ProblemRollouts]) -> Tensor:
        total, experts = torch.zeros((), dtype=F64), []
        for group in groups:
            correct = sum(rollout.correct for rollout in group.autonomous)
            if group.experts and correct / len(group.autonomous) <= self.config.hpt_gate:
                experts.append(-self.chosen(self.policy, group.prompt_ids, group.experts[0]))
                self.measure_entropy(group, group.experts[0], 1, len(groups))
            else:
                total = total + self.unclipped(group, group.autonomous, len(groups))
        if experts and self.config.normalization == "authors":
            total = total + self.config.hpt_sft_coefficient * torch.cat(experts).mean()
        elif experts:
            total = total + self.config.hpt_sft_coefficient * sum(e.mean() for e in experts) / len(groups)
        return total - self.bonus(groups)

    def unclipped(self, group: ProblemRollouts, rollouts: Sequence[Rollout], problems: int) -> Tensor:
        authors = self.config.normalization == "authors"
        total = torch.zeros((), dtype=F64)
        advantages = self.advantages([o.reward for o in rollouts], std=not authors)
        for advantage, rollout in zip(advantages, rollouts, strict=True):
            if rollout in group.experts:
                p = self.chosen(self.policy, group.prompt_ids, rollout).exp()
                values = p / (p + 0.1)
            else:
                values = self.ratio(group, rollout)
            share = 1 / LONGEST if authors else 1 / (problems * len(rollouts) * len(rollout.completion_ids))
            total = total - advantage * values.sum() * share
            self.measure_entropy(group, rollout, len(rollouts), problems)
        return total

    def measure_entropy(self, group: ProblemRollouts, rollout: Rollout, count: int, problems: int) -> None:
        logprobs = self.distributions(self.policy, group.prompt_ids, rollout)
        of_tokens = -(logprobs.exp() * logprobs).sum(-1)
        authors = self.config.normalization == "authors"
        self.entropies.append(of_tokens if authors else of_tokens.mean() / (count * problems))

    def bonus(self, groups: list[ProblemRollouts]) -> Tensor:
        authors = self.config.normalization == "authors"
        entropy = torch.cat(self.entropies).mean() if authors else torch.stack(self.entropies).sum()
        return self.config.entropy_coefficient * entropy


SGPO_VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "no clipping": {"delta": math.inf},
    "mean target score": {"target_selection": "mean"},
    "no selection": {"target_selection": "all"},
    "no constraints": {"target_selection": "all", "delta": math.inf},
    "fixed weight": {"alpha_rule": "fixed", "alpha_fixed": 1.0},
    "group advantage": {"alpha_rule": "group_advantage"},
    "no autonomous": {"train_autonomous": False},
    "reverse": {"distillation": "reverse_kl"},
    "reverse, no clipping": {"distillation": "reverse_kl", "delta": math.inf},
    "likelihood": {"distillation": "likelihood"},
    "likelihood, no mask": {"distillation": "likelihood", "delta": math.inf},
}


@pytest.mark.parametrize("variant", SGPO_VARIANTS)
def test_sgpo_and_its_ablations(variant: str) -> None:
    config = SGPOOptions(num_autonomous=4, num_guided=3, **{"delta": DELTA, **SGPO_VARIANTS[variant]})
    loss, gradients = ours("sgpo", rollout_groups(), config)
    expected_loss, expected_gradients, reference = expected(Reference, "sgpo", rollout_groups(), config)
    assert loss == pytest.approx(expected_loss, rel=2e-6, abs=1e-6)
    assert distance(gradients, expected_gradients) < 3e-6
    # Guards: both sides of every bound occur.
    if math.isfinite(config.delta):
        assert {d <= config.delta for d in reference.seen["divergence"]} == {True, False}
    ratios = reference.seen["ratio"]
    assert min(ratios) < 0.8
    assert max(ratios) > 1.28


def test_the_variants_differ() -> None:
    """Guards the test above: no option is without effect."""
    losses = {
        name: ours("sgpo", rollout_groups(), SGPOOptions(num_autonomous=4, num_guided=3, **{"delta": DELTA, **how}))
        for name, how in SGPO_VARIANTS.items()
    }
    names = sorted(losses)
    for number, name in enumerate(names):
        for other in names[:number]:
            assert distance(losses[name][1], losses[other][1]) > 1e-3, (name, other)


@pytest.mark.parametrize("normalization", ["authors", "grpo"])
@pytest.mark.parametrize(("method", "options"), [("luffy", {}), ("hpt", {}), ("hpt", {"hpt_gate": 0.25})])
@pytest.mark.parametrize("experts", [True, False])
def test_luffy_and_hpt(method: str, options: dict[str, Any], normalization: str, experts: bool) -> None:
    config = METHODS[method].options(
        num_autonomous=4,
        num_guided=1,
        max_completion_length=LONGEST,
        normalization=normalization,
        entropy_coefficient=0.2,
        **({"hpt_sft_coefficient": 0.7} if method == "hpt" else {}),
        **options,
    )
    groups = rollout_groups(experts)
    loss, gradients = ours(method, groups, config)
    expected_loss, expected_gradients, _ = expected(Reference, method, groups, config)
    assert loss == pytest.approx(expected_loss, rel=2e-6, abs=1e-6)
    assert distance(gradients, expected_gradients) < 3e-6


@pytest.mark.parametrize("method", ["luffy", "hpt"])
def test_without_experts_it_is_grpo_without_clipping(method: str) -> None:
    sizes: dict[str, Any] = {"num_autonomous": 4, "num_guided": 1}
    unclipped: dict[str, Any] = {"normalization": "grpo", "entropy_coefficient": 0.0}
    of_methods = {method: METHODS[method].options(**sizes, **unclipped), "grpo": METHODS["grpo"].options(**sizes)}
    policy, _ = policies()
    add_head_task(policy)

    def gradients(name: str) -> list[Tensor]:
        policy.zero_grad()
        rows = decided(METHODS[name], rollout_groups(experts=False), of_methods[name]).sequences
        accumulate_gradients(policy, rows, LAYOUT, Thresholds(1.0, math.inf, 1.0))
        return [p.grad.clone() for p in policy.parameters() if p.grad is not None]

    assert distance(gradients(method), gradients("grpo")) < 1e-6


@pytest.mark.parametrize("gate", [0.0, 0.25])
def test_hpt_imitates_where_the_pass_rate_is_at_most_the_gate(gate: float) -> None:
    options = METHODS["hpt"].options(num_autonomous=4, num_guided=0, hpt_gate=gate)
    assembly = decided(METHODS["hpt"], rollout_groups(), options)
    assert assembly.metric("imitated_share") == [gate > 0, True, False, gate > 0, False]
    terms = [row.term for row in assembly.sequences]
    assert terms.count("likelihood") == (3 if gate else 1)
    assert terms.count("ratio") == 4 * (2 if gate else 4)
