"""Adapters: trained beside a frozen base, saved alone, and loaded wherever a model is."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.cli import main
from sgpo.models.adapters import adapter_from, adapter_of, chain_of, identity_of
from sgpo.models.arguments import AdapterArguments
from sgpo.models.checkpoint import count_parameters, open_checkpoint
from sgpo.models.merged import merged_parameters
from sgpo.models.weights import load_weights
from sgpo.problems import Problem, save_problems

peft = pytest.importorskip("peft")

PROBLEMS = [
    Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), "It is \\boxed{3}", f"Steps: (a) add {n}")
    for n in range(12)
]


def parity(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float(len(completion) % 2) for completion in completions]


@pytest.fixture(scope="module")
def base(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint; every fourth token ends a completion, or random weights would hardly ever end one."""
    folder = tmp_path_factory.mktemp("models") / "base"
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model.generation_config.eos_token_id = list(range(1, model.config.vocab_size, 4))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


def lora(**changes: Any) -> Any:
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], **changes})


def save_adapter(base: Path, folder: Path, seed: int = 0, **changes: Any) -> Path:
    """An adapter with random weights, as PEFT saves it."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(load_weights(str(base)), lora(init_lora_weights=False, **changes))
    model.active_peft_config.base_model_name_or_path = str(base)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return save_adapter(base, base.parent / "adapter")


@pytest.fixture(scope="module")
def adapter_of_adapter(adapter: Path) -> Path:
    return save_adapter(adapter, adapter.parent / "second", seed=1, r=2)


Make = Callable[..., SGPOTrainer]


@pytest.fixture
def make_trainer(make_config: Callable[..., SGPOConfig], base: Path, tmp_path: Path) -> Make:
    def make(model: Any = None, peft_config: Any = None, folder: str = "run", **changes: Any) -> SGPOTrainer:
        values = {"max_completion_length": 9, "learning_rate": 1e-6, "delta": 20.0, **changes}
        config = make_config(output_dir=str(tmp_path / folder), **values)
        return SGPOTrainer(model or str(base), config, PROBLEMS, reward_funcs=parity, peft_config=peft_config)

    return make


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(5, 25)[None]).logits[0]


# --- training -----------------------------------------------------------------------------------------------


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


# --- a folder with an adapter stands for a model ------------------------------------------------------------


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


# --- weights for an engine ----------------------------------------------------------------------------------


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


# --- options ------------------------------------------------------------------------------------------------


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


# --- refusals -----------------------------------------------------------------------------------------------


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


def run_command(command: str, model: str, folder: Path, *changes: str, output: str = "run") -> int:
    save_problems(PROBLEMS, folder / "problems.jsonl")
    arguments = [command, "--model", model, "--problems", str(folder / "problems.jsonl")]
    common = [
        "--output_dir",
        str(folder / output),
        "--use_cpu",
        "true",
        "--report_to",
        "none",
        "--disable_tqdm",
        "true",
    ]
    small = {
        "train": ["--problems_per_rollout", "4", "--num_autonomous", "3", "--max_completion_length", "9"],
        "sft": ["--max_length", "300"],
    }
    return main([*arguments, *common, "--disable_tqdm", "true", "--max_steps", "2", *small[command], *changes])


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


# --- commands -----------------------------------------------------------------------------------------------


def evaluate(model: Path, folder: Path, *changes: str) -> dict[str, Any]:
    arguments = ["eval", "--model", str(model), "--problems", str(folder / "problems.jsonl"), "--k", "2"]
    output = folder / f"scores-{model.name}"
    assert main([*arguments, "--max_completion_length", "9", "--output", str(output), *changes]) == 0
    return json.loads((output / "summary.json").read_text())


def test_warm_up_training_and_evaluation_of_an_adapter(base: Path, tmp_path: Path) -> None:
    """sft makes an adapter, train goes on with it, a second one is trained on top of it, and all are evaluated."""
    options = ["--use_peft", "true", "--lora_r", "4", "--lora_target_modules", "q_proj", "v_proj"]
    rate = ["--learning_rate", "1e-2"]
    assert run_command("sft", str(base), tmp_path, *options, *rate, output="warm") == 0
    warm, more, second = (tmp_path / name for name in ("warm", "more", "second"))
    assert chain_of(str(warm)) == [str(warm), str(base)]
    (tmp_path / "rewards.py").write_text(
        "def parity(completions, **columns):\n    return [float(len(text) % 2) for text in completions]\n"
    )
    rate += ["--rewards", f"{tmp_path / 'rewards.py'}:parity"]
    assert run_command("train", str(warm), tmp_path, *rate, output="more") == 0
    assert chain_of(str(more)) == [str(more), str(base)]
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (warm, more))
    assert one.keys() == other.keys()
    assert any(not torch.equal(value, other[name]) for name, value in one.items())
    configuration = tmp_path / "second.yaml"
    configuration.write_text("use_peft: true\nlora_r: 2\nlora_target_modules: all-linear\n")
    given = ["--config", str(configuration), *rate]
    assert run_command("train", str(more), tmp_path, *given, output="second") == 0
    assert chain_of(str(second)) == [str(second), str(more), str(base)]
    assert yaml.safe_load((second / "config.yaml").read_text())["lora_r"] == 2
    revisions = [evaluate(folder, tmp_path)["engine"]["revision"] for folder in (base, warm, more, second)]
    parts = [revision.split(" of ") for revision in revisions]
    assert [len(part) for part in parts] == [1, 2, 2, 3]
    assert parts[3][1:] == parts[2]
    assert parts[2][1] == parts[1][1] == parts[0][0]
    assert len({part[0] for part in parts}) == 4
    card = (second / "README.md").read_text()
    assert 'model = load_weights("second")' in card
    assert "on down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj) of `more`" in card


def test_a_run_does_not_delete_the_base_of_its_model(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = tmp_path / "run" / "checkpoint-2"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(inner)
    AutoTokenizer.from_pretrained(base).save_pretrained(inner)
    folder = save_adapter(inner, tmp_path / "adapter")
    assert run_command("train", str(folder), tmp_path, "--overwrite", "true") == 2
    assert f"the model {inner} lies in output_dir {tmp_path / 'run'}" in capsys.readouterr().err
