"""Each formula against numbers worked out by hand, and those of memory against what PyTorch keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from sgpo.methods.registry import METHODS
from sgpo.models.checkpoint import count_parameters
from sgpo.planning import memory, work
from sgpo.planning.devices import Assumptions, GpuSpecs, Machine
from sgpo.planning.memory import MicroBatchSize, TrainedAs
from sgpo.planning.shapes import KNOWN, LINEAR, ModelShape, shape_from

# Heads of 4: Q 8, K 4. A layer has 480 weights in matrices, 16 in biases, 16 in norms; the table has 80.
TINY = ModelShape(2, 8, 2, 1, 12, 10, tied=True, qkv_bias=True)
FULL, SHORT = TrainedAs(TINY, bf16=False), TrainedAs(TINY, bf16=True)
LORA = TrainedAs(TINY, bf16=False, rank=2, targets=("q_proj", "v_proj"))


def test_parameters() -> None:
    assert (TINY.layer_parameters, TINY.parameters, TINY.multiplying) == (512, 2 * 512 + 88, 2 * 512 + 80)
    assert ModelShape(2, 8, 2, 1, 12, 10, False, False).parameters == 2 * 496 + 168
    assert TINY.adapter_parameters(2, ("q_proj", "v_proj")) == 2 * (2 * 16 + 2 * 12)


def test_parameters_of_the_papers_models() -> None:
    found = {name.partition("/")[2]: shape.parameters for name, shape in KNOWN.items()}
    assert found == {  # of the checkpoints on the Hub
        "Qwen2.5-0.5B-Instruct": 494_032_768,
        "Qwen2.5-1.5B-Instruct": 1_543_714_304,
        "Qwen2.5-7B-Instruct": 7_615_616_512,
        "Llama-3.1-8B-Instruct": 8_030_261_248,
    }


SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 88,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def model_of(kind: str, layers: int, targets: tuple[str, ...] = ()) -> Any:
    config, made = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}[kind]
    model = made(config(num_hidden_layers=layers, tie_word_embeddings=kind == "qwen2", **SIZES))
    return get_peft_model(model, LoraConfig(r=2, target_modules=list(targets))).eval() if targets else model


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_a_shape_has_the_parameters_of_its_model(kind: str) -> None:
    model = model_of(kind, 3)
    shape = shape_from(model.config)
    assert shape.parameters == count_parameters(model.config) == sum(p.numel() for p in model.parameters())
    adapted = model_of(kind, 3, LINEAR)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert shape.adapter_parameters(2, LINEAR) == trained


def test_a_shape_of_another_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="plans are for the architectures qwen2 and llama, not for gemma"):
        shape_from(type("Config", (), {"model_type": "gemma"}))


# --- memory -------------------------------------------------------------------------------------------------


def test_weights_gradients_and_moments() -> None:
    assert [part(FULL) for part in (memory.weights, memory.gradients, memory.moments)] == [4448, 4448, 8896]
    short = TrainedAs(TINY, bf16=True, rank=2, targets=("q_proj", "v_proj"))
    assert [part(short) for part in (memory.weights, memory.gradients, memory.moments)] == [4 * 112 + 2224, 448, 896]
    assert (memory.short_copies(FULL), memory.short_copies(SHORT), memory.short_copies(short)) == (0, 2224, 224)


def test_what_a_layer_keeps() -> None:
    assert memory.kept_of_a_layer(FULL, 5, masked=False) == 136 + 112 + 104 + 144
    assert memory.kept_of_a_layer(FULL, 5, masked=True) == 136 + 112 + 156 + 144
    assert memory.kept_of_a_layer(SHORT, 5, masked=False) == 136 + 2 * (40 + 12) + 2 * 24 + 8 + 72
    assert memory.kept_of_a_layer(LORA, 5, masked=False) == 72 + 48 + 104 + 144
    assert memory.activations(FULL, 10, 5, masked=False, checkpointing=False) == 2 * 496 * 10
    assert memory.activations(FULL, 10, 5, masked=False, checkpointing=True) == 2 * 32 * 10 + 4960


def test_projection_work_and_cache() -> None:
    assert memory.projection(FULL, 6, divergence=False) == 240 + 6 * 8 * 8 + 320
    assert memory.projection(FULL, 6, divergence=True) == 480 + 6 * 8 * 12 + 320
    assert memory.projection(SHORT, 6, divergence=False) == 240 + 6 * 8 * 8 + 320 + 160
    assert memory.projection(LORA, 6, divergence=False) == 240 + 6 * 8 * 8
    assert memory.backward_work(FULL, 6) == 6 * (96 + 32)
    assert (memory.cache_of_a_token(FULL), memory.cache_of_a_token(SHORT)) == (2 * 4 * 8, 2 * 4 * 6)


def test_the_parts_of_an_update() -> None:
    batch = MicroBatchSize(rows=2, prompt=2, completion=3)
    kept = 2 * 548 * 10 + 10 * 8 * 12
    assert memory.update_parts(FULL, batch) == {
        "weights": 4448,
        "gradients": 4448,
        "Adam's moments": 8896,
        "activations": kept,
        "work of the backward pass": 10 * (96 + 32),
    }
    wide = TrainedAs(ModelShape(2, 8, 2, 1, 12, 10_000, True, True), bf16=False)
    assert memory.update_parts(wide, batch)["projection"] == 6 * 40_000 + 6 * 8 * 8 + 4 * 80_000
    assert memory.largest_microbatch(10, 9, 2, 3, checkpointing=False) == batch
    assert memory.largest_microbatch(3, 9, 2, 3, checkpointing=False).rows == 1
    assert memory.largest_microbatch(99, 4, 2, 3, checkpointing=False).rows == 4


def kept_by_torch(model: Any, masked: bool, bf16: bool = False) -> int:
    """Bytes of all that the backward pass of the backbone keeps beside parameters, for 2 rows of 24 tokens."""
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    mask = torch.ones(2, 24, dtype=torch.long)
    mask[0, -3:] = 0 if masked else 1
    backbone = (model.get_base_model() if hasattr(model, "get_base_model") else model).model
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        backbone(input_ids=torch.randint(0, 64, (2, 24)), attention_mask=mask, use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("targets", [(), LINEAR, ("q_proj", "v_proj")])
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_what_a_layer_keeps_is_what_torch_keeps(kind: str, targets: tuple[str, ...], masked: bool) -> None:
    two, three = (kept_by_torch(model_of(kind, layers, targets), masked) for layers in (2, 3))
    how = TrainedAs(shape_from(model_of(kind, 2).config), False, 2 if targets else 0, targets)
    assert three - two == 48 * memory.kept_of_a_layer(how, 24, masked=masked)


# --- work ---------------------------------------------------------------------------------------------------

MACHINE = Machine(GpuSpecs(memory=80, flops=1000.0, bandwidth=1000.0), gpus=2, memory=80)
ASSUMED = Assumptions(utilisation=0.5, bandwidth_share=0.5)


def test_seconds_of_training() -> None:
    assert work.operations_of_a_token(TINY, 10) == 2 * 1104 + 4 * 2 * 8 * 5
    tokens = work.TrainingTokens(learnt=100, only_forward=50, length=10)
    assert work.training_seconds(FULL, tokens, MACHINE, ASSUMED, checkpointing=True) == 2528 * 450 / 1000
    assert work.training_seconds(FULL, tokens, MACHINE, ASSUMED, checkpointing=False) == 2528 * 350 / 1000
    assert work.training_seconds(LORA, tokens, MACHINE, ASSUMED, checkpointing=False) == 2528 * 250 / 1000


def test_tokens_of_the_stages() -> None:
    assert work.sft_tokens(90, 10, ASSUMED) == work.TrainingTokens(90 * 10 * 4200, 0, 4200)
    assert work.sft_tokens(90, 10, ASSUMED, compares=True) == work.TrainingTokens(90 * 10 * 4200, 90 * 10 * 4200, 4200)
    of_method = {name: method.work(method.options()) for name, method in METHODS.items()}  # G1 8, G2 4
    found = {name: work.rl_tokens(each, 10, 2, ASSUMED) for name, each in of_method.items()}
    assert {name: (each.learnt / 22_480, each.only_forward / 22_480) for name, each in found.items()} == {
        "sgpo": (9, 9),
        "grpo": (12, 6),
        "luffy": (12, 5.5),
        "hpt": (12, 6),
        "srft": (13, 12),
        "opsd": (12, 12),
        "sdpo": (12, 12),
        "ampo": (12, 6),
        "scaf_grpo": (8, 4),
    }
    paper = {"problems_per_rollout": 128, "updates_per_rollout": 2, "num_train_epochs": 10}
    assert work.updates_of(5667, paper) == (880, 440)
    assert work.updates_of(0, {**paper, "max_steps": 200}) == (200, 100)


def test_seconds_of_sampling() -> None:
    asked = work.SamplingWork(completions=40, rounds=2, longest=20, mean=10, rows=5)
    step, alone = (2224 + 5 * 32 * 205) / 500, 2224 / 500
    assert work.sampling_seconds(TINY, asked, MACHINE, ASSUMED) == pytest.approx((40 * step, 40 * alone), rel=1e-12)
    slow = work.SamplingWork(40, 2, 20, 10, 5, least_step=100.0)
    assert work.sampling_seconds(TINY, slow, MACHINE, ASSUMED) == pytest.approx((4000, 4000), rel=1e-12)
    many = Machine(MACHINE.specs, gpus=1000, memory=80)
    assert work.sampling_seconds(TINY, asked, many, ASSUMED) == pytest.approx((40 * alone, 40 * alone), rel=1e-12)


def test_requests_to_the_strong_model() -> None:
    assert work.strategy_requests(10, 5, ASSUMED) == work.StrongModelWork(20, 10 * (440 + 8400 + 500), 10 * 525)
    example = Assumptions(prompt_tokens=100, response_tokens=1500, strategy_tokens=70)  # of docs/strategies.md
    found = work.strategy_requests(8500, 5, example)
    assert (found.prompt_tokens, found.completion_tokens) == pytest.approx((34.1e6, 3.2e6), rel=0.01)
