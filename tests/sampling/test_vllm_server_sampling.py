"""`sampler: vllm` with `vllm_mode: server`, for real: vLLM's own server on a CPU, and the mini-world's base model.

Run as tests/sampling/test_vllm.py. The weights go through a TCP store in place of NCCL, which needs GPUs (vllm_cpu.py);
the requests around it, the metadata and the loading are those of vLLM and TRL.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import vllm_cpu
from processes import free_port
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm_servers import Server

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.errors import EngineError
from sgpo.miniworld.world import BASE_MODEL, Sizes, problem_sets
from sgpo.sampling import engines
from sgpo.sampling.records import SamplingConfig
from sgpo.sampling.transformers import TransformersSampler

pytestmark = pytest.mark.vllm_engine
PROBLEMS = problem_sets(3, Sizes.only(rl=16))["rl"]
LIMIT = 96


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    try:
        running.wait()
        yield running
    finally:
        running.kill()


@pytest.fixture
def make_run(
    server: Server, make_config: Callable[..., SGPOConfig], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SGPOTrainer]:
    for name, value in vllm_cpu.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    vllm_cpu.install_transport_of_trainer(monkeypatch)
    monkeypatch.setattr(engines, "check_vllm", lambda mode: None)  # server mode needs CUDA, but for the TCP store

    def make(**changes: Any) -> SGPOTrainer:
        values = {
            "sampler": "vllm",
            "vllm_mode": "server",
            "vllm_server_base_url": server.url,
            "vllm_group_port": free_port(),
            "vllm_sync_timeout": 60.0,
            "max_completion_length": LIMIT,
            "max_tokens_per_microbatch": 4096,
            "num_autonomous": 8,
            "num_guided": 4,
            "learning_rate": 1e-3,
            "max_steps": 6,
            "importance_cap": 2.0,
            **changes,
        }
        return SGPOTrainer(str(BASE_MODEL), make_config(**values), PROBLEMS, reward_funcs=even_length)

    return make


def even_length(completions: list[Any], **columns: Any) -> list[float]:
    return [float(len(str(completion)) % 2 == 0) for completion in completions]


def test_training_steps_and_a_weight_that_does_not_fit(make_run: Callable[..., SGPOTrainer], server: Server) -> None:
    """One server for all of it, since its start is what takes long."""
    from sgpo.sampling.vllm import VLLMSampler

    trainer = make_run()
    sampler, engine = trainer.sampler, trainer.sampler.engine
    assert engine.max_model_len == 256

    # Training: every rollout batch is sampled from the weights of the last update.
    asked: list[tuple[int, int]] = []
    (client,) = engine.clients
    generate = client.generate

    def counted(prompts: Any, n: int, **options: Any) -> Any:
        asked.append((len(prompts), n))
        return generate(prompts, n=n, **options)

    client.generate = counted
    trainer.train()
    logs = [line for line in trainer.state.log_history if "loss" in line]
    seen = [line["sampler_mismatch"] for line in logs if "sampler_mismatch" in line]
    print("mismatch of each rollout batch", seen)
    assert len(seen) == 3
    assert max(seen) < 1e-5
    assert all(line["grad_norm"] > 0 for line in logs)
    assert sorted(asked) == sorted([(1, 8)] * 12 + [(1, 4)] * 12)

    # Greedy, seeds, end tokens and truncation, as in the other mode.
    requests = requests_of(trainer)
    greedy = SamplingConfig(LIMIT, 0.0)
    ours = TransformersSampler.of(trainer.model, trainer.processing_class).sample(requests, greedy, seed=0)
    theirs = sampler.sample(requests, greedy, seed=0)
    assert [[r.completion_ids for r in group] for group in theirs] == [
        [r.completion_ids for r in group] for group in ours
    ]
    first, again, other = (sampler.sample(requests, SamplingConfig(16, 1.0, 1.0), seed=s) for s in (1, 1, 2))
    assert ids_of(first) == ids_of(again) != ids_of(other)
    for rollout in (r for group in first for r in group):
        assert rollout.truncated == (rollout.completion_ids[-1] != trainer.processing_class.eos_token_id)
        assert len(rollout.completion_ids) == 16 or not rollout.truncated

    # The known answer comes only after the update.
    prompt, tokenizer = requests[0].prompt_ids, trainer.processing_class
    answer = [*tokenizer("\\boxed{31415}", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    before = sampler.sample(requests[:1], greedy, seed=0)[0][0].completion_ids
    learn(trainer.model, prompt, answer)
    old = VLLMSampler(engine, sampler.eos_token_ids).sample(requests[:1], greedy, seed=0)
    assert old[0][0].completion_ids == before != answer
    assert sampler.sample(requests[:1], greedy, seed=0)[0][0].completion_ids == answer

    # Base and adapter arrive under the names of the base.
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(BASE_MODEL, dtype=torch.float32), lora)
    short = SamplingConfig(16, 0.0)
    ours = TransformersSampler.of(adapted, trainer.processing_class).sample(requests[:1], short, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler.synchronisation, "model", adapted)
        found_ids = sampler.sample(requests[:1], short, seed=0)[0][0].completion_ids
    assert found_ids == ours[0][0].completion_ids != before[:16]

    # A weight that does not fit: the server says so, while TRL would wait for its worker for ever.
    wrong = [("model.layers.0.mlp.up_proj.weight", torch.zeros(3, 5)), ("model.norm.weight", torch.zeros(4))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler.synchronisation, "weights", lambda: iter(wrong))
        with pytest.raises(EngineError, match="the weight synchronisation failed: ") as found:
            sampler.sample(requests[:1], greedy, seed=0)
    print(found.value)
    assert found.value.__cause__ is not None


def requests_of(trainer: SGPOTrainer) -> list[Any]:
    """What the trainer asks for: both groups of four problems."""
    asked: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.sampler, "sample", lambda requests, *a, **k: asked.extend(requests) or iter(()))
        with pytest.raises(ValueError, match="shorter"):
            trainer._sample(PROBLEMS[:4])
    return asked


def ids_of(groups: list[list[Any]]) -> list[list[list[int]]]:
    return [[rollout.completion_ids for rollout in group] for group in groups]


def learn(model: Any, prompt: list[int], answer: list[int]) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(30):
        labels = torch.tensor([[-100] * len(prompt) + answer])
        model(torch.tensor([prompt + answer]), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_server_that_dies_ends_the_run_with_its_error(make_run: Callable[..., SGPOTrainer], server: Server) -> None:
    trainer = make_run()
    (client,) = trainer.sampler.engine.clients
    post, posted = client._post, []

    def killing(url: str, **options: Any) -> Any:
        posted.append(url)
        if sum(each.endswith("/completions") for each in posted) == 12:  # of the second rollout batch
            threading.Timer(0.1, server.kill).start()
        return post(url, **options)

    client._post = killing
    began = time.monotonic()
    with pytest.raises(EngineError, match="vLLM failed while sampling: ") as found:
        trainer.train()
    print(found.value, f"\n{time.monotonic() - began:.1f} seconds after the start of the run")
    assert server.process.wait(timeout=30) == -signal.SIGKILL  # the connection may end a moment before the process
    assert trainer.state.global_step == 2
    # And from then on at once, too.
    with pytest.raises(EngineError, match="the weight synchronisation failed: "):
        trainer.sampler.sample(requests_of(trainer)[:1], SamplingConfig(4), seed=0)


# --- what is refused before weights are loaded ----------------------------------------------------------------


@pytest.fixture
def told() -> Iterator[tuple[str, dict[str, Any]]]:
    """A server that says of itself what the test wants: its address, and its configuration."""
    config: dict[str, Any] = {
        "weight_transfer_config": {"backend": "nccl"},
        "model_config": {"logprobs_mode": "raw_logprobs", "max_model_len": 256},
    }
    answers: dict[str, Any] = {"/health": {}, "/v1/models": {"data": [{"id": "m"}]}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            answer = answers.get(path, {"vllm_config": config} if config else None)
            body = json.dumps(answer).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", config
        listening.shutdown()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_transfer_config": None}, "cannot receive weights; start it with: VLLM_SERVER_DEV_MODE=1 vllm serve"),
        (
            {"model_config": {"logprobs_mode": "processed_logprobs", "max_model_len": 256}},
            "returns processed_logprobs, and the losses need raw_logprobs",
        ),
        (
            {"model_config": {"logprobs_mode": "raw_logprobs", "max_model_len": 96}},
            r"max_completion_length \(96\) leaves no room for a prompt in the context of 96 tokens",
        ),
        (None, "does not expose its development endpoints"),
    ],
)
def test_a_server_that_cannot_be_trained_with_is_refused(
    told: tuple[str, dict[str, Any]],
    changes: dict[str, Any] | None,
    message: str,
    make_config: Callable[..., SGPOConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, config = told
    config.update(changes) if changes is not None else config.clear()
    monkeypatch.setattr(engines, "check_vllm", lambda mode: None)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("weights were loaded"))
    options = {"sampler": "vllm", "vllm_mode": "server", "vllm_server_base_url": address}
    args = make_config(**options, max_completion_length=LIMIT)
    with pytest.raises(ValueError, match=message):
        SGPOTrainer(str(BASE_MODEL), args, PROBLEMS, processing_class=AutoTokenizer.from_pretrained(BASE_MODEL))


def test_a_server_that_is_not_there_is_refused_in_time(
    make_config: Callable[..., SGPOConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "check_vllm", lambda mode: None)
    address = f"http://127.0.0.1:{free_port()}"
    options = {"sampler": "vllm", "vllm_mode": "server", "vllm_server_base_url": address, "vllm_server_timeout": 1.0}
    with pytest.raises(ValueError, match=f"vllm_server_base_url {address}: The vLLM server can't be reached"):
        SGPOTrainer(str(BASE_MODEL), make_config(**options), PROBLEMS)
