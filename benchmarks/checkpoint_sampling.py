"""Tokens a second with which a checkpoint is sampled: our `transformers` sampler beside vLLM, in the floating types.

    python benchmarks/checkpoint_sampling.py --model CHECKPOINT --problems problems.jsonl

The requests are those of training: for each problem 8 completions of the plain prompt and 4 of that with its strategy.
The engines are loaded one after another and timed in turns, on the same machine, after a turn that is not timed; of its
cores vLLM for CPU keeps one for its scheduler. What each samples differs; so the rate counts tokens, and their mean
number is reported. Runs in an environment with vLLM (constraints/vllm.txt), or with `--engines transformers` without.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import finish, write_report

from sgpo.evaluation.arguments import EvalArguments
from sgpo.evaluation.evaluate import conversations_of
from sgpo.evaluation.models import Model
from sgpo.problems import Problem, load_problems
from sgpo.prompts import encode_prompts
from sgpo.sampling.records import Sampler, SampleRequest, SamplingConfig

AUTONOMOUS, GUIDED = 8, 4  # completions of the prompt without and with the strategy


def requests_of(tokenizer: Any, problems: Sequence[Problem], system_prompt: str) -> list[SampleRequest]:
    groups = ((AUTONOMOUS, False), (GUIDED, True))
    prompts = [
        (count, encode_prompts(tokenizer, conversations_of(problems, system_prompt, guided=guided)))
        for count, guided in groups
    ]
    return [SampleRequest(ids, count) for count, group in prompts for ids in group]


def timed(sampler: Sampler, requests: Sequence[SampleRequest], sampling: SamplingConfig, seed: int) -> dict[str, float]:
    began = time.perf_counter()
    rollouts = [rollout for group in sampler.sample(requests, sampling, seed=seed) for rollout in group]
    finish()
    seconds = time.perf_counter() - began
    tokens = sum(len(rollout.completion_ids) for rollout in rollouts)
    return {"seconds": seconds, "tokens": tokens, "rate": tokens / seconds, "length": tokens / len(rollouts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--problems", type=Path, required=True, help="with strategies")
    parser.add_argument("--count", type=int, default=8, help="problems")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--engines", nargs="+", default=["transformers", "vllm"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    problems = [problem for problem in load_problems(str(options.problems)) if problem.strategy][: options.count]
    sampling = SamplingConfig(options.max_new_tokens, 1.0, 0.95)
    engines: dict[str, tuple[Sampler, list[SampleRequest]]] = {}
    for name in options.engines:
        for dtype in options.dtypes:
            room = {"vllm_gpu_memory_utilization": 0.2, "vllm_max_model_length": 1024} if name == "vllm" else {}
            args = EvalArguments(model=options.model, sampler=name, dtype=dtype, **room)
            model = Model(args)
            requests = requests_of(model.tokenizer, problems, args.system_prompt)
            engines[f"{name}, {dtype}"] = model.engine(args).sampler, requests

    turns: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
    for turn in range(options.repeats + 1):
        for name, (sampler, requests) in engines.items():
            found = timed(sampler, requests, sampling, seed=turn)
            if turn:
                turns[name].append(found)
    for name, found in turns.items():
        rate, length = (statistics.median(each[key] for each in found) for key in ("rate", "length"))
        print(f"{name:24} {rate:8.1f} tokens/s, {length:.0f} tokens a completion")
    write_report(options.output, {"turns": turns, "problems": len(problems), "threads": options.threads})


if __name__ == "__main__":
    main()
