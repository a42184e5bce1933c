"""`sgpo eval --sampler vllm`, for real: vLLM for CPU and the mini-world's base model.

    .venv-vllm/bin/python -m pytest -m vllm_engine

in the environment of constraints/vllm.txt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import vllm_cpu

from sgpo.cli import main
from sgpo.miniworld.world import BASE_MODEL, Sizes, create_world
from sgpo.problems import load_problems

pytestmark = pytest.mark.vllm_engine
COUNT = 24


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_world(tmp_path_factory.mktemp("world"), sizes=Sizes.only(dev=COUNT))


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    vllm_cpu.use_in_this_process(monkeypatch)


def evaluated(
    world: Path, output: str, *options: str, model: Path = BASE_MODEL
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and samples of the guided evaluation: the base follows strategies, so its answers are short and right."""
    from datasets import Dataset

    problems = str(world / "dev.jsonl")
    arguments = ["--model", str(model), "--problems", problems, "--guided", "--max_completion_length", "72"]
    assert main(["eval", *arguments, "--output", str(world / output), *options]) == 0
    summary = json.loads((world / output / "summary.json").read_text())
    return summary, Dataset.from_parquet(str(world / output / "samples" / "dev.parquet")).to_list()


def test_greedy_answers_are_those_of_transformers(world: Path) -> None:
    greedy = ["--k", "1", "--temperature", "0"]
    _, expected = evaluated(world, "transformers", *greedy)
    summary, found = evaluated(world, "vllm", *greedy, "--sampler", "vllm", "--vllm_max_model_length", "256")
    assert len(found) == len(load_problems(world / "dev.jsonl")) == COUNT
    texts = [row["completion"] for row in found]
    assert texts == [row["completion"] for row in expected]
    assert summary["engine"]["name"] == "vllm"
    right = [row["reward"] for row in found]
    assert 0.5 < sum(right) / COUNT <= 1.0
    assert summary["benchmarks"]["dev"]["average"] == pytest.approx(sum(right) / COUNT)


def test_completions_are_counted_while_they_are_sampled(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr("sgpo.screen.Meter.add", lambda meter, count, tokens=0: seen.append(count))
    evaluated(world, "counted", "--k", "3", "--sampler", "vllm", "--vllm_max_model_length", "256")
    assert sum(seen) == 3 * COUNT
    assert len([count for count in seen if count]) > 3  # in one call of the engine


def test_an_adapter_is_evaluated_as_with_transformers(world: Path) -> None:
    peft = pytest.importorskip("peft")
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(BASE_MODEL), peft.LoraConfig(target_modules="all-linear")
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapter = world / "adapter"
    model.save_pretrained(adapter)
    greedy = ["--k", "1", "--temperature", "0"]
    _, plain = evaluated(world, "base", *greedy)
    _, expected = evaluated(world, "adapter-transformers", *greedy, model=adapter)
    engine = ["--sampler", "vllm", "--vllm_max_model_length", "256"]
    summary, found = evaluated(world, "adapter-vllm", *greedy, *engine, model=adapter)
    texts = [[row["completion"] for row in rows] for rows in (plain, expected, found)]
    assert texts[1] != texts[0]
    assert texts[2] == texts[1]
    assert summary["engine"]["revision"].count("sha256:") == 2
    assert main(["export", "--model", str(adapter), "--output", str(world / "merged")]) == 0
    _, exported = evaluated(world, "merged-vllm", *greedy, *engine, model=world / "merged")
    assert [row["completion"] for row in exported] == texts[1]
