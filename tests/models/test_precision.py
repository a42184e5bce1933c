"""Trainable parameters are float32 whatever they were loaded in: bfloat16 would round the updates of RL away."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.cli import main
from sgpo.models.checkpoint import floating_type
from sgpo.models.precision import Footprint, fitted_to_types, keep_masters, weight_rows
from sgpo.problems import Problem, save_problems
from sgpo.training.sft import WarmupConfig, build_warmup_trainer

PROBLEMS = [
    Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), "It is \\boxed{3}", f"Steps: (a) add {n}")
    for n in range(8)
]


def parity(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float(len(completion) % 2) for completion in completions]


@pytest.fixture(scope="module")
def short_checkpoint(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as models are published: in bfloat16."""
    folder = tmp_path_factory.mktemp("bfloat16")
    AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


def loaded(checkpoint: Path, dtype: Any = "auto") -> Any:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype)
    # Every fourth token ends a completion, or a model with random weights would hardly ever end one.
    model.generation_config.eos_token_id = list(range(1, model.config.vocab_size, 4))
    return model


Make = Callable[..., SGPOTrainer]


@pytest.fixture
def make_trainer(make_config: Callable[..., SGPOConfig]) -> Make:
    def make(model: Any, **changes: Any) -> SGPOTrainer:
        config = make_config(max_completion_length=9, learning_rate=1e-6, delta=20.0, **changes)
        return SGPOTrainer(model, config, PROBLEMS, reward_funcs=parity)

    return make


def changed_share(before: dict[str, torch.Tensor], model: Any) -> float:
    now = dict(model.named_parameters())
    changed = sum(int((now[name].float() != value.float()).sum()) for name, value in before.items())
    return changed / sum(value.numel() for value in before.values())


@pytest.mark.parametrize(
    ("dtype", "bf16", "mismatch"),
    [(torch.float32, False, 1e-5), ("auto", False, 1e-5), ("auto", True, 0.02), (torch.float16, False, 1e-5)],
)
def test_two_updates_at_the_default_rate_change_the_weights(
    make_trainer: Make, short_checkpoint: Path, dtype: Any, bf16: bool, mismatch: float
) -> None:
    model = loaded(short_checkpoint, dtype)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = make_trainer(model, bf16=bf16)
    trainer.train()
    assert changed_share(before, trainer.model) > 0.98
    (found,) = [line["sampler_mismatch"] for line in trainer.state.log_history if "sampler_mismatch" in line]
    assert found < mismatch


def test_a_bfloat16_model_trains_as_its_float32_copy(make_trainer: Make, short_checkpoint: Path) -> None:
    """Masters hold what was loaded, and the checkpoint holds the masters."""
    trainers = [make_trainer(loaded(short_checkpoint, dtype), seed=3) for dtype in (torch.float32, torch.bfloat16)]
    for trainer in trainers:
        trainer.train()
    one, other = (dict(trainer.model.named_parameters()) for trainer in trainers)
    assert all(torch.equal(one[name], other[name]) for name in one)
    folder = Path(trainers[1].args.output_dir)
    trainers[1].save_model()
    saved = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert all(torch.equal(saved[name], other[name]) for name in saved)
    assert AutoConfig.from_pretrained(folder).dtype == torch.float32


def test_sft_of_a_bfloat16_checkpoint_trains_in_float32(
    short_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = WarmupConfig(
        output_dir=str(tmp_path / "sft"), use_cpu=True, report_to="none", disable_tqdm=True, max_steps=2, max_length=300
    )
    trainer = build_warmup_trainer(str(short_checkpoint), config, PROBLEMS)
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    count = trainer.model.num_parameters()
    out = capsys.readouterr().out
    assert f"weights: {count:,} trained, kept in float32; computed with in float32" in out
    assert f"their memory: weights {4 * count / 1e6:.1f} MB, gradients" in out


# --- what is kept in which type, by hand --------------------------------------------------------------------


def parts() -> nn.Sequential:
    """A frozen layer of 12 weights and a trainable one of 20, in bfloat16, and a float64 layer of 2."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 5, bias=False), nn.Linear(2, 1, bias=False))
    model[0].weight.requires_grad_(False)
    model[2].double()
    model[:2].bfloat16()
    model.register_buffer("table", torch.ones(2, dtype=torch.bfloat16))
    return model


@pytest.mark.parametrize(("autocast", "frozen"), [(True, torch.bfloat16), (False, torch.float32)])
def test_frozen_parameters_keep_their_type_where_it_can_be_computed_with(autocast: bool, frozen: torch.dtype) -> None:
    model = parts()
    value = model[1].weight.detach().clone()
    parameter = model[1].weight
    keep_masters(model, autocast=autocast)
    assert [layer.weight.dtype for layer in model] == [frozen, torch.float32, torch.float64]
    assert model.table.dtype == frozen
    assert model[1].weight is parameter  # an optimizer that was made before still holds it
    assert torch.equal(parameter, value.float())


def test_a_launcher_asks_for_bfloat16_too(
    make_trainer: Make, short_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # of accelerate launch --mixed_precision bf16
    model = loaded(short_checkpoint)
    model.model.embed_tokens.requires_grad_(False)
    trainer = make_trainer(model)
    assert trainer.model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert dict(weight_rows(trainer.model, trainer.args))["weights"].endswith("computed with in bfloat16 (bf16)")


def test_a_model_without_trainable_parameters_is_refused(make_trainer: Make, checkpoint: Path) -> None:
    model = loaded(checkpoint)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"no parameter of the model requires a gradient.*is_trainable=True"):
        make_trainer(model)


def test_what_the_weights_take_is_said(make_config: Callable[..., SGPOConfig]) -> None:
    """A million trained in float32 and two million frozen in bfloat16."""
    model = nn.Sequential(nn.Linear(2000, 1000, bias=False), nn.Linear(1000, 1000, bias=False)).bfloat16()
    model[0].weight.requires_grad_(False)
    keep_masters(model, autocast=True)
    assert Footprint.of(model) == Footprint({torch.float32: 1_000_000}, {torch.bfloat16: 2_000_000})
    weights = "1,000,000 trained, kept in float32; 2,000,000 frozen, in bfloat16; computed with in"
    assert weight_rows(model, make_config(bf16=True)) == [
        ("weights", f"{weights} bfloat16 (bf16)"),
        ("their memory", "weights 8.0 MB, gradients 4.0 MB, Adam's moments 8.0 MB: 20.0 MB, beside activations"),
    ]
    other = "weights 8.0 MB, gradients 4.0 MB, and what adafactor keeps: 12.0 MB, beside activations"
    assert weight_rows(model, make_config(optim="adafactor")) == [
        ("weights", f"{weights} bfloat16"),
        ("their memory", other),
    ]


def test_with_deepspeed_the_model_is_short_and_the_optimizer_keeps_float32() -> None:
    model = nn.Sequential(nn.Linear(2000, 1000, bias=False), nn.Linear(1000, 1000, bias=False))
    model[0].weight.requires_grad_(False)
    args = SimpleNamespace(
        deepspeed={"zero_optimization": {"stage": 3}},
        mixed_precision="bf16",
        optim="adamw_torch",
        world_size=4,
        fsdp=[],
    )
    weights = (
        "1,000,000 trained, in bfloat16, and kept in float32 by the optimizer; 2,000,000 frozen, in bfloat16; computed"
    )
    parts = "weights 6.0 MB, gradients 2.0 MB, float32 copies 4.0 MB, Adam's moments 8.0 MB"
    assert weight_rows(model, args) == [
        ("weights", f"{weights} with in bfloat16 (bf16)"),
        ("their memory", f"{parts}: 20.0 MB, divided among 4 processes, beside activations"),
    ]
    args.mixed_precision = "no"
    said = "1,000,000 trained, kept in float32; 2,000,000 frozen, in float32; computed with in float32"
    assert dict(weight_rows(model, args))["weights"] == said


# --- float16 ------------------------------------------------------------------------------------------------

CONFIGURATIONS = (SGPOConfig, WarmupConfig)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_float16_is_refused(configuration: Any, tmp_path: Path) -> None:
    message = (
        "fp16 is not supported, as float16 overflows; write bf16: true instead (bfloat16 has the range of float32), or "
        "leave it out"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        configuration(output_dir=str(tmp_path), use_cpu=True, fp16=True)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_float16_that_a_launcher_chose_is_refused(
    configuration: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    message = (
        "ACCELERATE_MIXED_PRECISION is fp16, which is not supported, as float16 overflows; start with accelerate "
        "launch --mixed_precision bf16, or write bf16: true"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        configuration(output_dir=str(tmp_path), use_cpu=True)
    assert configuration(output_dir=str(tmp_path), use_cpu=True, bf16=True).mixed_precision == "bf16"


# --- that of the checkpoint ---------------------------------------------------------------------------------


def gpu(monkeypatch: pytest.MonkeyPatch, bfloat16: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bfloat16)


@pytest.mark.parametrize(
    ("own", "written", "use_cpu", "supported", "expected"),
    [
        ("bfloat16", None, False, True, True),
        ("float16", None, False, True, True),  # float16 overflows
        ("float32", None, False, True, False),
        ("bfloat16", None, True, True, False),
        ("bfloat16", None, False, False, False),
        ("bfloat16", False, False, True, False),
        ("float32", True, False, True, True),
    ],
)
def test_a_gpu_computes_in_bfloat16_where_the_checkpoint_is_short(
    make_config: Callable[..., SGPOConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    own: str,
    written: bool | None,
    use_cpu: bool,
    supported: bool,
    expected: bool,
) -> None:
    args = make_config(bf16=written)
    args.use_cpu = use_cpu
    gpu(monkeypatch, supported)
    fitted = fitted_to_types(args, Qwen2Config(dtype=own))
    assert args.bf16 is written
    assert fitted.bf16 is expected
    assert fitted.mixed_precision == ("bf16" if expected else "no")
    said = f"bf16 is true: the checkpoint is in {own}. What is trained is kept in float32.\n"
    assert capsys.readouterr().out == (said if expected and written is None else "")


def test_without_a_gpu_a_short_checkpoint_is_trained_in_float32(
    make_config: Callable[..., SGPOConfig], short_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = SGPOTrainer(str(short_checkpoint), make_config(), PROBLEMS, reward_funcs=parity)
    assert trainer.args.bf16 is False
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert re.search(r"Loading .*: [\d.]+k parameters in bfloat16\n", capsys.readouterr().out)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_an_evaluation_has_the_type_of_the_checkpoint(
    short_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str | None
) -> None:
    save_problems(PROBLEMS, tmp_path / "problems.jsonl")
    given = ["--model", str(short_checkpoint), "--problems", str(tmp_path / "problems.jsonl"), "--k", "1"]
    written = [] if dtype is None else ["--dtype", dtype]
    output = ["--max_completion_length", "9", "--output", str(tmp_path / "scores")]
    assert main(["eval", *given, *output, *written]) == 0
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert summary["engine"]["dtype"] == (dtype or "bfloat16")
    expected = "parameters in bfloat16\n" if dtype is None else "parameters in bfloat16, taken as float32\n"
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("written", "found"), [("bfloat16", "bfloat16"), ("float16", "float16"), (None, "float32"), ("float64", "float32")]
)
def test_the_type_of_a_checkpoint(written: str | None, found: str) -> None:
    assert floating_type(Qwen2Config(dtype=written)) == found
