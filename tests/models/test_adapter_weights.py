"""A folder with an adapter stands for a model: its chain, its weights, merged for an engine."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from adapter_cases import logits, lora, save_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.models.adapters import chain_of
from sgpo.models.checkpoint import count_parameters, open_checkpoint
from sgpo.models.merged import merged_parameters
from sgpo.models.weights import load_weights

peft = pytest.importorskip("peft")


def test_chains_lead_to_the_full_model(base: Path, adapter: Path, adapter_of_adapter: Path) -> None:
    assert chain_of(str(base)) == [str(base)]
    assert chain_of(str(adapter_of_adapter)) == [str(adapter_of_adapter), str(adapter), str(base)]
    config, tokenizer = open_checkpoint(str(adapter_of_adapter))
    assert config.hidden_size == 128
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab()


def test_a_tokenizer_beside_the_adapter_goes_before_that_of_the_base(base: Path, adapter: Path, tmp_path: Path) -> None:
    folder = save_adapter(base, tmp_path / "own")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder)
    assert open_checkpoint(str(folder))[1].chat_template == tokenizer.chat_template
    second = save_adapter(folder, tmp_path / "second")
    assert open_checkpoint(str(second))[1].chat_template == tokenizer.chat_template
    assert open_checkpoint(str(adapter))[1].chat_template != tokenizer.chat_template


def test_a_loaded_adapter_computes_what_was_trained(base: Path, adapter: Path, adapter_of_adapter: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain = logits(model)
    one = logits(peft.PeftModel.from_pretrained(model, adapter))
    assert (one - plain).abs().max() > 0.1
    assert torch.allclose(logits(load_weights(str(adapter))), one, atol=1e-4)
    assert torch.allclose(logits(load_weights(str(adapter), merged=False)), one, atol=1e-4)
    first = load_weights(str(adapter))
    two = logits(peft.PeftModel.from_pretrained(first, adapter_of_adapter))
    assert (two - one).abs().max() > 0.1
    assert torch.allclose(logits(load_weights(str(adapter_of_adapter))), two, atol=1e-4)
    assert not hasattr(load_weights(str(adapter), "bfloat16"), "peft_config")
    assert load_weights(str(adapter), "bfloat16").dtype == torch.bfloat16


def test_parameters_of_an_adapter_are_counted_without_weights(base: Path) -> None:
    config, _ = open_checkpoint(str(base))
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora())
    assert count_parameters(config, lora()) == model.get_nb_trainable_parameters()[0]


def test_an_adapter_of_the_hub_is_found_in_its_cache(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what was downloaded: nothing is asked of the network for the name of a full model."""
    from huggingface_hub import file_download

    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--organisation--adapter"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    (snapshot / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    monkeypatch.setattr(file_download.constants, "HF_HUB_CACHE", str(tmp_path))
    assert chain_of("organisation/adapter") == ["organisation/adapter", str(base)]
    assert chain_of("organisation/model") == ["organisation/model"]


ADAPTERS = {
    "lora": lambda: lora(init_lora_weights=False),
    "rslora": lambda: lora(init_lora_weights=False, use_rslora=True),
    "dora": lambda: lora(init_lora_weights=False, use_dora=True),
    "bias": lambda: lora(init_lora_weights=False, bias="lora_only"),
    "whole layers": lambda: lora(init_lora_weights=False, modules_to_save=["norm", "up_proj"]),
    "ia3": lambda: peft.IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False
    ),
    "parameters": lambda: lora(target_modules=[], target_parameters=["q_proj.weight"], init_lora_weights=False),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_merged_parameters_are_those_of_the_merged_model(base: Path, kind: str) -> None:
    torch.manual_seed(0)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), ADAPTERS[kind]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = {name: value.clone() for name, value in merged_parameters(model)}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    expected = dict(copy.deepcopy(model).merge_and_unload().named_parameters())
    assert found.keys() == expected.keys()
    plain = dict(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).named_parameters())
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-6), name
    assert sum(not torch.equal(value, plain[name]) for name, value in found.items()) >= 4


def test_weights_for_an_engine_do_not_drift(base: Path) -> None:
    """A base in bfloat16 that is merged and unmerged for each synchronisation ends elsewhere."""
    torch.manual_seed(0)
    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), lora(init_lora_weights=False)
    )
    name = "model.layers.0.self_attn.q_proj.weight"
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    original, expected = layer.get_base_layer().weight.clone(), layer.get_delta_weight("default")
    expected = original.float() + expected
    for _ in range(3):
        found = dict(merged_parameters(model))
        assert found[name].dtype == torch.float32
        assert torch.allclose(found[name], expected, atol=1e-6)
        assert torch.equal(layer.get_base_layer().weight, original)
    model.merge_adapter()
    model.unmerge_adapter()
    assert not torch.equal(layer.get_base_layer().weight, original)  # what is avoided here
