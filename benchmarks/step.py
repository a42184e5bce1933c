"""Time of a whole training step: SGPO with 8 + 4 samples a problem, and GRPO with 12, against TRL's GRPO with 12.

    python benchmarks/step.py [--problems 16] [--steps 8] [--repeats 3] [--threads 1] [--output step.json]

Same model (the mini-world's, or --model), same problems in each step, same number of completions, same limit on their
length, the same sampling engine (TRL's `rollout_func` calls ours), the same verifier and optimizer, one update a step.
The two rows of GRPO differ in the trainer alone.
What is left is what the methods ask for, and how the two trainers do it: SGPO reads each guided prompt too, and each
problem's target is scored and distilled; TRL's slices are padded to the longest completion of the step. TRL runs with
several slice sizes; the fastest counts. A learning rate of 1e-7 keeps the policies alike. Trainers run in turns, the
first step of each turn is not timed. Medians over steps, in seconds.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from common import write_report
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.miniworld.world import BASE_MODEL, Sizes, problem_sets
from sgpo.problems import Problem
from sgpo.prompts import student_messages
from sgpo.rewards import math_reward
from sgpo.sampling.records import SampleRequest, SamplingConfig
from sgpo.sampling.transformers import TransformersSampler

AUTONOMOUS, GUIDED = 8, 4
SAMPLES = AUTONOMOUS + GUIDED
SHARED = {
    "learning_rate": 1e-7,
    "lr_scheduler_type": "constant",
    "logging_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "bf16": False,
}


class Clock(TrainerCallback):
    """Seconds of each step, and of its phases; what is neither sampling nor verifying is the update."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.lengths: list[int] = []  # of completions

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.phases = {"sample": 0.0, "verify": 0.0}
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        total = time.perf_counter() - self.start
        self.steps.append({**self.phases, "update": total - sum(self.phases.values()), "step": total})

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.phases[name] += time.perf_counter() - start

    def reward(self, completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float | None]:
        with self.phase("verify"):
            return math_reward(completions, answer)


class TimedSampler:
    """`TransformersSampler`, timed."""

    def __init__(self, sampler: TransformersSampler, clock: Clock) -> None:
        self.sampler, self.clock = sampler, clock

    def sample(self, requests: Sequence[SampleRequest], sampling: SamplingConfig, *, seed: int) -> Any:
        with self.clock.phase("sample"):
            rollouts = self.sampler.sample(requests, sampling, seed=seed)
        self.clock.lengths += [len(rollout.completion_ids) for group in rollouts for rollout in group]
        return rollouts


def load(options: argparse.Namespace) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(options.model)


METHODS = {
    "sgpo GRPO 12": {"method": "grpo", "num_autonomous": SAMPLES, "num_guided": 0, "eps_low": 0.2, "eps_high": 0.28},
    "sgpo 8 + 4": {"method": "sgpo", "delta": 3.0},
}


def run_sgpo(options: argparse.Namespace, problems: list[Problem], folder: str, method: dict[str, Any]) -> Clock:
    model, tokenizer = load(options)
    clock = Clock()
    args = SGPOConfig(
        output_dir=f"{folder}/sgpo",
        overwrite=True,
        **method,
        problems_per_rollout=options.problems,
        updates_per_rollout=1,
        max_steps=options.steps + 1,
        max_completion_length=options.longest,
        max_tokens_per_microbatch=options.tokens,
        use_cpu=not torch.cuda.is_available(),
        **SHARED,
    )
    trainer = SGPOTrainer(
        model, args, problems, reward_funcs=clock.reward, processing_class=tokenizer, callbacks=[clock]
    )
    trainer.sampler = TimedSampler(trainer.sampler, clock)
    trainer.train()
    return clock


def run_trl(options: argparse.Namespace, problems: list[Problem], folder: str, slice_rows: int) -> Clock:
    model, tokenizer = load(options)
    clock = Clock()
    sampler = TimedSampler(TransformersSampler.of(model, tokenizer, 262_144), clock)
    sampling = SamplingConfig(options.longest, 1.0, 0.95)

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        ids = tokenizer.apply_chat_template(prompts[::SAMPLES], add_generation_prompt=True, tokenize=True)
        ids = ids["input_ids"] if not isinstance(ids, list) else ids
        groups = sampler.sample([SampleRequest(prompt, SAMPLES) for prompt in ids], sampling, seed=len(clock.steps))
        rollouts = [rollout for group in groups for rollout in group]
        return {
            "prompt_ids": [prompt for prompt in ids for _ in range(SAMPLES)],
            "completion_ids": [rollout.completion_ids for rollout in rollouts],
            "logprobs": [rollout.sampler_logprobs for rollout in rollouts],
        }

    rows = options.problems * SAMPLES
    args = trl.GRPOConfig(
        output_dir=f"{folder}/trl",
        per_device_train_batch_size=slice_rows,
        gradient_accumulation_steps=rows // slice_rows,
        num_generations=SAMPLES,
        max_completion_length=options.longest,
        max_steps=options.steps + 1,
        loss_type="grpo",
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.28,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        use_cpu=not torch.cuda.is_available(),
        **SHARED,
    )
    data = [{"prompt": student_messages(problem.prompt), "answer": problem.answer} for problem in problems]
    trainer = trl.GRPOTrainer(
        model=model,
        args=args,
        reward_funcs=clock.reward,
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        rollout_func=rollout,
        callbacks=[clock],
    )
    trainer.train()
    return clock


def summary(turns: list[Clock]) -> dict[str, float]:
    """Medians over the timed steps of all turns, and the shape of what was sampled."""
    steps = [step for clock in turns for step in clock.steps[1:]]
    lengths = [length for clock in turns for length in clock.lengths]
    found = {name: statistics.median(step[name] for step in steps) for name in ("step", "sample", "verify", "update")}
    return found | {"mean_length": statistics.mean(lengths), "longest": max(lengths)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(BASE_MODEL))
    parser.add_argument("--problems", type=int, default=16, help="a step")
    parser.add_argument("--longest", type=int, default=192, help="tokens a completion may have")
    parser.add_argument("--tokens", type=int, default=4096, help="max_tokens_per_microbatch")
    parser.add_argument("--slice-rows", type=int, nargs="+", default=[16, 48, 96], help="per_device_train_batch_size")
    parser.add_argument("--steps", type=int, default=8, help="timed, a turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    needed = options.problems * (options.steps + 1)
    problems = problem_sets(0, Sizes.only(rl=needed))["rl"]
    turns: dict[str, list[Clock]] = {}
    with tempfile.TemporaryDirectory() as folder:
        contenders: dict[str, Callable[[], Clock]] = {
            f"TRL {trl.__version__} GRPO 12, slices of {rows}": functools.partial(
                run_trl, options, problems, folder, rows
            )
            for rows in options.slice_rows
        }
        for name, method in METHODS.items():
            contenders[name] = functools.partial(run_sgpo, options, problems, folder, method)
        for _ in range(options.repeats):
            for name, run in contenders.items():
                turns.setdefault(name, []).append(run())
    results = {name: summary(clocks) for name, clocks in turns.items()}
    fastest = min(result["step"] for name, result in results.items() if name.startswith("TRL"))
    print(f"{'':34} {'step':>7} {'sample':>7} {'verify':>7} {'update':>7}  mean / longest completion")
    for name, found in results.items():
        phases = " ".join(f"{found[phase]:7.3f}" for phase in ("step", "sample", "verify", "update"))
        print(f"{name:34} {phases}  {found['mean_length']:.1f} / {found['longest']}")
    ratios = {name: results[name]["step"] / fastest for name in METHODS}
    for name, ratio in ratios.items():
        print(f"the step of {name} takes {ratio:.2f} of TRL's time")
    write_report(options.output, {"results": results, "ratios": ratios})


if __name__ == "__main__":
    main()
