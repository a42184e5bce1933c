"""Planned against measured: the peak memory of a training step in six configurations, on the CPU in float32.

    python benchmarks/planning.py [--only base long] [--output planning.json]

Each configuration runs in a process of its own: `SGPOTrainer` with a random Qwen2, one rollout batch, two updates. The
samples are those of the `transformers` sampler; a model with random weights hardly ever ends a completion, so that most
have the full length. Every second completion counts as correct. Measured is the largest resident set of the process
less the one before the model is made, after a step of a tiny model. glibc is told to give every block of 64 KB back
(MALLOC_MMAP_THRESHOLD_), so that the resident set is what is in use.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import write_report
from transformers import Qwen2Config, Qwen2ForCausalLM

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.miniworld.tokenizer import build_tokenizer
from sgpo.planning.memory import TrainedAs, largest_microbatch, sampling_parts, update_parts
from sgpo.planning.shapes import LINEAR, ModelShape
from sgpo.problems import Problem
from sgpo.prompts import PROMPTS
from sgpo.sampling.transformers import TransformersSampler
from sgpo.tokenizers import PromptLengths

PROBLEMS, UPDATES, AUTONOMOUS, GUIDED = 4, 2, 8, 4
SAMPLED_AT_ONCE = 16_384  # sampler_batch_tokens


@dataclass(frozen=True)
class Case:
    """One configuration."""

    hidden: int
    layers: int
    method: str = "sgpo"
    rank: int = 0
    microbatch: int = 3072
    length: int = 192
    checkpointing: bool = False
    vocabulary: int = 4096

    @property
    def shape(self) -> ModelShape:
        heads, inner = self.hidden // 64, self.hidden * 11 // 4
        return ModelShape(self.layers, self.hidden, heads, max(1, heads // 2), inner, self.vocabulary, True, True)


CASES = {
    "base": Case(hidden=256, layers=4),
    "larger model": Case(hidden=512, layers=8, microbatch=1024, length=128),
    "GRPO": Case(hidden=256, layers=4, method="grpo", microbatch=6144),
    "LoRA": Case(hidden=256, layers=6, rank=16),
    "checkpointing": Case(hidden=256, layers=8, microbatch=8192, checkpointing=True),
    "long": Case(hidden=256, layers=4, microbatch=4096, length=768),
}


# ---------------------------------------------------------------------- planned


def planned(case: Case, prompts: dict[str, int]) -> dict[str, Any]:
    """Args: prompts: tokens of the longest prompt, without and with the strategy."""
    how = TrainedAs(case.shape, False, case.rank, LINEAR if case.rank else ())
    alone, guided = prompts["autonomous"], prompts["guided"]
    problems, samples = PROBLEMS // UPDATES, AUTONOMOUS + (GUIDED if case.method == "grpo" else 0)
    make = partial(largest_microbatch, case.microbatch, completion=case.length, checkpointing=case.checkpointing)
    batches = [make(problems * samples, alone)]
    if case.method == "sgpo":
        batches.append(make(problems, guided, divergence=True))
    width = guided + case.length
    at_once = min(SAMPLED_AT_ONCE // width, PROBLEMS * (AUTONOMOUS + GUIDED))
    named = zip(("update", "distillation"), batches, strict=False)
    phases = {name: update_parts(how, batch) for name, batch in named}
    phases["sampling"] = sampling_parts(how, at_once * width, at_once)
    largest = max(phases, key=lambda name: sum(phases[name].values()))
    return {"phase": largest, "parts": phases[largest], "bytes": sum(phases[largest].values())}


# ---------------------------------------------------------------------- measured


class Complete(TransformersSampler):
    """Completions at the length limit count as complete ones, or none could be correct."""

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        return [[replace(each, truncated=False) for each in group] for group in super().sample(*args, **kwargs)]


def every_second(completions: Any, **columns: Any) -> list[float]:
    return [float(number % 2) for number in range(len(completions))]


def measure(case: Case) -> dict[str, Any]:
    """In this process."""
    torch.set_num_threads(1)
    tokenizer = build_tokenizer(documents=100)
    problems = [
        Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), None, "Steps: (a) add the numbers (b) check the sum")
        for n in range(PROBLEMS)
    ]
    train(replace(case, hidden=64, layers=1, length=8), tokenizer, problems)  # loads what a first step loads
    gc.collect()
    start = _resident()
    trainer = train(case, tokenizer, problems)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    log = next(line for line in trainer.state.log_history if "loss" in line)
    prompt = trainer.args.system_prompt
    return {
        "bytes": peak - start,
        "prompts": {name: max(PromptLengths(tokenizer, prompt, {name: PROMPTS[name]})(problems)) for name in PROMPTS},
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "length": log["length/autonomous"],
        "targets": log.get("alpha"),
    }


def train(case: Case, tokenizer: Any, problems: list[Problem]) -> SGPOTrainer:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(case, Qwen2ForCausalLM(config_of(case.shape)), tokenizer, problems, folder)
        trainer.train()
    return trainer


def config_of(shape: ModelShape) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=4096,
    )


def trainer_of(case: Case, model: Any, tokenizer: Any, problems: list[Problem], folder: str) -> SGPOTrainer:
    """Of one rollout batch, sampled by the model itself."""
    adapter = None
    if case.rank:
        from peft import LoraConfig

        adapter = LoraConfig(r=case.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    args = SGPOConfig(
        output_dir=folder,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        method=case.method,
        num_autonomous=AUTONOMOUS,
        num_guided=GUIDED,
        problems_per_rollout=PROBLEMS,
        updates_per_rollout=UPDATES,
        max_completion_length=case.length,
        max_tokens_per_microbatch=case.microbatch,
        sampler_batch_tokens=SAMPLED_AT_ONCE,
        activation_checkpointing=case.checkpointing,
        max_steps=UPDATES,
        save_strategy="no",
        completions_steps=0,
        **({"delta": 100.0} if case.method == "sgpo" else {}),
    )
    sampler = Complete(model, [case.vocabulary - 1], 0, SAMPLED_AT_ONCE)
    trainer = SGPOTrainer(
        model,
        args,
        train_dataset=problems,
        reward_funcs=every_second,
        processing_class=tokenizer,
        sampler=sampler,
        peft_config=adapter,
    )
    sampler.model = trainer.model
    return trainer


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def in_own_process(name: str) -> dict[str, Any]:
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--measure", name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(CASES), nargs="+", default=list(CASES))
    parser.add_argument("--measure", choices=list(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(CASES[options.measure])))
        return
    report = {}
    print(f"{'':>14} {'parameters':>11} {'planned':>9} {'measured':>9} {'ratio':>6}  phase")
    for name in options.only:
        found = in_own_process(name)
        plan = planned(CASES[name], found["prompts"])
        ratio = plan["bytes"] / found["bytes"]
        sizes = " ".join(f"{each['bytes'] / 1e6:6.0f} MB" for each in (plan, found))
        print(f"{name:>14} {found['parameters'] / 1e6:10.1f}M {sizes} {ratio:6.2f}  {plan['phase']}", flush=True)
        report[name] = {"planned": plan, "measured": found, "ratio": ratio}
    write_report(options.output, {"cases": report})


if __name__ == "__main__":
    main()
