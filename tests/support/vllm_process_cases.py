"""What two processes do in test_vllm_processes.py: `python vllm_process_cases.py CASE FOLDER URLS`, once a process.

Inside the environment of constraints/vllm.txt; URLS are those of servers, which the test has started.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import vllm_cpu
from cpu_accelerators import take_cpus_for_accelerators, without_shared_memory

os.environ.update(vllm_cpu.ENVIRONMENT)

from sgpo import SGPOConfig, SGPOTrainer, distributed, sharding
from sgpo.errors import EngineError, UnfinishedError
from sgpo.miniworld.world import BASE_MODEL, Sizes, problem_sets
from sgpo.sampling import engines
from sgpo.sampling.records import SampleRequest, SamplingConfig
from sgpo.sampling.transformers import TransformersSampler
from sgpo.sampling.vllm_engines import ColocatedEngine
from sgpo.sampling.weights import current_weights

RANK = int(os.environ.get("RANK", 0))
PROBLEMS = problem_sets(3, Sizes.only(rl=16))["rl"]
PROMPTS = [SampleRequest([5, 6, 7, 8 + n], 2) for n in range(6)]
GREEDY = SamplingConfig(24, 0.0)


class Patch:
    """As pytest's monkeypatch; nothing has to be undone here."""

    def setattr(self, owner: Any, name: str, value: Any) -> None:
        setattr(owner, name, value)


def even_length(completions: list[Any], **columns: Any) -> list[float]:
    return [float(len(str(completion)) % 2 == 0) for completion in completions]


def make(folder: Path, mode: str, adapter: Any = None, **changes: Any) -> SGPOTrainer:
    values: dict[str, Any] = {
        "sampler": "vllm",
        "vllm_mode": mode,
        "vllm_sync_timeout": 60.0,
        "max_completion_length": 48,
        "max_tokens_per_microbatch": 4096,
        "num_autonomous": 4,
        "num_guided": 2,
        "problems_per_rollout": 6,
        "updates_per_rollout": 2,
        "learning_rate": 1e-3,
        "max_steps": 4,
        "importance_cap": 2.0,
        "save_strategy": "no",
        "use_cpu": True,
        **changes,
    }
    config = SGPOConfig(output_dir=str(folder / "run"), report_to="none", disable_tqdm=True, **values)
    return SGPOTrainer(str(BASE_MODEL), config, PROBLEMS, reward_funcs=even_length, peft_config=adapter)


def with_servers(folder: Path, urls: str, **changes: Any) -> SGPOTrainer:
    vllm_cpu.install_transport_of_trainer(Patch())
    engines.check_vllm = lambda mode: None  # server mode needs CUDA, but for the TCP store
    port = int((folder / "port").read_text())
    return make(folder, "server", vllm_server_base_url=urls, vllm_group_port=port, **changes)


def said(trainer: SGPOTrainer) -> dict[str, Any]:
    """What the test looks at: how near the engine's log-probabilities were, of all processes together."""
    lines = [line for line in trainer.state.log_history if "loss" in line]
    return {
        "mismatch": [line["sampler_mismatch"] for line in lines if "sampler_mismatch" in line],
        "norms": [line["grad_norm"] for line in lines],
    }


def learn(trainer: SGPOTrainer, prompt: list[int], answer: list[int], rate: float) -> None:
    """The same steps in all processes, whose models stay equal."""
    model = trainer.model
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    labels = torch.tensor([[-100] * len(prompt) + answer])
    for _ in range(30):
        model(torch.tensor([prompt + answer]), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def trained_and_asked(trainer: SGPOTrainer, rate: float = 1e-3) -> dict[str, Any]:
    """Training, then the known answer, which comes only after the synchronisation; and old weights, which are seen."""
    trainer.train()
    found = said(trainer)
    sampler, tokenizer = trainer.sampler, trainer.processing_class
    own = PROMPTS[: 1 + 4 * RANK]  # processes have as many prompts as they may
    answer = [*tokenizer("\\boxed{31415}", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with current_weights(sampler, trainer.model_wrapped):
        before = sampler.sample(own, GREEDY, seed=0)
        drawn = [sampler.sample(own, SamplingConfig(16, 1.0, 1.0), seed=seed) for seed in (RANK, RANK, RANK + 10)]
        learn(trainer, own[0].prompt_ids, answer, rate)
        old = sampler.sample(own, GREEDY, seed=0)
    found["kept"] = old == before
    found["seeded"] = drawn[0] == drawn[1] != drawn[2]
    found["stale"] = without_new_weights(trainer)
    with current_weights(sampler, trainer.model_wrapped):
        after = sampler.sample(own, GREEDY, seed=0)
    found["answer"] = after[0][0].completion_ids == answer != before[0][0].completion_ids
    return found


def without_new_weights(trainer: SGPOTrainer) -> str:
    """What is said if the engine does not get them."""
    sampler = trainer.sampler
    load, sampler.engine.load = sampler.engine.load, lambda weights: None
    try:
        with current_weights(sampler, trainer.model_wrapped):
            raise AssertionError("old weights were not noticed")
    except UnfinishedError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        sampler.engine.load = load


def servers(folder: Path, urls: str) -> dict[str, Any]:
    """Two servers: both get prompts of every process."""
    trainer = with_servers(folder, urls)
    asked = [0] * len(trainer.sampler.engine.clients)
    for number, client in enumerate(trainer.sampler.engine.clients):
        generate = client.generate

        def counted(*arguments: Any, number: int = number, generate: Any = generate, **options: Any) -> Any:
            asked[number] += 1
            return generate(*arguments, **options)

        client.generate = counted
    found = trained_and_asked(trainer)
    return found | {"asked": asked}


def misfit(folder: Path, urls: str) -> dict[str, Any]:
    """One server, and a weight that does not fit. The server has to be started anew afterwards."""
    trainer = with_servers(folder, urls)
    wrong = [("model.layers.0.mlp.up_proj.weight", torch.zeros(3, 5))]
    trainer.sampler.synchronisation.weights = lambda: iter(wrong)
    began = time.monotonic()
    return {"failure": failure_of(trainer), "seconds": time.monotonic() - began}


def failure_of(trainer: SGPOTrainer) -> str:
    try:
        with current_weights(trainer.sampler, trainer.model_wrapped), distributed.together():
            trainer.sampler.sample(PROMPTS[:1], GREEDY, seed=0)
    except UnfinishedError as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("nothing failed")


def killed_server(folder: Path, urls: str) -> dict[str, Any]:
    """The test kills the second server when the first process has begun its second rollout batch."""
    trainer = with_servers(folder, urls)
    sample = trainer.sampler.sample

    def marked(*arguments: Any, **options: Any) -> Any:
        if trainer.state.global_step == 2 and RANK == 0:
            (folder / "kill").touch()
            while not (folder / "killed").exists():
                time.sleep(0.05)
        return sample(*arguments, **options)

    trainer.sampler.sample = marked
    try:
        trainer.train()
    except UnfinishedError as error:
        return {"failure": f"{type(error).__name__}: {error}"}
    raise AssertionError("nothing failed")


def killed_process(folder: Path, urls: str) -> dict[str, Any]:
    """The second process is killed while the first waits for it: it ends with an error, and does not hang."""
    trainer = with_servers(folder, urls, max_steps=2)
    sample = trainer.sampler.sample

    def dies(*arguments: Any, **options: Any) -> Any:
        if RANK == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return sample(*arguments, **options)

    trainer.sampler.sample = dies
    trainer.train()
    raise AssertionError("nothing failed")


def with_engines(folder: Path, **changes: Any) -> SGPOTrainer:
    vllm_cpu.keep_weights()
    ColocatedEngine.OPTIONS = vllm_cpu.OPTIONS
    return make(folder, "colocate", vllm_max_model_length=256, **changes)


def divided_adapter(folder: Path, urls: str) -> dict[str, Any]:
    """An engine in each process gets base and adapter together, of a model that FSDP2 divides."""
    from peft import LoraConfig

    take_cpus_for_accelerators()
    adapter = LoraConfig(r=8, target_modules="all-linear")
    sharded = {"use_cpu": False, "fsdp": "full_shard", "fsdp_config": {"fsdp_version": 2}}
    trainer = with_engines(folder, adapter=adapter, **sharded)
    found = trained_and_asked(trainer, rate=1e-2)
    return found | {"sharded": sharding.is_sharded(trainer.model)}


def colocated(folder: Path, urls: str) -> dict[str, Any]:
    """An engine in each process."""
    trainer = with_engines(folder)
    found = trained_and_asked(trainer)
    engine = trainer.sampler.engine
    if RANK == 1:

        def broken(weights: Any) -> None:
            raise EngineError("no room in the second engine")

        engine.load = broken
    found["failure"] = failure_of(trainer)
    return found


def shared(folder: Path, urls: str) -> dict[str, Any]:
    """One engine in both processes, each with half of its weights."""
    vllm_cpu.share_through_gloo()
    trainer = with_engines(folder, vllm_tensor_parallel_size=2)
    found = trained_and_asked(trainer)
    sampler = trainer.sampler
    with current_weights(sampler, trainer.model_wrapped):
        whole = ids(sampler.sample(PROMPTS, GREEDY, seed=0))
        own = ids(sampler.sample(distributed.share(PROMPTS), GREEDY, seed=0))
        one = ids(sampler.sample(PROMPTS[: 1 - RANK], GREEDY, seed=0))  # the second process has none
    found["whose"] = own == distributed.share(whole)
    found["none"] = one == whole[: 1 - RANK]
    weights = sampler.engine.llm.llm_engine.model_executor.driver_worker.model_runner.model.state_dict()
    found["parts"] = sum(weight.numel() for weight in weights.values()) / trainer.model.num_parameters()
    return found


def zero3_adapter(folder: Path, urls: str) -> dict[str, Any]:
    """The engines get base and adapter together."""
    from peft import LoraConfig

    return zero3(folder, urls, adapter=LoraConfig(r=8, target_modules="all-linear"), learning_rate=1e-2)


def zero3_bf16(folder: Path, urls: str) -> dict[str, Any]:
    """Weights in 16 bits, of which the optimizer keeps those in float32."""
    from transformers import training_args

    training_args.is_torch_bf16_gpu_available = lambda: True  # else it refuses 16 bits unless use_cpu is set
    return zero3(folder, urls, bf16=True)


def zero3(folder: Path, urls: str, **changes: Any) -> dict[str, Any]:
    """An engine in each process, and a model that DeepSpeed divides among them."""
    from sharded_cases import KINDS

    take_cpus_for_accelerators()
    without_shared_memory()
    trainer = with_engines(folder, **KINDS["zero3"], **changes)
    trainer.train()
    found = said(trainer) | {"divided": sharding.is_partitioned(trainer.model)}
    found["stale"] = without_new_weights(trainer)  # those of the last two updates
    sampler = trainer.sampler
    with current_weights(sampler, trainer.model_wrapped):
        sampled = sampler.sample(PROMPTS[: 1 + RANK], GREEDY, seed=0)
    with sharding.gathered(trainer.model_wrapped):
        other = TransformersSampler.of(trainer.model, trainer.processing_class)
        found["same"] = ids(sampled) == ids(other.sample(PROMPTS[: 1 + RANK], GREEDY, seed=0))
    return found


def ids(groups: Any) -> list[list[list[int]]]:
    return [[rollout.completion_ids for rollout in group] for group in groups]


ZERO3 = (zero3, zero3_adapter, zero3_bf16)
OTHERS = (servers, misfit, killed_server, killed_process, colocated, divided_adapter, shared)
CASES = {case.__name__: case for case in (*OTHERS, *ZERO3)}

if __name__ == "__main__":
    place = Path(sys.argv[2])
    result = CASES[sys.argv[1]](place, sys.argv[3])
    (place / f"{RANK}.json").write_text(json.dumps(result))
    distributed.leave()
