from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sgpo.methods.terms import (
    TERMS,
    Thresholds,
    Tokens,
    clipped_surrogate,
    distillation_loss,
    divergence_mask,
    entropy,
    surrogate_loss,
    token_divergence,
    token_logprobs,
)
from sgpo.methods.weights import adaptive_weight, group_advantages, select_target

F64 = torch.float64
PAPER = Thresholds(eps_low=0.2, eps_high=0.28, delta=1.0)


def close(actual: Tensor, expected: Tensor | list[float], tolerance: float = 1e-12) -> None:
    expected = torch.as_tensor(expected, dtype=F64)
    torch.testing.assert_close(actual.detach().to(F64), expected, rtol=0, atol=tolerance)


def test_advantages_by_hand() -> None:
    # mean 1/4, squared deviations 9/16 + 3/16 = 3/4, unbiased variance 1/4, std 1/2
    advantages = group_advantages(torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=F64))
    close(advantages, [0.75 / 0.500001, -0.25 / 0.500001, -0.25 / 0.500001, -0.25 / 0.500001])


@pytest.mark.parametrize("rewards", [[0.0] * 8, [1.0] * 8, [0.1] * 7, [1 / 3] * 3, [0.7], []])
def test_equal_rewards_have_exactly_no_advantage(rewards: list[float]) -> None:
    assert group_advantages(torch.tensor(rewards)).tolist() == [0.0] * len(rewards)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),  # gradient with respect to the log-probability
    [
        (1.0, 2.0, 2.0, 2.0),
        (1.0, -2.0, -2.0, -2.0),
        (1.27, 2.0, 2.54, 2.54),  # within the upper bound, beyond 1 + eps_low
        (1.5, 2.0, 2.56, 0.0),  # above, good token: clipped at 1.28
        (1.5, -2.0, -3.0, -3.0),  # above, bad token: the pessimistic side is not clipped
        (0.5, 2.0, 1.0, 1.0),  # below, good token: not clipped
        (0.5, -2.0, -1.6, 0.0),  # below, bad token: clipped at 0.8
        (0.81, -2.0, -1.62, -1.62),
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_surrogate_by_hand(ratio: float, advantage: float, value: float, gradient: float) -> None:
    logprobs = torch.tensor([math.log(ratio) - 1.5], dtype=F64, requires_grad=True)
    surrogate = clipped_surrogate(logprobs, torch.tensor([-1.5], dtype=F64), torch.tensor([advantage], dtype=F64))
    (actual_gradient,) = torch.autograd.grad(surrogate.sum(), logprobs)
    close(surrogate, [value])
    close(actual_gradient, [gradient])


def test_surrogate_scales_with_a_positive_factor() -> None:
    logprobs = torch.linspace(-2, 0, 9, dtype=F64)
    old_logprobs = torch.full_like(logprobs, -1.0)
    advantages = torch.tensor([-1.0, 2.0, -0.5] * 3, dtype=F64)
    scaled = surrogate_loss(logprobs, old_logprobs, advantages / 24, eps_low=0.2, eps_high=0.28)
    close(scaled, -clipped_surrogate(logprobs, old_logprobs, advantages) / 24, 1e-15)


def test_divergence_is_forward_kl_by_hand() -> None:
    teacher = torch.tensor([[0.9, 0.1]], dtype=F64).log()
    policy = torch.tensor([[0.5, 0.5]], dtype=F64).log()
    close(token_divergence(teacher, policy), [0.9 * math.log(1.8) + 0.1 * math.log(0.2)])  # 0.368064
    close(token_divergence(policy, teacher), [0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(5.0)])  # 0.510826


def test_divergence_gradient_is_policy_minus_teacher() -> None:
    teacher = torch.randn(5, 11, dtype=F64, generator=torch.manual_seed(0))
    policy = torch.randn(5, 11, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(token_divergence(teacher, policy).sum(), policy)
    close(gradient, policy.softmax(-1) - teacher.softmax(-1))


def test_divergence_to_itself_is_zero_with_zero_gradient() -> None:
    logits = (3 * torch.randn(6, 50, dtype=F64, generator=torch.manual_seed(1))).requires_grad_()
    divergence = token_divergence(logits, logits)
    (gradient,) = torch.autograd.grad(divergence.sum(), logits)
    assert divergence.tolist() == [0.0] * 6
    close(gradient, torch.zeros(6, 50), 1e-15)


def test_teacher_side_gets_no_gradient() -> None:
    parameter = torch.randn(4, 9, dtype=F64, generator=torch.manual_seed(2)).requires_grad_()
    divergence = token_divergence(parameter * 2, parameter.detach())
    assert not divergence.requires_grad
    shared = token_divergence(parameter * 2, parameter).sum()
    (gradient,) = torch.autograd.grad(shared, parameter)
    close(gradient, (parameter.softmax(-1) - (parameter * 2).softmax(-1)).detach())


@pytest.mark.parametrize("sides", [(math.nan, 0.0), (0.0, math.nan)])
def test_a_distribution_that_is_not_a_number_is_seen_in_the_divergence(sides: tuple[float, float]) -> None:
    teacher, policy = (torch.tensor([[side, 1.0, -math.inf]]) for side in sides)
    assert token_divergence(teacher, policy).isnan().all()


@pytest.mark.parametrize("excluded", [-1e4, -math.inf])
def test_divergence_where_the_teacher_excludes_a_token(excluded: float) -> None:
    teacher = torch.tensor([[0.0, 0.0, excluded]])
    policy = torch.tensor([[0.0, 0.0, 0.0]], requires_grad=True)
    divergence = token_divergence(teacher, policy)
    (gradient,) = torch.autograd.grad(divergence.sum(), policy)
    close(divergence, [math.log(1.5)], 1e-6)
    close(gradient, [[-1 / 6, -1 / 6, 1 / 3]], 1e-6)


def test_divergence_where_both_exclude_a_token() -> None:
    logits = torch.tensor([[1.0, 0.0, -math.inf]])
    policy = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    (gradient,) = torch.autograd.grad(token_divergence(logits, policy).sum(), policy)
    p = math.e / (1 + math.e)
    close(gradient, [[0.5 - p, 0.5 - (1 - p), 0.0]], 1e-6)


def test_half_precision_is_computed_in_float32() -> None:
    logits = torch.randn(3, 1000, generator=torch.manual_seed(3)).bfloat16()
    other = torch.randn(3, 1000).bfloat16()
    ids = torch.tensor([1, 10, 100])
    for actual, exact in [
        (token_divergence(other, logits), token_divergence(other.double(), logits.double())),
        (token_logprobs(logits, ids), token_logprobs(logits.double(), ids)),
        (entropy(logits), entropy(logits.double())),
    ]:
        assert actual.dtype == torch.float32
        assert exact.dtype == F64
        close(actual, exact, 1e-5)


def test_mask_keeps_divergences_up_to_delta() -> None:
    divergence = torch.tensor([0.0, 0.5, 1.0, 1.0000001, 7.0, math.inf], requires_grad=True)
    mask = divergence_mask(divergence, 1.0)
    assert mask.tolist() == [True, True, True, False, False, False]
    assert not mask.requires_grad
    assert divergence_mask(divergence, math.inf).all()


def test_masked_tokens_add_nothing_and_keep_the_denominator() -> None:
    divergence = torch.tensor([0.25, 3.0, 1.0, math.inf], dtype=F64, requires_grad=True)
    loss = distillation_loss(divergence, torch.full((4,), 0.5 / 4, dtype=F64), delta=1.0)
    (gradient,) = torch.autograd.grad(loss.sum(), divergence)
    close(loss, [0.03125, 0.0, 0.125, 0.0])
    close(gradient, [0.125, 0.0, 0.125, 0.0])


def test_a_divergence_that_is_not_a_number_is_not_hidden() -> None:
    assert distillation_loss(torch.tensor([0.1, math.nan]), torch.ones(2), delta=1.0).sum().isnan()


ALPHA = {  # p_auto: alpha for p_guide = 0.25, 0.5, 0.75, 1.0
    0.0: [0.8, 0.8, 0.8, 0.8],
    0.125: [0.5, 0.8, 0.8, 0.8],
    0.25: [0.142857, 0.5, 0.8, 0.8],
    0.375: [0.0, 0.236842, 0.5, 0.763158],
    0.5: [0.0, 0.083333, 0.291667, 0.5],
    0.75: [0.0, 0.0, 0.058824, 0.205882],
    1.0: [0.0, 0.0, 0.0, 0.045455],
}


@pytest.mark.parametrize("p_auto", ALPHA)
def test_adaptive_weight_table(p_auto: float) -> None:
    p_guide = torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=F64)
    actual = adaptive_weight(torch.full_like(p_guide, p_auto), p_guide)
    assert actual.tolist() == pytest.approx(ALPHA[p_auto], abs=5e-7)


def test_adaptive_weight_is_the_formula_to_the_letter() -> None:
    none, half, whole = torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    assert adaptive_weight(none, none) == 0.5
    assert float(adaptive_weight(half, whole, a0=0.3, gamma=0.2, a_max=1.0)) == pytest.approx(0.3, abs=1e-12)
    assert adaptive_weight(none, whole, a_max=2.0) == 2.0


@pytest.mark.parametrize("rates", [(-0.1, 0.5), (0.5, 1.1), (math.nan, 0.5), (0.5, math.nan)])
def test_adaptive_weight_refuses_what_is_not_a_rate(rates: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="lies in"):
        adaptive_weight(*torch.tensor(rates))


def test_target_selection() -> None:
    sums = torch.tensor([-9.0, -4.0, -6.0, -4.0])
    assert select_target(sums) == 1  # the first of equals
    assert select_target(sums / torch.tensor([9, 2, 12, 4])) == 2  # means -1, -2, -0.5, -1
    with pytest.raises(ValueError, match="no correct guided completion"):
        select_target(torch.tensor([]))
    with pytest.raises(ValueError, match="not a number"):
        select_target(torch.tensor([-1.0, math.nan]))


def test_logprobs_and_entropy_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.8, 0.0]], dtype=F64).log() + 3.0
    logits.requires_grad_()
    close(token_logprobs(logits, torch.tensor([0, 1])), [math.log(0.5), math.log(0.8)])
    values = entropy(logits)
    close(values, [1.5 * math.log(2), -0.2 * math.log(0.2) - 0.8 * math.log(0.8)])
    (gradient,) = torch.autograd.grad(values.sum(), logits)  # -p (log p + H)
    probs = logits.detach().softmax(-1)
    close(gradient, -probs * (probs.log().masked_fill(probs == 0, 0.0) + values.detach().unsqueeze(-1)))


@dataclass
class ToyProblem:
    """Logits in place of a model: what each side would say along each completion."""

    rewards: list[float]
    logits: list[Tensor]  # autonomous completions, [|o_i|, V] each
    ids: list[Tensor]
    old_logprobs: list[Tensor]
    guided_rewards: list[float]
    guided_ids: list[Tensor]
    unguided_logits: list[Tensor]  # policy side along the guided completions, [|g_j|, V]
    teacher_logits: list[Tensor]

    def leaves(self) -> list[Tensor]:
        return self.logits + self.unguided_logits + self.teacher_logits


VOCABULARY = 7
REWARDS = [  # autonomous, guided
    ([1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0]),
    ([0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0]),  # equal rewards: no advantage, but a target
    ([1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0]),  # no correct guided completion
    ([1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0]),  # nothing in the loss: equal rewards, alpha = 0
]


def toy_batch(seed: int, dtype: torch.dtype = F64) -> list[ToyProblem]:
    generator = torch.Generator().manual_seed(seed)

    def logits(length: int, scale: float) -> Tensor:
        return scale * torch.randn(length, VOCABULARY, dtype=F64, generator=generator)

    def ids(length: int) -> Tensor:
        return torch.randint(VOCABULARY, (length,), generator=generator)

    def leaf(values: Tensor) -> Tensor:
        return values.clone().to(dtype).requires_grad_()

    problems = []
    for rewards, guided_rewards in REWARDS:
        autonomous = [logits(length, 1.0) for length in (3, 5, 1, 6)]
        unguided = [logits(length, 1.0) for length in (4, 6, 5)]
        problems.append(
            ToyProblem(
                rewards=rewards,
                logits=[leaf(rows) for rows in autonomous],
                ids=[ids(len(rows)) for rows in autonomous],
                old_logprobs=[(0.2 * logits(len(rows), 1.0)[:, 0] - 2.0).to(dtype) for rows in autonomous],
                guided_rewards=guided_rewards,
                guided_ids=[ids(len(rows)) for rows in unguided],
                unguided_logits=[leaf(rows) for rows in unguided],
                teacher_logits=[leaf(rows + logits(len(rows), 1.6)) for rows in unguided],
            )
        )
    return problems


def reference_probabilities(row: Tensor) -> list[Tensor]:
    exponentials = [torch.exp(entry) for entry in row]
    return [value / sum(exponentials) for value in exponentials]


def reference_objective(problem: ToyProblem, counts: Counter[str]) -> Tensor:
    """J of one problem."""
    group = len(problem.rewards)
    mean = sum(problem.rewards) / group
    std = math.sqrt(sum((reward - mean) ** 2 for reward in problem.rewards) / (group - 1))
    objective = torch.zeros((), dtype=F64)
    for i, reward in enumerate(problem.rewards):
        advantage = (reward - mean) / (std + 1e-6)
        for t, chosen_id in enumerate(problem.ids[i].tolist()):
            rho = reference_probabilities(problem.logits[i][t])[chosen_id] / problem.old_logprobs[i][t].exp()
            clipped = rho if 0.8 <= rho <= 1.28 else torch.full_like(rho, 1.28 if rho > 1.28 else 0.8)
            counts["high"] += bool(rho > 1.28 and advantage > 0)
            counts["low"] += bool(rho < 0.8 and advantage < 0)
            options = rho * advantage, clipped * advantage
            objective = objective + min(options, key=Tensor.item) / len(problem.ids[i]) / group
    return objective


def reference_distillation(problem: ToyProblem, counts: Counter[str]) -> Tensor:
    """alpha L_KD of one problem."""
    correct = [j for j, reward in enumerate(problem.guided_rewards) if reward == 1]
    distillation = torch.zeros((), dtype=F64)
    if not correct:
        return distillation
    p_auto, p_guide = sum(problem.rewards) / len(problem.rewards), len(correct) / len(problem.guided_rewards)
    alpha = 0.5 * (p_guide - p_auto + 0.1) / (p_auto + 0.1)
    alpha = 0.0 if alpha < 0 else 0.8 if alpha > 0.8 else alpha
    likelihoods = {}
    for j in correct:
        tokens = zip(problem.unguided_logits[j], problem.guided_ids[j].tolist(), strict=True)
        likelihoods[j] = math.prod(reference_probabilities(row)[k].item() for row, k in tokens)
    target = max(likelihoods, key=lambda j: likelihoods[j])
    for teacher_row, row in zip(problem.teacher_logits[target], problem.unguided_logits[target], strict=True):
        fixed = [value.item() for value in reference_probabilities(teacher_row)]
        policy = reference_probabilities(row)
        d = sum(p * (math.log(p) - torch.log(q)) for p, q in zip(fixed, policy, strict=True))
        counts["kept" if d <= 1.0 else "masked"] += 1
        if d <= 1.0:
            distillation = distillation + d / len(problem.guided_ids[target])
    return alpha * distillation


def reference_loss(problems: list[ToyProblem], counts: Counter[str]) -> Tensor:
    """The loss written out token by token and entry by entry, sharing no code with the package."""
    losses = [reference_distillation(p, counts) - reference_objective(p, counts) for p in problems]
    return torch.stack(losses).sum() / len(problems)


def weighted_sum_loss(problems: list[ToyProblem], *, alpha_factor: float = 1.0) -> Tensor:
    """The same through the package: weights first, then a sum over tokens of the terms."""
    loss = torch.zeros((), dtype=problems[0].logits[0].dtype)
    for problem in problems:
        advantages = group_advantages(torch.tensor(problem.rewards, dtype=F64)).tolist()
        for advantage, logits, ids, old_logprobs in zip(
            advantages, problem.logits, problem.ids, problem.old_logprobs, strict=True
        ):
            weight = advantage / (len(problems) * len(problem.rewards) * len(ids))
            logprobs, weights = token_logprobs(logits, ids), torch.full_like(old_logprobs, weight)
            loss = loss + TERMS["surrogate"].loss(Tokens(logprobs, weights, old_logprobs), PAPER)[0].sum()
        correct = [j for j, reward in enumerate(problem.guided_rewards) if reward == 1]
        if not correct:
            continue
        sums = [token_logprobs(problem.unguided_logits[j], problem.guided_ids[j]).sum() for j in correct]
        target = correct[select_target(torch.stack(sums).detach())]
        p_auto = sum(problem.rewards) / len(problem.rewards)
        p_guide = len(correct) / len(problem.guided_rewards)
        alpha = alpha_factor * float(adaptive_weight(*torch.tensor([p_auto, p_guide], dtype=F64)))
        divergence = token_divergence(problem.teacher_logits[target], problem.unguided_logits[target])
        weights = torch.full_like(divergence, alpha / (len(problems) * len(divergence)))
        loss = loss + TERMS["distillation"].loss(Tokens(divergence, weights), PAPER)[0].sum()
    return loss


def gradients(loss: Tensor, problems: list[ToyProblem]) -> list[Tensor]:
    leaves = [leaf for problem in problems for leaf in problem.leaves()]
    return list(torch.autograd.grad(loss, leaves, materialize_grads=True))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-10), (torch.float32, 1e-5)])
def test_loss_and_gradients_equal_the_reference(seed: int, dtype: torch.dtype, tolerance: float) -> None:
    counts: Counter[str] = Counter()
    exact_problems, problems = toy_batch(seed), toy_batch(seed, dtype)
    exact, actual = reference_loss(exact_problems, counts), weighted_sum_loss(problems)
    assert all(counts[case] for case in ("high", "low", "kept", "masked")), f"a case is missing: {counts}"
    close(actual, exact.detach(), tolerance)
    exact_gradients = gradients(exact, exact_problems)
    for actual_gradient, exact_gradient in zip(gradients(actual, problems), exact_gradients, strict=True):
        close(actual_gradient, exact_gradient, tolerance)
    # Not vacuous: the tolerance is far below the size of what is compared.
    assert max(gradient.abs().max() for gradient in exact_gradients) > 1e-2


def test_alpha_zero_is_grpo_on_the_same_completions() -> None:
    problems, grpo_problems = toy_batch(0), toy_batch(0)
    for problem in grpo_problems:
        problem.guided_rewards = [0.0] * len(problem.guided_rewards)
    without, grpo = weighted_sum_loss(problems, alpha_factor=0.0), weighted_sum_loss(grpo_problems)
    assert without.item() == grpo.item() != weighted_sum_loss(problems).item()
    for left, right in zip(gradients(without, problems), gradients(grpo, grpo_problems), strict=True):
        assert torch.equal(left, right)


def test_zero_weights_give_exactly_no_gradient() -> None:
    problem = toy_batch(0)[0]
    logits, ids, old_logprobs = problem.logits[3], problem.ids[3], problem.old_logprobs[3]
    zeros = torch.zeros_like(old_logprobs)
    policy, teacher = logits.log_softmax(-1), problem.teacher_logits[1].log_softmax(-1)
    scores = {
        "logprob": token_logprobs(logits, ids),
        "divergence": token_divergence(problem.teacher_logits[1], logits),
        "reverse_divergence": (policy.exp() * (policy - teacher)).sum(-1),
        "jensen_shannon": (policy.exp() * (policy - torch.logaddexp(policy, teacher))).sum(-1),  # one side's part
    }
    for term in TERMS.values():
        tokens = Tokens(scores[term.score], zeros, old_logprobs, torch.zeros_like(zeros) if term.masked else None)
        loss = term.loss(tokens, PAPER)[0].sum()
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert loss.item() == 0.0
        assert torch.count_nonzero(gradient) == 0
