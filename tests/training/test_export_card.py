"""The model card of `sgpo export`: the table's values are those of the runs, and nothing is said that is not known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from adapter_cases import run_command, save_adapter

from sgpo import __version__
from sgpo.cli import main

pytest.importorskip("peft")
ADAPTER = ["--use_peft", "true", "--lora_r", "2", "--lora_alpha", "6", "--lora_target_modules", "q_proj"]


def card_of(model: Path, output: Path, *options: str) -> tuple[dict[str, object], str]:
    """Metadata and text."""
    assert main(["export", "--model", str(model), "--output", str(output), *options]) == 0
    _, head, body = (output / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def rows(section: str) -> dict[str, str]:
    """Of the table in a section."""
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ") and len(line) > 8]
    return {name: value for name, value in cells if name}


@pytest.mark.integration
def test_a_chain_is_described_from_what_its_runs_recorded(checkpoint: Path, tmp_path: Path) -> None:
    assert run_command("sft", str(checkpoint), tmp_path, *ADAPTER, "--learning_rate", "0.003", output="warm") == 0
    changes = ["--method", "grpo", "--eps_high", "0.31", "--learning_rate", "0.0001", "--system_prompt", "Think."]
    assert run_command("train", str(tmp_path / "warm"), tmp_path, *ADAPTER, *changes, output="rl") == 0
    head, body = card_of(tmp_path / "rl", tmp_path / "merged", "--dtype", "bfloat16")
    assert head == {
        "library_name": "transformers",
        "model_name": "merged",
        "pipeline_tag": "text-generation",
        "tags": ["sgpo", "sft", "grpo"],
    }
    begun = f"This is `{checkpoint.name}` with the adapters `warm` and `rl` merged into its weights, trained with GRPO"
    assert begun in body
    assert "expects it: 'Think.'" in body
    _, use, merging, warm, rl, versions, _ = body.split("\n## ")
    assert 'model="merged"' in use
    assert rows(merging) == {
        "base model": f"`{checkpoint.name}`, float32",
        "adapter `warm`": "LoRA, r 2, alpha 6, on q_proj",
        "adapter `rl`": "LoRA, r 2, alpha 6, on q_proj",
        "merged in": "float32, then rounded once to bfloat16",
        "dtype of the weights": "bfloat16",
    }
    assert warm.startswith("Training of `warm`\n")
    data = json.loads((tmp_path / "rl" / "data.json").read_text())["train"]
    problems = {"train problems": f"12 of `problems.jsonl`, fingerprint `{data['fingerprint']}`"}
    of_warm = {"method": "sft", "max_steps": "2", "learning_rate": "0.003", "lr_scheduler_type": "cosine", "seed": "42"}
    assert rows(warm) == {**of_warm, **problems}
    found = rows(rl)
    expected = {"method": "grpo", "updates": "2", "learning_rate": "0.0001", "eps_high": "0.31", "num_autonomous": "3"}
    assert found.items() >= {**expected, **problems}.items()
    assert not found.keys() & {"alpha_max", "num_train_epochs", "output_dir"}
    assert rows(versions)["sgpo"] == __version__
    assert "licen" not in body + str(head)
    assert str(tmp_path) not in body
    _, body = card_of(tmp_path / "rl" / "checkpoint-2", tmp_path / "other")  # what is recorded is a folder above
    of_checkpoint = rows(body.split("\n## ")[4])
    assert body.split("\n## ")[4].startswith("Training of `rl/checkpoint-2`\n")
    assert of_checkpoint == found
    assert rows(body.split("\n## ")[2])["merged in"] == "float32"


def test_a_bare_adapter_says_that_nothing_is_recorded(checkpoint: Path, tmp_path: Path) -> None:
    adapter = save_adapter(checkpoint, tmp_path / "adapter")
    head, body = card_of(adapter, tmp_path / "merged")
    assert head["tags"] == ["sgpo"]
    assert f"This is `{checkpoint.name}` with the adapter `adapter` merged into its weights." in body
    assert "## Training of `adapter`\n\nData and recipe are not recorded beside this adapter." in body
    assert "system turn" not in body
    assert "Citation" not in body


def test_a_base_of_the_hub_is_named_in_the_metadata(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sgpo.models.export import prepare_export
    from sgpo.training import export_card

    export = prepare_export(str(save_adapter(checkpoint, tmp_path / "adapter")), tmp_path / "merged")
    monkeypatch.setattr(export_card, "chain_of", lambda name: [name, "someone/model"])
    _, head, body = export_card.export_card(export).split("---\n", 2)
    assert yaml.safe_load(head)["base_model"] == "someone/model"
    assert "| base model | `someone/model`, float32 |" in body


def test_a_record_that_cannot_be_read_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = save_adapter(checkpoint, tmp_path / "adapter")
    (adapter / "config.yaml").write_text("method: [")
    capsys.readouterr()
    assert main(["export", "--model", str(adapter), "--output", str(tmp_path / "merged")]) == 2
    assert capsys.readouterr().err.startswith(f"sgpo export: {adapter / 'config.yaml'} cannot be read (while parsing")
    assert not (tmp_path / "merged").exists()
