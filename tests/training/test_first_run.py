"""docs/first-run.md and README.md do as they stand; only the model's name is replaced by a tiny chat model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from places import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.configuration import RECIPES, read_config
from sgpo.training.arguments import TrainArguments
from sgpo.training.config import SGPOConfig

PAGE = ROOT / "docs" / "first-run.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HUB_NAME = re.compile(r"\b(?:HuggingFaceTB|Qwen)/[\w.-]+")
# What a machine without a GPU, and a test, cannot do as it stands.
SMALLER = {
    "sgpo train --config own/one-gpu": "--use_cpu true --bf16 false --problems_per_rollout 12 --max_steps 2 "
    "--max_completion_length 64 --eval_steps 2 --save_steps 2"
}


def blocks(text: str, language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(text) if name == language]


@pytest.fixture(scope="module")
def student(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model whose context is as long as that of SmolLM2-135M-Instruct."""
    folder = tmp_path_factory.mktemp("student")
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.config.max_position_embeddings = 8192
    model.generation_config.eos_token_id = list(range(1, model.config.vocab_size, 20))  # or no answer would end
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


def with_model(command: str, student: Path) -> str:
    """A command that takes its model from a recipe gets it as an option."""
    command = HUB_NAME.sub(str(student), command)
    for line in re.findall(r"^sgpo train .*$", command, re.MULTILINE):
        command = command.replace(line, f"{line} --model {student} {SMALLER.get(line, '')}")
    return command


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """In which `sgpo` is that of this checkout, and the Hub out of reach."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sgpo").write_text(f'#!/bin/sh\nexec {sys.executable} -m sgpo "$@"\n')
    (tools / "sgpo").chmod(0o755)
    return {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}


@pytest.mark.integration
def test_the_page_from_its_first_block_to_its_last(student: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    ran = []
    for language, code in BLOCK.findall(PAGE.read_text()):
        if language not in ("bash", "python"):
            continue
        command = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*command, with_model(code, student)], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        ran.append(done.stdout)
    assert sum("training problems: 12, fingerprint" in out for out in ran) == 3
    first = folder / "runs" / "first"
    for name in ("model.safetensors", "README.md", "metrics.jsonl", "config.yaml", "data.json"):
        assert (first / name).is_file(), name
    lines = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "eval_avg_at_2" in line] == [6]
    assert list((first / "completions").glob("*.parquet"))
    assert list((folder / "runs" / "pictures").glob("*.png"))
    python = yaml.safe_load((folder / "runs" / "first-in-python" / "config.yaml").read_text())
    assert (python["problems_per_rollout"], python["max_steps"]) == (12, 2)
    assert (folder / "runs" / "one-gpu" / "checkpoint-2").is_dir()


def write_data(folder: Path) -> None:
    """The problems of the page."""
    for code in blocks(PAGE.read_text(), "bash")[:2]:
        subprocess.run(["bash", "-euo", "pipefail", "-c", code], cwd=folder, check=True)


def test_the_readme_trains_on_twelve_problems(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    (code,) = blocks((ROOT / "README.md").read_text(), "python")
    (name,) = HUB_NAME.findall(code)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    exec(code.replace(name, str(student)), {})
    assert "problems_per_rollout is 12, not the default of 128: there are 12 problems.\n" in capsys.readouterr().out
    lines = [json.loads(line) for line in Path("runs/first/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "eval_avg_at_4" in line] == [4]
    assert Path("runs/first/model.safetensors").is_file()


def test_the_page_shows_the_recipe() -> None:
    (shown,) = blocks(PAGE.read_text(), "yaml")
    assert shown == (RECIPES / "own" / "cpu.yaml").read_text()


@pytest.mark.parametrize("name", ["cpu", "one-gpu"])
def test_own_recipes_explain_each_key_and_name_a_model_of_the_hub(name: str, tmp_path: Path) -> None:
    path = RECIPES / "own" / f"{name}.yaml"
    keys = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"\w+: .*\S +# \S.*", line) for line in keys), keys
    values = read_config(path)
    assert len(values) == len(keys)
    assert HUB_NAME.fullmatch(values["model"])
    of_data = {field for field in TrainArguments.__dataclass_fields__ if field in values}
    on_cpu = {"use_cpu": True, "bf16": False, "output_dir": str(tmp_path)}
    SGPOConfig(**{**{key: value for key, value in values.items() if key not in of_data}, **on_cpu})
