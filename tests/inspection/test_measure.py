"""Measures of tokens against the engine's divergence, and against plain float64 ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sgpo.engine.projection import Head, token_divergences
from sgpo.engine.update import add_head_task
from sgpo.inspection.measure import TOP, answer_logprobs, measure_tokens
from sgpo.models.weights import load_weights

BARE, GUIDED, IDS = [5, 9, 40], [5, 60, 61, 62, 9, 40], [17, 30, 8, 52, 99, 41, 2]


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    model = load_weights(str(checkpoint))
    add_head_task(model)
    return model


@torch.no_grad()
def logprobs_of(model: Any, prompt: list[int]) -> torch.Tensor:
    """float64 [T, V]"""
    return model(torch.tensor([prompt + IDS])).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)


def test_measures_are_those_of_plain_distributions(model: Any) -> None:
    bare, guided = logprobs_of(model, BARE), logprobs_of(model, GUIDED)
    found = measure_tokens(model, BARE, GUIDED, IDS)
    expected = (guided.exp() * (guided - bare)).sum(-1)
    reverse = (bare.exp() * (bare - guided)).sum(-1)
    assert (expected - reverse).abs().max() > 0.01  # the direction matters here
    torch.testing.assert_close(found.divergence.double(), expected, atol=2e-5, rtol=1e-4)
    for side, logprobs in ((found.bare, bare), (found.guided, guided)):
        own = logprobs.gather(-1, torch.tensor(IDS).unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(side.logprobs.double(), own, atol=2e-5, rtol=1e-4)
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        torch.testing.assert_close(side.entropy.double(), entropy, atol=2e-5, rtol=1e-4)
        top = logprobs.exp().topk(TOP)
        assert torch.equal(side.top_ids, top.indices)
        torch.testing.assert_close(side.top_probs.double(), top.values, atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(answer_logprobs(model, BARE, IDS), found.bare.logprobs)


def test_the_divergence_is_that_of_training(model: Any) -> None:
    def hidden(prompt: list[int]) -> torch.Tensor:
        return model.base_model(torch.tensor([prompt + IDS])).last_hidden_state[0, len(prompt) - 1 : -1]

    with torch.no_grad():
        expected = token_divergences(hidden(BARE), hidden(GUIDED), Head.of(model))
    torch.testing.assert_close(measure_tokens(model, BARE, GUIDED, IDS).divergence, expected, atol=2e-5, rtol=1e-4)


def test_slices_change_nothing(model: Any) -> None:
    whole, sliced = (measure_tokens(model, BARE, GUIDED, IDS, slice_bytes=size) for size in (2**30, 1))
    torch.testing.assert_close(sliced.divergence, whole.divergence, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(sliced.guided.entropy, whole.guided.entropy)
    assert torch.equal(sliced.bare.top_ids, whole.bare.top_ids)


def test_a_head_with_scale_and_cap(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = model(torch.tensor([BARE + IDS])).logits[0, len(BARE) - 1 : -1].detach().double()
    monkeypatch.setattr(model.config, "logit_scale", 0.5, raising=False)
    monkeypatch.setattr(model.config, "final_logit_softcapping", 3.0, raising=False)
    expected = (3.0 * torch.tanh(0.5 * plain / 3.0)).log_softmax(-1)
    found = answer_logprobs(model, BARE, IDS)
    own = expected.gather(-1, torch.tensor(IDS).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found.double(), own, atol=2e-5, rtol=1e-4)


def test_without_a_strategy_nothing_changes(model: Any) -> None:
    assert torch.equal(measure_tokens(model, BARE, BARE, IDS).divergence, torch.zeros(len(IDS)))


def test_an_empty_answer_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="no token"):
        measure_tokens(model, BARE, GUIDED, [])
