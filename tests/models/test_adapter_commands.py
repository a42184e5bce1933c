"""The commands with adapters: warm-up, training, evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from adapter_cases import run_command, save_adapter
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.cli import main
from sgpo.models.adapters import chain_of

pytest.importorskip("peft")


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
