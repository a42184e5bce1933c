"""`sgpo export`: base and adapter as one checkpoint, which computes what both compute together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_cases import logits, run_command, save_adapter
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.cli import main
from sgpo.models import export
from sgpo.models.merged import merged_parameters
from sgpo.models.weights import load_weights

peft = pytest.importorskip("peft")
TIED = {
    "linear layers": {},
    "the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "the head": {"target_modules": ["q_proj", "lm_head"]},
    "both, tied": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "a whole embedding": {"modules_to_save": ["embed_tokens"]},
    "directions and lengths": {"use_dora": True},
}


def exported(model: Path, output: Path, *options: str) -> Path:
    assert main(["export", "--model", str(model), "--output", str(output), *options]) == 0
    return output


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, relative to the largest logit."""
    return float((one - other).abs().max() / one.abs().max())


def beside(base: Path, adapter: Path) -> Any:
    return peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`")
@pytest.mark.parametrize("changes", TIED.values(), ids=TIED)
def test_the_exported_model_computes_what_base_and_adapter_do(
    base: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """The embedding of the base is its head too."""
    adapter = save_adapter(base, tmp_path / "adapter", **changes)
    together = beside(base, adapter)
    if "modules_to_save" in changes:  # begins as the base's
        together.get_input_embeddings().weight.data.mul_(1.5)
        together.save_pretrained(adapter)
    expected = logits(together)
    assert apart(expected, logits(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))) > 1e-2
    folder = exported(adapter, tmp_path / "merged")
    assert apart(expected, logits(AutoModelForCausalLM.from_pretrained(folder))) < 1e-5
    assert apart(expected, logits(load_weights(str(adapter)))) < 1e-5  # as sgpo eval computes


def test_a_tied_head_is_written_once(base: Path, adapter: Path, tmp_path: Path) -> None:
    folder = exported(adapter, tmp_path / "merged")
    before, after = (load_file(place / "model.safetensors") for place in (base, folder))
    assert before.keys() == after.keys()
    assert "lm_head.weight" not in after
    changed = {name.split(".")[-2] for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"q_proj", "v_proj", "down_proj"}
    two = exported(save_adapter(base, tmp_path / "head", target_modules=["lm_head"]), tmp_path / "two")
    assert "lm_head.weight" in load_file(two / "model.safetensors")
    assert json.loads((two / "config.json").read_text())["tie_word_embeddings"] is False


def test_weights_are_merged_in_float32_and_rounded_once(base: Path, tmp_path: Path) -> None:
    """A base in bfloat16, whose type is that of the export unless another is asked for."""
    short = tmp_path / "short"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(short)
    AutoTokenizer.from_pretrained(base).save_pretrained(short)
    adapter = save_adapter(short, tmp_path / "adapter")
    exact = dict(merged_parameters(beside(short, adapter)))
    for options, dtype in (([], torch.bfloat16), (["--dtype", "float16"], torch.float16)):
        folder = exported(adapter, tmp_path / str(dtype), *options)
        assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
        found = load_file(folder / "model.safetensors")
        assert {value.dtype for value in found.values()} == {dtype}
        for name, value in found.items():
            assert torch.equal(value, exact[name].to(dtype)), name


def test_the_other_files_are_those_of_the_parts(base: Path, tmp_path: Path) -> None:
    """Template and tokens beside the adapter go before those of the base; how it generates is copied to the letter."""
    own = tmp_path / "base"
    shutil.copytree(base, own)
    generation = json.dumps({"temperature": 0.6, "eos_token_id": [1, 5]})  # transformers would not write that
    (own / "generation_config.json").write_text(generation)
    adapter = save_adapter(own, tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{{ messages[0]['content'] }}!"
    tokenizer.save_pretrained(adapter)
    folder = exported(adapter, tmp_path / "new" / "merged")
    assert (folder / "generation_config.json").read_text() == generation
    found = AutoTokenizer.from_pretrained(folder)
    assert found.chat_template == tokenizer.chat_template
    assert found.get_vocab() == tokenizer.get_vocab()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["merged"]
    (own / "generation_config.json").unlink()
    written = json.loads((exported(adapter, tmp_path / "plain") / "generation_config.json").read_text())
    assert written["eos_token_id"] == json.loads((own / "config.json").read_text())["eos_token_id"]


def test_a_chain_of_adapters_becomes_one_model(
    adapter_of_adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "merged").mkdir()  # an empty folder may be there
    folder = exported(adapter_of_adapter, tmp_path / "merged")
    assert capsys.readouterr().out.endswith(f"The merged model is in {folder} (float32)\n")
    expected = logits(load_weights(str(adapter_of_adapter)))
    assert apart(expected, logits(AutoModelForCausalLM.from_pretrained(folder))) < 1e-5


def test_the_folder_of_a_run_and_its_checkpoints_are_exported(base: Path, tmp_path: Path) -> None:
    changes = [
        "--use_peft",
        "true",
        "--lora_r",
        "2",
        "--save_strategy",
        "steps",
        "--save_steps",
        "1",
        "--eval_strategy",
        "no",
    ]
    assert (
        run_command(
            "sft", str(base), tmp_path, *changes, "--learning_rate", "0.03", "--load_best_model_at_end", "false"
        )
        == 0
    )
    plain = logits(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
    for place in (tmp_path / "run", tmp_path / "run" / "checkpoint-2"):
        folder = exported(place, tmp_path / f"of-{place.name}")
        found = logits(AutoModelForCausalLM.from_pretrained(folder))
        assert apart(logits(beside(base, place)), found) < 1e-5
        assert apart(plain, found) > 1e-3


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "load_weights", lambda *a: pytest.fail("weights were loaded"))


@pytest.mark.usefixtures("no_weights")
def test_what_cannot_be_exported(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, kept in (("full", base), ("hollow", adapter), ("many", base)):
        shutil.copytree(kept, tmp_path / name)
    (tmp_path / "hollow" / "adapter_model.safetensors").unlink()
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "many" / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "gptq"}})
    )
    shutil.copytree(adapter, tmp_path / "quantized")
    described = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "quantized" / "adapter_config.json").write_text(
        json.dumps(described | {"base_model_name_or_path": str(tmp_path / "many")})
    )
    (tmp_path / "empty").mkdir()
    refusals = {
        ("full", "new"): "full is an ordinary checkpoint, without an adapter to merge: take it as it is",
        ("hollow", "new"): "the adapter hollow has no weights: there is no adapter_model.safetensors or "
        "adapter_model.bin",
        ("quantized", "new"): f"the base {tmp_path / 'many'} is quantized, so an adapter cannot be merged into its "
        "weights; write the place of the unquantized base into adapter_config.json",
        ("./lost", "new"): f"there is no folder ./lost to take the model from (looked in {tmp_path})",
        ("empty", "new"): "model empty has no config.json, so it is no checkpoint that transformers can load",
        (str(adapter), "full"): "--output full is not empty; write another folder, or empty this one",
        (str(adapter), "new", "--dtype", "int8"): "--dtype is 'int8'; choose one of float32, bfloat16, float16",
    }
    before = sorted(tmp_path.rglob("*"))
    for (model, output, *options), message in refusals.items():
        assert main(["export", "--model", model, "--output", output, *options]) == 2
        assert capsys.readouterr().err == f"sgpo export: {message}\n"
    monkeypatch.setattr(export, "free_space", lambda path: 2_000_000)
    assert main(["export", "--model", str(adapter), "--output", "new"]) == 2
    assert capsys.readouterr().err == (
        "sgpo export: no space left for --output new: the weights need 3.6 MB, 2.0 MB are free; name a folder on "
        "another device\n"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_what_fails_while_it_is_written_leaves_nothing(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = export.prepare_export(str(adapter), tmp_path / "new")

    def failing(*arguments: Any) -> None:
        raise OSError("the device is on fire")

    monkeypatch.setattr(export.shutil, "copyfile", failing)
    with pytest.raises(OSError, match="on fire"):
        export.write_export(found)
    assert list(tmp_path.iterdir()) == []
