"""Adapters: trained beside a frozen base, and saved alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from adapter_cases import Make, lora
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sgpo import SGPOConfig, SGPOTrainer

peft = pytest.importorskip("peft")


@pytest.mark.parametrize(("bf16", "mismatch"), [(False, 1e-5), (True, 0.02)])
def test_two_updates_at_the_default_rate_change_the_adapter_alone(
    make_trainer: Make, base: Path, bf16: bool, mismatch: float
) -> None:
    """The frozen base is in bfloat16 where that is computed with, the adapter in float32 in any case."""
    trainer = make_trainer(peft_config=lora(init_lora_weights=False), bf16=bf16)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    trained = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert {name.split(".")[-3] for name in trained} == {"lora_A", "lora_B"}
    for name, value in trainer.model.named_parameters():
        assert value.dtype == (torch.float32 if name in trained or not bf16 else torch.bfloat16)
        share = (value != before[name]).float().mean()
        assert share > 0.9 if name in trained else share == 0
    (found,) = [line["sampler_mismatch"] for line in trainer.state.log_history if "sampler_mismatch" in line]
    assert found < mismatch


def test_what_is_saved_is_the_adapter_in_float32(make_trainer: Make, base: Path) -> None:
    trainer = make_trainer(peft_config=lora(), bf16=True, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model()
    folder = Path(trainer.args.output_dir)
    for place in (folder, folder / "checkpoint-2"):
        saved = load_file(place / "adapter_model.safetensors")
        assert {value.dtype for value in saved.values()} == {torch.float32}
        # A and B of rank 4 on three layers of each block: q 128 -> 128, v 128 -> 64, down 352 -> 128.
        blocks = trainer.model.config.num_hidden_layers
        shapes = [(p.in_features, p.out_features) for n, p in trainer.model.named_modules() if n.endswith("base_layer")]
        assert len(saved) == 2 * 3 * blocks
        assert sum(value.numel() for value in saved.values()) == sum(4 * (one + other) for one, other in shapes)
        assert not list(place.glob("model*.safetensors"))
    described = json.loads((folder / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == str(base)
    trained = {n.replace(".default", ""): p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained.keys() == saved.keys()
    assert all(torch.equal(value, trained[name]) for name, value in saved.items())
    card = (folder / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "peft"
    assert yaml.safe_load(head)["tags"] == ["sgpo", "lora"]
    assert "an adapter (LoRA, r 4, alpha 8, on down_proj, q_proj, v_proj) of `base`, trained with" in body
    assert str(base.parent) not in card  # of this machine


def test_a_resumed_run_of_an_adapter_equals_the_straight_one(make_trainer: Make) -> None:
    changes = {"learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 4}
    straight = make_trainer(peft_config=lora(), folder="straight", max_steps=8, **changes)
    straight.train()
    make_trainer(peft_config=lora(), folder="halves", max_steps=4, **changes).train()
    resumed = make_trainer(peft_config=lora(), folder="halves", max_steps=8, **changes)
    resumed.train(resume_from_checkpoint=True)
    for (name, one), other in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other), name
    begun = make_trainer(peft_config=lora(), folder="new", **changes)
    moved = [
        float((one - other).detach().abs().max())
        for one, other in zip(straight.model.parameters(), begun.model.parameters(), strict=True)
        if one.requires_grad
    ]
    assert min(moved) > 1e-3
    for key in ("grad_norm", "loss"):
        lines = [[line[key] for line in one.state.log_history if key in line] for one in (straight, resumed)]
        assert len(lines[0]) == 8
        assert lines[0] == lines[1]


def test_another_adapter_is_not_resumed(make_trainer: Make, adapter: Path) -> None:
    make_trainer(peft_config=lora(), save_strategy="steps", save_steps=2).train()
    different = r"another configuration: adapter's lora_alpha was 8, is 16; adapter's r was 4, is 8\. Resume with"
    with pytest.raises(ValueError, match=different):
        make_trainer(peft_config=lora(r=8, lora_alpha=16)).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="adapter was LORA, is none"):
        make_trainer().train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="adapter's base was base, is adapter"):
        make_trainer(str(adapter), lora()).train(resume_from_checkpoint=True)


def test_gradients_reach_all_adapters_through_gradient_checkpointing(make_trainer: Make) -> None:
    models = []
    for name, changes in (("plain", {}), ("checkpointing", {"gradient_checkpointing": True})):
        trainer = make_trainer(peft_config=lora(), folder=name, learning_rate=1e-2, **changes)
        trainer.train()
        models.append({n: p for n, p in trainer.model.named_parameters() if p.requires_grad})
    for name, value in models[0].items():
        assert (value - models[1][name]).abs().max() < 1e-5, name


def test_a_new_adapter_follows_from_the_seed(make_trainer: Make) -> None:
    first, second, other = (
        dict(make_trainer(peft_config=lora(), seed=seed).model.named_parameters()) for seed in (1, 1, 2)
    )
    name = next(name for name in first if "lora_A" in name)
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], other[name])


def test_an_adapter_in_memory_is_trained(make_trainer: Make, base: Path, adapter: Path) -> None:
    """A model and peft_config, a `PeftModel`, and the adapter's folder."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    config = lora(target_modules=None)
    trainer = make_trainer(model, config, folder="one")
    assert trainer.model.active_peft_config.target_modules == {"q_proj", "v_proj"}
    assert config.target_modules is None  # the user's own
    assert trainer.model.active_peft_config.base_model_name_or_path == str(base)
    loaded = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter, is_trainable=True
    )
    expected = {name: value.detach().clone() for name, value in loaded.named_parameters()}
    for number, model in enumerate((loaded, str(adapter))):
        found = make_trainer(model, folder=f"{number}")
        assert {n for n, p in found.model.named_parameters() if p.requires_grad} == {n for n in expected if "lora" in n}
        assert all(torch.equal(value, expected[name]) for name, value in found.model.named_parameters())
        found.train()
        assert any(not torch.equal(value, expected[name]) for name, value in found.model.named_parameters())


def test_layers_that_are_trained_whole_need_a_base_in_float32(make_trainer: Make, base: Path) -> None:
    """Between a float32 norm and a bfloat16 layer nothing converts, unless it is autocast."""
    for bf16, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        trainer = make_trainer(model, lora(modules_to_save=["norm"]), folder=f"run-{bf16}", bf16=bf16)
        assert {p.dtype for n, p in trainer.model.named_parameters() if n.endswith("o_proj.weight")} == {dtype}
        trained = dict(trainer.model.named_parameters())["base_model.model.model.norm.modules_to_save.default.weight"]
        before = trained.detach().clone()
        trainer.train()
        assert trained.dtype == torch.float32
        assert (trained != before).float().mean() > 0.5


@pytest.mark.filterwarnings("error:The PEFT config")
def test_the_start_names_the_adapter(make_trainer: Make, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(peft_config=lora())
    trainer.train()
    out = re.sub(r"\s+", " ", capsys.readouterr().out.replace("│", " "))
    total = sum(p.numel() for p in trainer.model.parameters())
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert "adapter LoRA, r 4, alpha 8, on down_proj, q_proj, v_proj; of base " in out
    assert f"weights {trained:,} trained, kept in float32; {total - trained:,} frozen, in float32; computed" in out


def test_the_configuration_may_be_left_out(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = SGPOTrainer(str(base), peft_config=lora())
    assert isinstance(trainer.args, SGPOConfig)
    assert trainer.args.output_dir == "base-SGPO"
    model = AutoModelForCausalLM.from_pretrained(base)
    assert SGPOTrainer(model).args.output_dir == "base-SGPO"
