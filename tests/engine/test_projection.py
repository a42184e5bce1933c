"""The sliced projection against full logits in float64, and against TRL's chunked functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM, PreTrainedModel
from trl.kernels import chunked_divergence

from sgpo.engine.projection import (
    Head,
    Projected,
    divergence_loss,
    jensen_shannon_loss,
    logprob_loss,
    token_scores,
)
from sgpo.engine.scores import BLOCK_BYTES_CPU
from sgpo.engine.update import add_head_task
from sgpo.methods.terms import distillation_loss, entropy, surrogate_loss, token_divergence, token_logprobs

F64 = torch.float64
TOKENS, HIDDEN, VOCABULARY = 37, 8, 50
DELTA = 1.2


class Case:
    """Random hidden states, a head and what the terms need; in float64 or lower."""

    def __init__(
        self,
        dtype: torch.dtype = F64,
        bias: bool = True,
        scale: float = 1.0,
        softcap: float | None = None,
        vocabulary: int = VOCABULARY,
    ) -> None:
        source = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=source, dtype=F64).to(dtype)

        self.hidden, self.teacher_hidden = draw(TOKENS, HIDDEN).requires_grad_(), draw(TOKENS, HIDDEN)
        self.weight = (0.5 * draw(vocabulary, HIDDEN)).detach().requires_grad_()
        self.bias = draw(vocabulary).requires_grad_() if bias else None
        self.head = Head(self.weight, self.bias, scale, softcap)
        self.ids = torch.randint(vocabulary, (TOKENS,), generator=source)
        self.old_logprobs, self.weights = draw(TOKENS) * 0.3 - 4, draw(TOKENS)
        self.bonus = torch.where(torch.arange(TOKENS) % 3 > 0, draw(TOKENS).abs(), 0.0)
        self.slice_bytes = 10 * vocabulary * max(4, dtype.itemsize)  # slices of 10, 10, 10 and 7 tokens

    @property
    def leaves(self) -> list[Tensor]:
        return [leaf for leaf in (self.hidden, self.weight, self.bias) if leaf is not None and leaf.requires_grad]

    def logits(self, hidden: Tensor) -> Tensor:
        logits = self.head.scale * nn.functional.linear(hidden, self.weight, self.bias)
        return logits if self.head.softcap is None else self.head.softcap * torch.tanh(logits / self.head.softcap)

    def surrogate(self, logprobs: Tensor, rows: slice = slice(None)) -> Tensor:
        return surrogate_loss(logprobs, self.old_logprobs[rows], self.weights[rows], eps_low=0.2, eps_high=0.28)

    def distillation(self, divergence: Tensor, rows: slice = slice(None)) -> Tensor:
        return distillation_loss(divergence, self.weights[rows].abs(), delta=DELTA)

    def reverse_divergence(self) -> Tensor:
        policy = self.logits(self.hidden).log_softmax(-1)
        teacher = self.logits(self.teacher_hidden).log_softmax(-1).detach()
        return (policy.exp() * (policy - teacher).masked_fill(policy == -torch.inf, 0.0)).sum(-1)

    def jensen_shannon(self) -> Tensor:
        policy, teacher = (self.logits(h).log_softmax(-1) for h in (self.hidden, self.teacher_hidden))
        teacher = teacher.detach()
        mean = ((policy.exp() + teacher.exp()) / 2).masked_fill(policy == -torch.inf, 1.0).log()
        sides = ((side, (side - mean).masked_fill(side == -torch.inf, 0.0)) for side in (policy, teacher))
        return sum((side.exp() * gaps).sum(-1) for side, gaps in sides) / 2

    def jensen_shannon_distillation(self, divergence: Tensor, rows: slice = slice(None)) -> Tensor:
        return distillation_loss(divergence, self.weights[rows].abs(), delta=0.25)


def sliced_jensen_shannon(case: Case) -> Projected:
    inputs = case.hidden, case.teacher_hidden, case.head, case.jensen_shannon_distillation
    return jensen_shannon_loss(*inputs, slice_bytes=case.slice_bytes)


def sliced_surrogate(case: Case) -> Projected:
    return logprob_loss(case.hidden, case.head, case.ids, case.surrogate, slice_bytes=case.slice_bytes)


def sliced_distillation(case: Case, reverse: bool = False) -> Projected:
    return divergence_loss(
        case.hidden,
        case.teacher_hidden,
        case.head,
        case.distillation,
        reverse=reverse,
        slice_bytes=case.slice_bytes,
    )


def full_surrogate(case: Case) -> Tensor:
    return case.surrogate(token_logprobs(case.logits(case.hidden), case.ids)).sum()


def full_distillation(case: Case) -> Tensor:
    return case.distillation(token_divergence(case.logits(case.teacher_hidden), case.logits(case.hidden))).sum()


def sliced_with_bonus(case: Case) -> Projected:
    return logprob_loss(
        case.hidden,
        case.head,
        case.ids,
        case.surrogate,
        entropy_bonus=case.bonus,
        slice_bytes=case.slice_bytes,
    )


def full_with_bonus(case: Case) -> Tensor:
    return full_surrogate(case) - (case.bonus * entropy(case.logits(case.hidden))).sum()


TERMS: dict[str, tuple[Callable[[Case], Projected], Callable[[Case], Tensor]]] = {
    "surrogate": (sliced_surrogate, full_surrogate),
    "surrogate with bonus": (sliced_with_bonus, full_with_bonus),
    "distillation": (sliced_distillation, full_distillation),
    "Jensen-Shannon divergence": (
        sliced_jensen_shannon,
        lambda case: case.jensen_shannon_distillation(case.jensen_shannon()).sum(),
    ),
    "reverse distillation": (
        lambda case: sliced_distillation(case, reverse=True),
        lambda case: case.distillation(case.reverse_divergence()).sum(),
    ),
}
HEADS: dict[str, dict[str, Any]] = {
    "plain": {"bias": False},
    "bias": {},
    "scale": {"scale": 1.5},
    "softcap": {"scale": 1.5, "softcap": 3.0},
}


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert expected.norm() > 1e-3
    assert (actual.to(F64) - expected.to(F64)).norm() <= tolerance * expected.to(F64).norm()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-13), (torch.float32, 1e-5)])
def test_loss_and_gradients_equal_full_logits(term: str, head: str, dtype: torch.dtype, tolerance: float) -> None:
    sliced, full = TERMS[term]
    case, exact = Case(dtype, **HEADS[head]), Case(F64, **HEADS[head])
    found, expected = sliced(case), full(exact)
    assert 0 < int((found.slope == 0).sum()) < TOKENS  # clipped or masked, and not
    assert_close(found.loss.detach(), expected.detach(), tolerance)
    # Scaled, so that the incoming gradient is not 1.
    gradients = torch.autograd.grad(2 * found.loss, case.leaves)
    for actual, reference in zip(gradients, torch.autograd.grad(2 * expected, exact.leaves), strict=True):
        assert_close(actual, reference, tolerance)


@pytest.mark.parametrize("kind", ["forward", "reverse", "Jensen-Shannon"])
def test_a_teacher_with_a_head_of_its_own(kind: str) -> None:
    case, other = Case(scale=1.5, softcap=3.0), Case(bias=False, scale=0.5)
    with torch.no_grad():
        other.weight.mul_(-2).add_(case.weight)
    policy = case.logits(case.hidden).log_softmax(-1)
    teacher = other.logits(case.teacher_hidden).log_softmax(-1).detach()
    mean = ((policy.exp() + teacher.exp()) / 2).log()
    both = (policy.exp() * (policy - mean) + teacher.exp() * (teacher - mean)) / 2
    one = {"forward": teacher.exp() * (teacher - policy), "reverse": policy.exp() * (policy - teacher)}
    expected = case.weights @ one.get(kind, both).sum(-1)
    sizes: dict[str, Any] = {"teacher_head": other.head, "slice_bytes": case.slice_bytes}
    inputs = case.hidden, case.teacher_hidden, case.head, lambda d, rows: case.weights[rows] * d
    if kind == "Jensen-Shannon":
        found = jensen_shannon_loss(*inputs, **sizes)
    else:
        found = divergence_loss(*inputs, reverse=kind == "reverse", **sizes)
    assert_close(found.loss.detach(), expected.detach(), 1e-13)
    gradients = torch.autograd.grad(found.loss, case.leaves)
    for actual, reference in zip(gradients, torch.autograd.grad(expected, case.leaves), strict=True):
        assert_close(actual, reference, 1e-12)


@pytest.mark.parametrize("term", ["surrogate with bonus", "distillation", "Jensen-Shannon divergence"])
def test_a_very_large_vocabulary(term: str) -> None:
    """That of Gemma 3: tokens in slices, and in each slice columns in blocks."""
    sliced, full = TERMS[term]
    sizes = {"bias": False, "softcap": 30.0, "vocabulary": 262_144}
    case, exact = Case(**sizes), Case(**sizes)
    assert case.slice_bytes >= 5 * BLOCK_BYTES_CPU
    found, expected = sliced(case), full(exact)
    assert_close(found.loss.detach(), expected.detach(), 1e-12)
    gradients = torch.autograd.grad(found.loss, case.leaves)
    for actual, reference in zip(gradients, torch.autograd.grad(expected, exact.leaves), strict=True):
        assert_close(actual, reference, 1e-12)


@pytest.mark.parametrize("term", TERMS)
def test_scores_and_entropy(term: str) -> None:
    case = Case()
    found = TERMS[term][0](case)
    logits = case.logits(case.hidden)
    expected = {
        "surrogate": token_logprobs(logits, case.ids),
        "surrogate with bonus": token_logprobs(logits, case.ids),
        "distillation": token_divergence(case.logits(case.teacher_hidden), logits),
        "reverse distillation": case.reverse_divergence(),
        "Jensen-Shannon divergence": case.jensen_shannon(),
    }[term]
    assert_close(found.score, expected.detach(), 1e-13)
    assert_close(found.entropy, entropy(logits).detach(), 1e-13)
    assert not found.score.requires_grad
    assert not found.entropy.requires_grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("term", TERMS)
def test_tokens_that_the_head_excludes(term: str, dtype: torch.dtype, tolerance: float) -> None:
    """A bias of -inf is a probability of 0: those tokens add nothing, neither to the values nor to the gradients."""
    case, exact = Case(dtype), Case(F64)
    excluded = torch.tensor([3, 17, VOCABULARY - 1])
    for each in (case, exact):
        assert each.bias is not None
        with torch.no_grad():
            each.bias[excluded] = -torch.inf
        each.ids[torch.isin(each.ids, excluded)] = 0
    sliced, full = TERMS[term]
    found, expected = sliced(case), full(exact)
    assert_close(found.loss.detach(), expected.detach(), tolerance)
    assert_close(found.entropy, entropy(exact.logits(exact.hidden)).detach(), tolerance)
    gradients = torch.autograd.grad(found.loss, case.leaves)
    for actual, reference in zip(gradients, torch.autograd.grad(expected, exact.leaves), strict=True):
        assert_close(actual, reference, tolerance)


# What the last logit of policy and teacher is, in float32: finite, of a probability that rounds to 0, and -inf.
FINITE, ROUNDED, INFINITE = 0.0, 2e-36, 10.0


@pytest.mark.parametrize(
    ("policy", "teacher", "infinite"),
    [
        (INFINITE, INFINITE, ()),
        (INFINITE, ROUNDED, ()),
        (ROUNDED, INFINITE, ()),
        (INFINITE, FINITE, ("forward",)),
        (FINITE, INFINITE, ("reverse",)),
    ],
)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_tokens_that_one_side_excludes(
    direction: str, policy: float, teacher: float, infinite: tuple[str, ...]
) -> None:
    """Against float64, in which the same logits are finite. The divergence is infinite only where it truly is."""
    weight = torch.tensor([[0.5, 0.0], [1.0, 0.0], [-0.25, -1e38]], requires_grad=True)
    hidden, teacher_hidden = torch.tensor([[1.0, policy]], requires_grad=True), torch.tensor([[2.0, teacher]])
    reverse = direction == "reverse"
    found = divergence_loss(hidden, teacher_hidden, Head(weight), lambda d, _: 2 * d, reverse=reverse)
    if direction in infinite:
        assert found.score.item() == found.loss.item() == torch.inf
        return
    leaves = [leaf.detach().double().requires_grad_() for leaf in (hidden, weight)]
    logprobs = (leaves[0] @ leaves[1].T).log_softmax(-1)
    others = (teacher_hidden.double() @ weight.detach().double().T).log_softmax(-1)
    first, second = (logprobs, others) if reverse else (others, logprobs)
    expected = 2 * (first.exp() * (first - second)).sum()
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.entropy.item() == pytest.approx(-(logprobs.exp() * logprobs).sum().item(), rel=1e-5)
    gradients = torch.autograd.grad(found.loss, [hidden, weight])
    for actual, reference in zip(gradients, torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(actual.double(), reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("policy", "teacher"), [(INFINITE, ROUNDED), (INFINITE, FINITE), (FINITE, INFINITE)])
def test_the_jensen_shannon_divergence_is_finite(policy: float, teacher: float) -> None:
    """Whatever one side excludes: against float64, in which the same logits are finite."""
    weight = torch.tensor([[0.5, 0.0], [1.0, 0.0], [-0.25, -1e38]], requires_grad=True)
    hidden, teacher_hidden = torch.tensor([[1.0, policy]], requires_grad=True), torch.tensor([[2.0, teacher]])
    found = jensen_shannon_loss(hidden, teacher_hidden, Head(weight), lambda d, _: 2 * d)
    sides = [(h.detach().double() @ weight.detach().double().T).log_softmax(-1) for h in (hidden, teacher_hidden)]
    mean = torch.logaddexp(*sides) - torch.tensor(2.0).log()
    assert found.loss.item() == pytest.approx(sum((s.exp() * (s - mean)).sum() for s in sides).item(), rel=1e-5)
    for gradient in torch.autograd.grad(found.loss, [hidden, weight]):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("broken", ["hidden", "teacher_hidden"])
def test_what_is_not_a_number_is_seen_in_the_divergence(broken: str, reverse: bool) -> None:
    case = Case()
    with torch.no_grad():
        getattr(case, broken)[1, 0] = torch.nan
    for found in (sliced_distillation(case, reverse), sliced_jensen_shannon(case)):
        assert found.score.isnan().tolist() == [token == 1 for token in range(TOKENS)]
        assert found.loss.isnan()


def test_scores_without_gradients() -> None:
    case = Case()
    found = token_scores(case.hidden, case.head, case.ids, slice_bytes=case.slice_bytes)
    assert_close(found.score, token_logprobs(case.logits(case.hidden), case.ids).detach(), 1e-13)
    assert not found.loss.requires_grad
    assert torch.count_nonzero(found.slope) == 0


@pytest.mark.parametrize("term", TERMS)
def test_slices_change_nothing(term: str) -> None:
    results = []
    for tokens in (1, 10, 1000):
        case = Case()
        case.slice_bytes = tokens * VOCABULARY * 8
        found = TERMS[term][0](case)
        results.append([found.loss.detach(), *torch.autograd.grad(found.loss, case.leaves)])
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            assert_close(actual, expected, 1e-13)


@pytest.mark.parametrize("term", TERMS)
def test_a_frozen_head_gets_no_gradient(term: str) -> None:
    """As with LoRA: the hidden states' gradient is the same, and no weight gradient is made."""
    case, frozen = Case(), Case()
    frozen.weight.requires_grad_(False)
    assert frozen.bias is not None
    frozen.bias.requires_grad_(False)
    (expected, *_) = torch.autograd.grad(TERMS[term][0](case).loss, case.leaves)
    (actual,) = torch.autograd.grad(TERMS[term][0](frozen).loss, frozen.leaves)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("term", TERMS)
def test_a_tied_head_adds_to_the_gradient_of_the_embedding(term: str) -> None:
    def gradient(full: bool) -> Tensor:
        case = Case(bias=False)
        case.hidden = torch.tanh(case.weight[case.ids])  # hidden states that come from the same matrix
        loss = TERMS[term][1](case) if full else TERMS[term][0](case).loss
        return torch.autograd.grad(loss, case.weight)[0]

    assert_close(gradient(full=False), gradient(full=True), 1e-13)


def test_tokens_without_gradient_cost_no_backward_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the backward products are the tokens within delta."""
    rows: list[int] = []
    original = torch.Tensor.addmm_

    def counted(total: Tensor, left: Tensor, right: Tensor, **kwargs: Any) -> Tensor:
        rows.append(right.shape[0])
        return original(total, left, right, **kwargs)

    monkeypatch.setattr(torch.Tensor, "addmm_", counted)
    case = Case()
    found = sliced_distillation(case)
    assert sum(rows) == int((found.score <= DELTA).sum()) < TOKENS
    rows.clear()
    case.weights.zero_()
    assert sliced_distillation(case).loss == 0
    assert rows == []


@pytest.mark.parametrize("term", TERMS)
def test_under_bfloat16_autocast(term: str) -> None:
    """The products are made in bfloat16 and all else in float32: as near to float64 as the plain path is."""
    sliced, full = TERMS[term]
    exact, case, plain = Case(F64), Case(torch.float32), Case(torch.float32)
    expected = torch.autograd.grad(full(exact), exact.leaves)
    with torch.autocast("cpu", torch.bfloat16):
        found = sliced(case)
        plain_gradients = torch.autograd.grad(full(plain), plain.leaves)
    gradients = torch.autograd.grad(found.loss, case.leaves)
    for actual, other, reference in zip(gradients, plain_gradients, expected, strict=True):
        assert actual.dtype == torch.float32
        error = (actual.to(F64) - reference).norm()
        assert error <= 1.5 * (other.to(F64) - reference).norm() + 1e-6


@pytest.mark.parametrize("reverse", [False, True])
def test_divergence_equals_trls(reverse: bool) -> None:
    case, other = Case(torch.float32, bias=False), Case(torch.float32, bias=False)
    found = divergence_loss(
        case.hidden, case.teacher_hidden, case.head, lambda d, rows: d * case.weights[rows], reverse=reverse
    )
    function = next(
        value for name, value in vars(chunked_divergence).items() if name.endswith("Function") and "Divergence" in name
    )
    divergence, _ = function.apply(
        other.hidden, other.weight, None, other.teacher_hidden, other.weight.detach(), None, float(reverse)
    )
    assert_close(found.score, divergence.detach(), 1e-5)
    expected = torch.autograd.grad((divergence * other.weights).sum(), other.leaves)
    for actual, reference in zip(torch.autograd.grad(found.loss, case.leaves), expected, strict=True):
        assert_close(actual, reference, 1e-5)


SMALL = {
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}
CAPPED: list[tuple[type[PreTrainedModel], Any]] = [
    (Gemma2ForCausalLM, Gemma2Config(**SMALL, final_logit_softcapping=2.0)),
    (GraniteForCausalLM, GraniteConfig(**SMALL, logits_scaling=4.0)),
]


@pytest.mark.parametrize(("model_class", "config"), CAPPED)
def test_what_a_model_does_to_its_logits_is_done_here_too(model_class: type[PreTrainedModel], config: Any) -> None:
    torch.manual_seed(0)
    model: Any = model_class(config).to(F64).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30)
    add_head_task(model)
    ids = torch.tensor([[3, 14, 15, 9, 2, 6]])
    scores = model(ids[:, :-1], head_task=lambda hidden, head: token_scores(hidden[0], head, ids[0, 1:]))
    expected = token_logprobs(model(ids[:, :-1]).logits[0], ids[0, 1:])
    assert_close(scores.score, expected.detach(), 1e-12)


def test_a_head_that_is_no_linear_layer_is_refused() -> None:
    class Adapter(nn.Module):
        weight = nn.Parameter(torch.zeros(3, 3))

    model: Any = GraniteForCausalLM(GraniteConfig(**SMALL))
    model.set_output_embeddings(Adapter())
    with pytest.raises(ValueError, match="head is a Adapter, not an ordinary linear layer: leave it out of adapters"):
        add_head_task(model)
