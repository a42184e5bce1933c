"""`sgpo eval --sampler vllm` with a pretrained chat model, in vLLM's environment.

    SGPO_REAL_MODEL=FOLDER .venv-vllm/bin/python -m pytest -m realmodel tests/realmodel/test_vllm_commands.py

where FOLDER was made by tools/real_model.py, and the environment is that of constraints/vllm.txt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import vllm_cpu
from datasets import Dataset

from sgpo.cli import main
from sgpo.models.weights import load_weights
from sgpo.problems import Problem
from sgpo.prompts import encode_prompts, student_messages
from sgpo.sampling.records import SampleRequest, SamplingConfig

pytest.importorskip("vllm")
pytestmark = pytest.mark.realmodel
LENGTH = 24


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    vllm_cpu.use_in_this_process(monkeypatch)


def completions(model: Path, problems: Path, output: Path, *options: str) -> tuple[dict[str, Any], list[str]]:
    """Summary, and greedy answers in the order of the problems."""
    given = ["--model", str(model), "--problems", str(problems), "--k", "1", "--temperature", "0"]
    assert main(["eval", *given, "--max_completion_length", str(LENGTH), "--output", str(output), *options]) == 0
    rows = Dataset.from_parquet(str(output / "samples" / "problems.parquet")).to_list()
    return json.loads((output / "summary.json").read_text()), [row["completion"] for row in rows]


@pytest.mark.usefixtures("on_cpu")
def test_greedy_answers_are_those_of_transformers(real_model: Path, problems_file: Path, tmp_path: Path) -> None:
    """Of 16 answers one may part where two tokens are about as probable."""
    vllm = ["--sampler", "vllm", "--vllm_max_model_length", "512"]
    _, expected = completions(real_model, problems_file, tmp_path / "transformers")
    summary, found = completions(real_model, problems_file, tmp_path / "vllm", *vllm)
    assert len(found) == 16
    assert sum(one == other for one, other in zip(found, expected, strict=True)) >= 15
    assert summary["engine"]["name"] == "vllm"
    assert all(len(text) > 10 for text in found)


@pytest.mark.usefixtures("on_cpu")
def test_log_probabilities_of_the_engine_are_those_of_the_plain_model(
    real_model: Path, real_tokenizer: Any, problems: list[Problem]
) -> None:
    from sgpo.sampling.vllm import VLLMSampler
    from sgpo.sampling.vllm_engines import CheckpointEngine

    engine = CheckpointEngine(str(real_model), dtype="float32", gpu_memory_utilization=0.9, max_model_length=512)
    prompts = encode_prompts(real_tokenizer, [student_messages(p.prompt) for p in problems[:4]])
    requests = [SampleRequest(ids, 2) for ids in prompts]
    ends = [2, *real_tokenizer.convert_tokens_to_ids([".", ","])]  # as a model with several end tokens
    sampled = VLLMSampler(engine, ends).sample(requests, SamplingConfig(LENGTH, 1.0, 1.0), seed=3)
    model = load_weights(str(real_model))
    for ids, group in zip(prompts, sampled, strict=True):
        for rollout in group:
            with torch.no_grad():
                logits = model(torch.tensor([[*ids, *rollout.completion_ids]])).logits[0, len(ids) - 1 : -1]
            expected = logits.log_softmax(-1).gather(-1, torch.tensor(rollout.completion_ids)[:, None]).squeeze(-1)
            torch.testing.assert_close(rollout.sampler_logprobs, expected, atol=1e-3, rtol=0)
            assert rollout.truncated == (rollout.completion_ids[-1] not in ends)
            assert not {*ends} & {*rollout.completion_ids[:-1]}
    assert {rollout.completion_ids[-1] for group in sampled for rollout in group} & {*ends[1:]}
