"""Sleep mode: when the engine sleeps and wakes. vLLM has it on GPUs only, so that what stands in for it sleeps here.

Run as tests/sampling/test_vllm.py.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from sgpo.errors import EngineError
from sgpo.sampling.records import SampleRequest, SamplingConfig

pytestmark = pytest.mark.vllm_engine
AWAKE = {"weights", "kv_cache"}
PROMPT = SampleRequest([5, 6, 7], 1)
GREEDY = SamplingConfig(8, 0.0)


class SleepyLLM:
    """In place of vLLM's `LLM`: notes its calls, and insists on being awake for what needs it."""

    def __init__(self, **options: Any) -> None:
        self.sleeps = options["enable_sleep_mode"]
        self.awake = set(AWAKE)
        self.calls: list[str] = []
        self.weights: dict[str, torch.Tensor] = {}
        self.probability: Any = None  # of a text, as the model in training computes it
        runner = SimpleNamespace(model=SimpleNamespace(load_weights=self.load))
        executor = SimpleNamespace(driver_worker=SimpleNamespace(model_runner=runner))
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=256), model_executor=executor)

    def sleep(self, level: int) -> None:
        assert self.sleeps
        assert self.awake == AWAKE
        self.awake = set()
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        assert not self.awake & set(tags)
        self.awake |= set(tags)
        self.calls.append(f"wake {' '.join(tags)}")

    def load(self, weights: Any) -> None:
        assert "weights" in self.awake
        if self.calls[-1:] != ["load"]:
            self.calls.append("load")

    def reset_prefix_cache(self) -> bool:
        assert self.awake == AWAKE
        self.calls.append("reset")
        return True

    def generate(self, prompts: Any, options: Any, use_tqdm: Any) -> list[Any]:
        assert self.awake == AWAKE
        self.calls.append("probe" if options[0].prompt_logprobs is not None else "generate")
        if options[0].prompt_logprobs is None:
            end = SimpleNamespace(token_ids=[2], logprobs=[{2: SimpleNamespace(logprob=-1.0, rank=1)}])
            return [SimpleNamespace(outputs=[end]) for _ in prompts]
        ids = prompts[0]["prompt_token_ids"]
        found = [
            {token: SimpleNamespace(logprob=value)} for token, value in zip(ids[1:], self.probability(ids), strict=True)
        ]
        return [SimpleNamespace(prompt_logprobs=[None, *found])]


def make(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, *, sleeps: bool) -> tuple[Any, SleepyLLM]:
    from sgpo.sampling import vllm_engines
    from sgpo.sampling.vllm import VLLMSampler
    from sgpo.sampling.vllm_weights import Synchronisation

    monkeypatch.setattr(vllm_engines, "LLM", SleepyLLM)
    args = SimpleNamespace(
        vllm_tensor_parallel_size=1,
        vllm_enable_sleep_mode=sleeps,
        vllm_sync_timeout=60.0,
        vllm_gpu_memory_utilization=0.3,
        vllm_max_model_length=256,
    )
    engine = vllm_engines.ColocatedEngine(args, str(checkpoint), Accelerator(cpu=True), "float32")
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    synchronisation = Synchronisation(engine, model, [5, 6, 7, 8], nullcontext, exact=True, seconds=60.0)

    def probability(ids: list[int]) -> list[float]:
        return synchronisation._probe().tolist()

    engine.llm.probability = probability
    return VLLMSampler(engine, [2], synchronisation), engine.llm


def test_the_engine_sleeps_but_from_new_weights_to_the_end_of_sampling(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, llm = make(checkpoint, monkeypatch, sleeps=True)
    synchronised = ["wake weights", "load", "wake kv_cache", "reset", "probe"]
    assert llm.calls == ["sleep 2"]
    for _ in range(2):
        llm.calls.clear()
        with sampler.current():
            for _ in range(2):
                assert sampler.sample([PROMPT], GREEDY, seed=0)[0][0].completion_ids == [2]
        assert llm.calls == [*synchronised, "generate", "generate", "sleep 2"]
    llm.calls.clear()
    sampler.sample([PROMPT], GREEDY, seed=0)
    assert llm.calls == [*synchronised, "generate", "sleep 2"]


def test_an_engine_that_was_left_awake_is_not_woken(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, llm = make(checkpoint, monkeypatch, sleeps=True)
    with pytest.raises(EngineError, match="out of order"), sampler.current():
        raise EngineError("out of order")
    assert llm.calls[-1] == "probe"
    llm.calls.clear()
    with sampler.current():
        pass
    assert llm.calls == ["load", "reset", "probe", "sleep 2"]


def test_without_sleep_mode_it_stays_awake(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, llm = make(checkpoint, monkeypatch, sleeps=False)
    with sampler.current():
        pass
    assert llm.calls == ["load", "reset", "probe"]
