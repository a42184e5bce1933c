"""Shared prefixes: loss and gradient are those of the plain rows, and each distinct token is computed once."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import peft
import pytest
import torch
from engine_cases import ARCHITECTURES, SMALL, THRESHOLDS, VOCABULARY, distance, gradients, make_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from sgpo.engine.batching import BatchLayout, computed_tokens, split_by_token_budget
from sgpo.engine.prefix_attention import NAME, can_share_prefixes, prefix_attention
from sgpo.engine.prefix_trie import PrefixTrie, TrieSegment, prefix_trie, segment_batches
from sgpo.engine.update import accumulate_gradients, add_head_task, completion_scores
from sgpo.methods.records import TrainingSequence

SOURCE = random.Random(0)


def ids(length: int) -> list[int]:
    return [SOURCE.randrange(1, VOCABULARY) for _ in range(length)]


def make_rows() -> list[TrainingSequence]:
    """All that rows may have in common: two problems of unequal prompts that begin alike, answers that begin alike, or
    are one the beginning of the other, or the same, a token each; and one that has nothing in common with any."""
    system, stem = ids(3), ids(4)
    prompts, teachers = [[*system, *ids(5)], [*system, *ids(2)]], [[*system, *ids(9)], [*system, *ids(6)]]
    found = []
    for prompt, teacher in zip(prompts, teachers, strict=True):
        answers = [ids(6), [*stem, *ids(7)], [*stem, *ids(1)], stem, stem, ids(1), ids(150)]
        for number, answer in enumerate(answers):
            weights = torch.linspace(-1, 2, len(answer)) / 60 if number % 2 else 0.03
            found.append(TrainingSequence("surrogate", prompt, answer, weights, entropy_bonus=0.002 * number))
            # Far from the policy: both sides of the clip are active.
            old = torch.linspace(-5.5, -2.0, len(answer))
            found.append(TrainingSequence("surrogate", prompt, answer, -0.02, old_logprobs=old))
            found.append(TrainingSequence("surrogate", prompt, answer, 0.03, old_logprobs=old))
        found += [
            TrainingSequence(term, prompt, answer, 0.1, teacher_prompt_ids=teacher)
            for term in ("distillation", "reverse_distillation", "target_likelihood")
            for answer in answers[:3]
        ]
    return [*found, TrainingSequence("likelihood", ids(4), ids(5), 0.02)]


ROWS = make_rows()
PLAIN = BatchLayout(max_tokens=400, pad_token_id=0)
SHARED = replace(PLAIN, share_prefixes=True)


def in_float64(model: Any) -> Any:
    """The model in float64, its norms too, which transformers computes in float32 whatever the model's type."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = _norm(module)
    return model.double()


def _norm(module: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: module.weight * x * (x.square().mean(-1, keepdim=True) + module.variance_epsilon).rsqrt()


def patched(model: Any) -> Any:
    add_head_task(model)
    return model


# --- loss and gradient --------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_tokens", [30, 400, 10_000])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loss_and_gradient_in_float64(name: str, max_tokens: int) -> None:
    model = patched(in_float64(make_model(name)))
    layout = BatchLayout(max_tokens, 0, share_prefixes=True)
    assert layout.for_rows(ROWS).share_prefixes
    expected_loss, expected = gradients(model, ROWS, layout=PLAIN)
    loss, found = gradients(model, ROWS, layout=layout)
    assert loss == pytest.approx(expected_loss, rel=1e-10)
    assert distance(found, expected) < 1e-10


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loss_and_gradient_in_float32(name: str) -> None:
    model = patched(make_model(name))
    expected_loss, expected = gradients(model, ROWS, layout=PLAIN)
    loss, found = gradients(model, ROWS, layout=SHARED)
    assert loss == pytest.approx(expected_loss, rel=3e-6)
    assert distance(found, expected) < 3e-6
    again_loss, again = gradients(model, ROWS, layout=SHARED)
    assert loss == again_loss
    assert all(torch.equal(one, two) for one, two in zip(found, again, strict=True))  # to the bit


@pytest.mark.parametrize("lora", [False, True])
def test_gradient_checkpointing_and_adapters(lora: bool) -> None:
    """Layers that run again in the backward pass have the same attention there."""
    model = in_float64(make_model("qwen3"))
    if lora:
        torch.manual_seed(1)
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        model = peft.get_peft_model(model, config)
    expected_loss, expected = gradients(patched(model), ROWS, layout=PLAIN)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    loss, found = gradients(model.train(), ROWS, layout=SHARED)
    assert loss == pytest.approx(expected_loss, rel=1e-10)
    assert distance(found, expected) < 1e-10
    assert len(found) == (8 if lora else len(list(model.parameters())))


def test_measures_are_those_of_the_plain_rows() -> None:
    model = patched(in_float64(make_model()))
    plain = accumulate_gradients(model, ROWS, PLAIN, THRESHOLDS)
    shared = accumulate_gradients(model, ROWS, SHARED, THRESHOLDS)
    assert shared.means == pytest.approx(plain.means, rel=1e-10)
    assert shared.means["clipped_share/high"] > 0.05
    assert shared.means["clipped_share/low"] > 0.05
    assert 0.02 < shared.means["divergence_masked_share"] < 0.98
    assert shared.tokens == plain.tokens


def test_scores_are_those_of_the_plain_rows() -> None:
    model = patched(in_float64(make_model("llama")))
    pairs = [(row.prompt_ids, row.completion_ids) for row in ROWS]
    for one, other in zip(completion_scores(model, pairs, PLAIN), completion_scores(model, pairs, SHARED), strict=True):
        assert torch.allclose(one.logprobs, other.logprobs, rtol=0, atol=1e-10)
        assert torch.allclose(one.entropies, other.entropies, rtol=0, atol=1e-10)


def test_each_token_goes_through_the_model_once() -> None:
    model = patched(make_model())
    seen: list[int] = []
    model.model.layers[0].mlp.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[:-1].numel()))
    prompt, stem = [1, 2, 3, 4], [5, 6]
    rows = [TrainingSequence("surrogate", prompt, [*stem, 7, 8], 1.0), TrainingSequence("surrogate", prompt, ids(3), 1)]
    targets = [replace(rows[0], term="distillation", teacher_prompt_ids=[9, *prompt]) for _ in range(2)]
    gradients(model, [*rows, *targets], layout=SHARED)
    # The teacher's prompt and 5 6 7, which both targets have; the prompt, then 5 6 7 and two others, for all rows: the
    # last token of a row predicts nothing.
    assert seen == [5 + 3, 4 + 3 + 2]


# --- which models, which batches ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_models_that_can(name: str) -> None:
    model = make_model(name)
    assert can_share_prefixes(model)
    assert can_share_prefixes(peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"])))


CANNOT = {
    "a window in some layers": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    ),
    "another architecture": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=4)),
    "another attention": lambda: LlamaForCausalLM._from_config(LlamaConfig(**SMALL), attn_implementation="eager"),
    "angles of the batch": lambda: LlamaForCausalLM(
        LlamaConfig(**SMALL, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    ),
    "code of one's own": lambda: type("Own", (LlamaForCausalLM,), {"__module__": "own"})(LlamaConfig(**SMALL)),
}


@pytest.mark.parametrize("name", CANNOT)
def test_models_that_cannot(name: str) -> None:
    model = patched(CANNOT[name]())
    assert not can_share_prefixes(model)
    with pytest.raises(ValueError, match=r"cannot share prefixes.*share_prefixes: false"):
        gradients(model, ROWS, layout=SHARED)


def test_the_model_is_as_before_after_an_error() -> None:
    model = patched(make_model())
    wrong = TrainingSequence("likelihood", [1, 2], [VOCABULARY + 1, 3], 1.0)
    with pytest.raises(IndexError, match="out of range"):
        gradients(model, [wrong, wrong], layout=SHARED)
    with prefix_attention(model):
        assert model.config._attn_implementation == NAME
    assert model.config._attn_implementation == "sdpa"


def test_shared_where_it_saves_a_tenth() -> None:
    """Four rows of p + 6 tokens: p + 24 against 4 p + 24."""

    def rows(prompt: int) -> list[TrainingSequence]:
        return [TrainingSequence("surrogate", [1] * prompt, [2 + n] * 6, 1.0) for n in range(4)]

    assert computed_tokens(rows(4), SHARED) == 28
    assert computed_tokens(rows(4), PLAIN) == 40
    assert SHARED.for_rows(rows(4)) == SHARED  # 28 / 40
    assert SHARED.for_rows(rows(1)) == SHARED  # 25 / 28 = 0.893
    few = [replace(row, completion_ids=row.completion_ids * 2) for row in rows(1)]
    assert SHARED.for_rows(few) == PLAIN  # 49 / 52
    assert PLAIN.for_rows(rows(4)) == PLAIN
    assert SHARED.for_rows([]).split([]) == []
    teacher = [replace(row, term="distillation", teacher_prompt_ids=[1] * 9) for row in rows(4)]
    assert computed_tokens(teacher, SHARED) == 28 + 33
    assert computed_tokens(teacher, PLAIN) == 40 + 60


# --- the trie -----------------------------------------------------------------------------------------------


def test_trie_by_hand() -> None:
    trie = prefix_trie([[1, 2, 3, 4], [1, 2, 3, 5, 6], [9]], cuts=[2, 2, 1])
    assert trie == PrefixTrie(
        input_ids=[1, 2, 3, 4, 5, 6, 9],
        position_ids=[0, 1, 2, 3, 3, 4, 0],
        paths=[[0, 1, 2, 3], [0, 1, 2, 4, 5], [6]],
        segments=[
            TrieSegment(0, [0, 1]),
            TrieSegment(2, [0, 1, 2, 3]),
            TrieSegment(3, [0, 1, 2, 4, 5]),
            TrieSegment(0, [6]),
        ],
    )


@pytest.mark.parametrize("small", [2, 128])
def test_each_query_sees_its_row_up_to_itself(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgpo.engine.prefix_trie.SMALL", small)
    rows = [[SOURCE.randrange(2) for _ in range(SOURCE.randint(1, 9))] for _ in range(40)]
    trie = prefix_trie(rows, [SOURCE.randint(1, len(row)) for row in rows])
    assert [[trie.input_ids[place] for place in path] for path in trie.paths] == rows
    assert len(trie.input_ids) == len({tuple(row[: end + 1]) for row in rows for end in range(len(row))})
    shared = segment_batches(trie, "cpu")
    assert len(shared.batches) == (1 if small == 128 else pytest.approx(7, abs=4))
    seen = [
        keys[mask[0, number]].tolist()
        for batch in shared.batches
        for keys, mask in zip(batch.keys, batch.mask, strict=True)
        for number in range(mask.shape[1])
    ]
    for path in trie.paths:
        for depth, place in enumerate(path):
            assert seen[int(shared.places[place])] == path[: depth + 1]


@pytest.mark.parametrize("max_tokens", [1, 40, 200, 400, 10_000])
def test_split_holds_the_budget_and_loses_nothing(max_tokens: int) -> None:
    parts = split_by_token_budget(ROWS, max_tokens, share_prefixes=True)
    assert sorted(id(row) for rows in parts for row in rows) == sorted(map(id, ROWS))
    for rows in parts:
        sides = [side for batch in SHARED.collate(rows, "cpu") for side in (batch.policy, batch.teacher)]
        sizes = [side.arguments["input_ids"].numel() for side in sides if side is not None]
        assert len(rows) == 1 or max(sizes) <= max_tokens
