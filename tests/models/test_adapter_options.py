"""Options of an adapter, and adapters that are refused."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import trl
import yaml
from adapter_cases import Make, lora, run_command
from transformers import AutoModelForCausalLM

from sgpo.models.adapters import adapter_from, adapter_of, identity_of
from sgpo.models.arguments import AdapterArguments
from sgpo.models.checkpoint import open_checkpoint

peft = pytest.importorskip("peft")


def test_options_are_those_of_trl() -> None:
    of_trl = {each.name: each.default for each in fields(trl.ModelConfig)}
    for each in fields(AdapterArguments):
        assert of_trl[each.name] == each.default


@pytest.mark.parametrize(
    ("given", "modules"),
    [
        (None, None),
        (["q_proj"], {"q_proj"}),
        (["q_proj", "v_proj"], {"q_proj", "v_proj"}),
        ("all-linear", "all-linear"),
        (["all-linear"], "all-linear"),
        ([r".*layers\.0\..*_proj"], r".*layers\.0\..*_proj"),
    ],
)
def test_target_modules_are_names_or_one_expression(given: Any, modules: Any) -> None:
    config = adapter_from(AdapterArguments(use_peft=True, lora_r=3, lora_alpha=5, lora_target_modules=given))
    assert config.target_modules == modules
    assert (config.r, config.lora_alpha, config.lora_dropout, config.task_type) == (3, 5, 0.05, "CAUSAL_LM")


def test_a_run_from_python_writes_its_adapter_as_options(make_trainer: Make, base: Path) -> None:
    given = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj"], "use_dora": True}
    make_trainer(peft_config=peft.LoraConfig(**given), folder="named").train()
    trainer = make_trainer(peft_config=peft.LoraConfig(**given, init_lora_weights="gaussian"), folder="unnamed")
    trainer.train()
    folder = Path(trainer.args.output_dir).parent
    named, unnamed = ((folder / name / "config.yaml").read_text() for name in ("named", "unnamed"))
    values = yaml.safe_load(named)
    options = AdapterArguments(**{each.name: values[each.name] for each in fields(AdapterArguments)})
    expected = identity_of(adapter_of(str(base), peft.LoraConfig(**given)))
    assert identity_of(adapter_of(str(base), adapter_from(options))) | {"adapter's task_type": None} == expected
    assert "settings for which there are no options" in unnamed
    assert "use_peft" not in yaml.safe_load(unnamed)


def test_identities_are_flat_and_tell_adapters_apart(base: Path, adapter: Path) -> None:
    assert identity_of(adapter_of(str(base))) == {"adapter": "none"}
    found = identity_of(adapter_of(str(adapter)))
    assert found["adapter"] == "LORA"
    assert found["adapter's base"] == "base"
    assert found["adapter's target_modules"] == ["down_proj", "q_proj", "v_proj"]
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--lora_r", "8"], "lora_r: no effect without use_peft; add use_peft: true, or leave lora_r out"),
        (["--use_peft", "--lora_r", "0"], "lora_r is 0; it must be at least 1"),
        (["--use_peft", "--lora_dropout", "1"], "lora_dropout is 1.0; it must be at least 0 and below 1"),
        (
            ["--use_peft", "--lora_target_modules", "query"],
            "Target modules {'query'} not found in the base model. Please check the target modules and try again.",
        ),
        (
            ["--use_peft", "--lora_target_modules", "embed_tokens"],
            "the adapter changes the embedding, which in this model is the head too: leave it out of target_modules "
            "and modules_to_save",
        ),
    ],
)
@pytest.mark.parametrize("command", ["train", "sft"])
def test_options_are_refused_before_weights_are_loaded(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    changes: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("weights were loaded"))
    assert run_command(command, str(base), tmp_path, *changes) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == f"sgpo {command}: {message}"


def test_without_peft_it_is_asked_for(base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "peft" else find(name, *a))
    message = r"an adapter needs the package peft, which is not installed here: pip install 'sgpo\[peft\]'"
    for refused in (lambda: adapter_from(AdapterArguments(use_peft=True)), lambda: open_checkpoint(str(adapter))):
        with pytest.raises(ValueError, match=message):
            refused()
    assert adapter_from(AdapterArguments()) is None
    assert open_checkpoint(str(base))


def test_adapters_that_cannot_be_trained_are_refused(make_trainer: Make, base: Path, adapter: Path) -> None:
    with pytest.raises(ValueError, match=r"peft_config is a dict; give a configuration of PEFT"):
        make_trainer(peft_config={"r": 8})
    with pytest.raises(ValueError, match="PROMPT_TUNING puts tokens of its own before the prompt"):
        make_trainer(peft_config=peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="init_lora_weights pissa changes the weights of the base model"):
        make_trainer(peft_config=lora(init_lora_weights="pissa"))
    with pytest.raises(ValueError, match="leave it out of adapters"):
        make_trainer(peft_config=lora(target_modules=["lm_head"]))
    wrapped = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora())
    with pytest.raises(ValueError, match="the model has an adapter, and peft_config describes another one"):
        make_trainer(wrapped, lora())
    with pytest.raises(ValueError, match=r"the model has an adapter inside \(model.add_adapter"):
        make_trainer(AutoModelForCausalLM.from_pretrained(adapter))
    frozen = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    with pytest.raises(ValueError, match=r"no parameter of the model requires a gradient.*is_trainable=True"):
        make_trainer(frozen)


def test_broken_chains_are_refused(adapter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    folder.mkdir()
    path = folder / "adapter_config.json"
    described = json.loads((adapter / "adapter_config.json").read_text())

    def refused(content: str) -> str:
        path.write_text(content)
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            open_checkpoint(str(folder))
        return str(caught.value)

    assert refused(json.dumps({**described, "base_model_name_or_path": "/nowhere/model"})) == (
        f"there is no folder /nowhere/model to take the model from (looked in {Path.cwd()}); it is the base of the "
        f"adapter {folder}: write its place into {path}"
    )
    assert refused(json.dumps({**described, "base_model_name_or_path": None})) == (
        f"the adapter {folder} names no base model; write base_model_name_or_path into {path}"
    )
    assert refused("{").startswith(f"{path} is not valid JSON: ")
    path.write_text(json.dumps({**described, "base_model_name_or_path": str(folder)}))
    with pytest.raises(ValueError, match=f"the adapter {folder} has the base {folder}, which is an adapter of it"):
        open_checkpoint(str(folder))
