"""The update without trainer or sampler: for other architectures, precisions, adapters and memory savers."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import Any

import peft
import pytest
import torch
from engine_cases import (
    ARCHITECTURES,
    LAYOUT,
    SMALL,
    THRESHOLDS,
    VOCABULARY,
    distance,
    gradients,
    make_model,
    rollout_groups,
    sequences_for,
)
from method_cases import decided
from torch import Tensor
from transformers import (
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from sgpo.engine.batching import BatchLayout
from sgpo.engine.update import accumulate_gradients, add_head_task, completion_scores
from sgpo.methods.records import TrainingSequence
from sgpo.methods.registry import METHODS
from sgpo.methods.sgpo import SGPOOptions
from sgpo.sampling.records import Rollout


def reference_gradients(model: Any, sequences: list[TrainingSequence]) -> tuple[float, list[Tensor]]:
    """The plain model in float64, one row at a time, full logits."""
    model = copy.deepcopy(model).double()
    model.zero_grad()
    total: Any = 0.0
    for row in sequences:
        weights = torch.tensor(row.weights, dtype=torch.float64)
        completion = torch.tensor(row.completion_ids)

        def logprobs(prompt: list[int], row: TrainingSequence = row) -> Tensor:
            logits = model(torch.tensor([prompt + row.completion_ids])).logits[0]
            return logits[len(prompt) - 1 : -1].log_softmax(-1)

        policy = logprobs(row.prompt_ids)
        if row.teacher_prompt_ids is None:
            chosen = policy[range(len(completion)), completion]
            total = total - (weights * (chosen - chosen.detach()).exp()).sum()
        else:
            teacher = logprobs(row.teacher_prompt_ids).detach()
            divergence = (teacher.exp() * (teacher - policy)).sum(-1)
            total = total + (weights * (divergence <= THRESHOLDS.delta) * divergence).sum()
    total.backward()
    return total.item(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name: str, packed: bool) -> None:
    model = make_model(name)
    add_head_task(model)
    sequences = sequences_for(model)
    assert {row.term for row in sequences} == {"surrogate", "distillation"}
    loss, found = gradients(model, sequences, layout=BatchLayout(60, 0, packed))
    expected_loss, expected = reference_gradients(make_model(name), sequences)
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    assert distance(found, expected) < 2e-6


@pytest.mark.parametrize("packed", [False, True])
def test_any_budget_and_order_in_float32(packed: bool) -> None:
    model = make_model()
    add_head_task(model)
    sequences = sequences_for(model)
    _, expected = gradients(model, sequences, layout=BatchLayout(1, 0))
    for budget in (30, 60, 200, 10_000):
        shuffled = random.Random(budget).sample(sequences, len(sequences))
        _, found = gradients(model, shuffled, layout=BatchLayout(budget, 0, packed))
        assert distance(found, expected) < 1e-6


def test_gradient_checkpointing_changes_nothing() -> None:
    model = make_model().train()
    add_head_task(model)
    sequences = sequences_for(model)
    _, expected = gradients(model, sequences)
    calls: list[int] = []
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    _, found = gradients(model, sequences)
    assert distance(found, expected) < 1e-6
    surrogates = sum(row.term == "surrogate" for row in sequences)
    assert surrogates > 3
    assert len(calls) > 3  # the layer ran again in the backward pass


# Dropout of attention in attention modules; and OPT, whose layers call it themselves, with layers that are left out.
DROPOUT: dict[str, tuple[Any, Any, dict[str, float]]] = {
    "attention": (Qwen2ForCausalLM, Qwen2Config(**SMALL), {"attention_dropout": 0.5}),
    "layers": (
        OPTForCausalLM,
        OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=2,
            ffn_dim=32,
            num_attention_heads=2,
            max_position_embeddings=64,
            word_embed_proj_dim=16,
            init_std=0.3,
            dropout=0.0,
        ),
        {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5},
    ),
}


def make_dropout_model(name: str, *, active: bool, checkpointing: bool = False, lora: float | None = None) -> Any:
    """In train mode, with ``head_task``; the same weights whether or not dropout is configured."""
    model_class, config, rates = DROPOUT[name]
    config = copy.deepcopy(config)
    for rate, value in rates.items():
        setattr(config, rate, value if active else 0.0)
    torch.manual_seed(0)
    model = model_class(config)
    if lora is not None:
        rate = lora if active else 0.0
        targets = ["q_proj", "v_proj"]
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets, lora_dropout=rate))
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    add_head_task(model)
    return model.train()


@pytest.mark.parametrize("lora", [None, 0.5])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", DROPOUT)
def test_passes_are_without_dropout(name: str, checkpointing: bool, lora: float | None) -> None:
    """Teacher, old and current policy are one function: that of the same model without dropout."""
    model = make_dropout_model(name, active=True, checkpointing=checkpointing, lora=lora)
    plain = make_dropout_model(name, active=False, lora=lora)
    prompt, completion = [3, 1, 4], [15, 9, 2, 6, 5]
    (found,) = completion_scores(model, [(prompt, completion)], LAYOUT)
    assert torch.equal(found.logprobs, completion_scores(plain, [(prompt, completion)], LAYOUT)[0].logprobs)
    row = TrainingSequence("ratio", prompt, completion, 1.0, old_logprobs=found.logprobs)
    target = TrainingSequence("distillation", prompt, completion, 1.0, teacher_prompt_ids=prompt)
    other = TrainingSequence("distillation", prompt, completion, 1.0, teacher_prompt_ids=[7, 8, 9, 10])
    runs: list[int] = []
    layers = model.get_base_model() if lora is not None else model
    layers = layers.get_decoder().layers
    layers[0].self_attn.register_forward_hook(lambda *_: runs.append(1))
    assert accumulate_gradients(model, [row], LAYOUT, THRESHOLDS).loss == -5.0  # every ratio is 1, to the last bit
    assert len(runs) == 1 + checkpointing  # run again in the backward pass
    assert accumulate_gradients(model, [target], LAYOUT, THRESHOLDS).means["divergence"] == 0.0
    loss, mine = gradients(model, [row, other])
    expected_loss, expected = gradients(plain, [row, other])
    assert loss == expected_loss
    assert all(torch.equal(one, two) for one, two in zip(mine, expected, strict=True))


def test_modules_keep_their_modes() -> None:
    model = make_dropout_model("layers", active=True, checkpointing=True)
    model.get_decoder().layers[0].self_attn.eval()
    before = [module.training for module in model.modules()]
    functions = [layer._gradient_checkpointing_func for layer in model.get_decoder().layers]
    gradients(model, sequences_for(model))
    completion_scores(model, [([1, 2], [3])], LAYOUT)
    with pytest.raises(RuntimeError, match="index 40 is out of bounds"):
        completion_scores(model, [([1, 2], [VOCABULARY])], LAYOUT)
    assert [module.training for module in model.modules()] == before
    assert [layer._gradient_checkpointing_func for layer in model.get_decoder().layers] == functions


def test_checkpointing_of_another_kind_is_refused() -> None:
    model = make_model()
    add_head_task(model)
    model.model.gradient_checkpointing = True  # as code on the Hub from before transformers 4.35 does
    with pytest.raises(ValueError, match=r"^Qwen2Model checkpoints its activations in a way of its own.*leave activ"):
        gradients(model, sequences_for(model))


def test_bfloat16_autocast() -> None:
    model = make_model()
    add_head_task(model)
    sequences = sequences_for(model)
    _, expected = reference_gradients(model, sequences)
    _, found = gradients(model, sequences, context=lambda: torch.autocast("cpu", torch.bfloat16))
    assert all(gradient.dtype == torch.float32 for gradient in found)
    assert 1e-5 < distance(found, expected) < 0.05  # bfloat16 has 8 bits


def test_lora_trains_adapters_only() -> None:
    """The gradient of an adapter is that of the same model without our forward pass."""
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(1)
    model = peft.get_peft_model(make_model(), config)
    add_head_task(model)
    sequences = sequences_for(model.get_base_model())
    _, found = gradients(model, sequences)
    assert len(found) == 8  # A and B of two projections in two layers
    assert distance(found, reference_gradients(model, sequences)[1]) < 2e-6


def test_lora_on_the_head_is_refused() -> None:
    model = peft.get_peft_model(make_model("llama"), peft.LoraConfig(r=2, target_modules=["lm_head"]))
    with pytest.raises(ValueError, match="leave it out of adapters"):
        add_head_task(model)


def test_the_patched_model_is_otherwise_the_same() -> None:
    model = make_model().eval()
    ids = torch.tensor([[1, 2, 3]])
    before = model(ids).logits
    add_head_task(model)
    add_head_task(model)  # once more does nothing
    assert torch.equal(model(ids).logits, before)
    assert model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0).shape[1] <= 5
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.model.norm.weight.zero_()
    assert torch.equal(model(ids).logits, before)
    assert not torch.equal(twin(ids).logits, before)


def test_unselected_completions_and_equal_rewards_cost_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six forward passes: four rows of one group, the target and its teacher; not those of no use."""
    model = make_model()
    add_head_task(model)
    first, second = rollout_groups()
    equal = [Rollout(r.completion_ids, r.sampler_logprobs, False, 0.0) for r in second.autonomous]
    wrong = [Rollout(r.completion_ids, r.sampler_logprobs, False, 0.0) for r in second.guided]
    groups = [first, replace(second, groups={"autonomous": equal, "guided": wrong})]
    options = SGPOOptions(num_autonomous=4, num_guided=3)
    assembly = decided(METHODS["sgpo"], groups, options, lambda pairs: completion_scores(model, pairs, LAYOUT))
    rows: list[int] = []
    model.model.register_forward_hook(lambda *_: rows.append(1))
    accumulate_gradients(model, assembly.sequences, BatchLayout(1, 0), THRESHOLDS)
    assert len(rows) == 6
