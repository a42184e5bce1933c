"""Time of sampling a rollout batch: TransformersSampler against transformers' ``generate`` and ``generate_batch``.

    python benchmarks/sampling.py --threads 1 --output sampling.json
    python benchmarks/sampling.py --miniworld
    python benchmarks/sampling.py --model CHECKPOINT --prompts prompts.jsonl

The batch is one step of reinforcement learning: for each problem 8 completions of the plain prompt and 4 of a
longer one with a strategy, of up to 96 tokens. All draw with the same temperature and top-p, from the same model, in
the same process, in turns; ``generate`` (dynamic cache, left padding) is timed as one call on all rows and as one call
per group with ``num_return_sequences``, and the ratio is against the faster of the two. ``generate_batch`` is
transformers' continuous batching. Only our side records the log-probabilities of what it drew. Sampled texts differ
between the sides and repeats; their lengths are reported. CPU seconds are those of all threads of the process: where
other programs use the machine too, they say more than seconds.

Without --model the model is random, of the Qwen2 architecture with 0.9 million parameters; a bias on the
end-of-sequence logit is chosen so that the mean length is about 0.3 of the limit, with a long tail. With
--miniworld it is the shipped model, on problems of the mini-world. With --model, give --prompts too: a file with one
JSON list [prompt, prompt with strategy] a line, tokenized as they stand.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import finish, write_report
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ContinuousBatchingConfig,
    GenerationConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from sgpo.miniworld.world import BASE_MODEL, Sizes, problem_sets
from sgpo.prompts import encode_prompts, guided_messages, student_messages
from sgpo.sampling.records import SampleRequest, SamplingConfig
from sgpo.sampling.transformers import TransformersSampler

EOS, PAD, VOCABULARY = 1, 0, 512
AUTONOMOUS, GUIDED = 8, 4  # completions of the prompt without and with the strategy


def random_model(sampling: SamplingConfig, requests: list[SampleRequest], weight_scale: float) -> nn.Module:
    """A tiny Qwen2 whose end-of-sequence bias gives a mean length of about 0.3 of the limit (bisection)."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=384,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        initializer_range=weight_scale,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    model = Qwen2ForCausalLM(config).eval()
    model.lm_head.bias = nn.Parameter(torch.zeros(VOCABULARY))
    low, high = -10.0, 20.0
    for seed in range(12):
        bias = (low + high) / 2
        model.lm_head.bias.data[EOS] = bias
        rollouts = TransformersSampler(model, [EOS], PAD).sample(requests, sampling, seed=seed)
        mean = statistics.mean(len(r.completion_ids) for group in rollouts for r in group)
        low, high = (bias, high) if mean > 0.3 * sampling.max_new_tokens else (low, bias)
    return model


def random_requests(problems: int) -> list[SampleRequest]:
    """Prompts of 30 to 50 tokens, and the same behind a strategy of 20 tokens."""
    rng = random.Random(0)
    requests = []
    for _ in range(problems):
        prompt = [rng.randrange(2, VOCABULARY) for _ in range(rng.randint(30, 50))]
        strategy = [rng.randrange(2, VOCABULARY) for _ in range(20)]
        requests += [SampleRequest(prompt, AUTONOMOUS), SampleRequest(strategy + prompt, GUIDED)]
    return requests


def text_requests(model_dir: str, prompts: Path, problems: int) -> list[SampleRequest]:
    """The first ``problems`` lines of the file, as requests."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    requests = []
    for line in prompts.read_text(encoding="utf-8").splitlines()[:problems]:
        plain, guided = (tokenizer.encode(text, add_special_tokens=False) for text in json.loads(line))
        requests += [SampleRequest(plain, AUTONOMOUS), SampleRequest(guided, GUIDED)]
    return requests


def miniworld_requests(problems: int) -> list[SampleRequest]:
    tokenizer = AutoTokenizer.from_pretrained(BASE_MODEL)
    requests = []
    for problem in problem_sets(0, Sizes.only(rl=problems))["rl"]:
        conversations = [student_messages(problem.prompt), guided_messages(problem.prompt, problem.strategy or "")]
        plain, guided = encode_prompts(tokenizer, conversations)
        requests += [SampleRequest(plain, AUTONOMOUS), SampleRequest(guided, GUIDED)]
    return requests


def generate(
    model: Any, prompts: list[list[int]], count: int, sampling: SamplingConfig, eos: list[int], pad: int
) -> list[int]:
    """Sample with ``generate``; returns the completions' lengths with their end-of-sequence token."""
    width = max(map(len, prompts))
    input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=model.device)
    output = model.generate(
        input_ids=input_ids,
        attention_mask=mask,
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=0,
        num_return_sequences=count,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    lengths = []
    for row in output[:, width:].tolist():
        ends = [i + 1 for i, token in enumerate(row) if token in eos]
        lengths.append(ends[0] if ends else len(row))
    return lengths


def contenders(
    model: nn.Module, requests: list[SampleRequest], sampling: SamplingConfig, eos: list[int], pad: int
) -> dict[str, Callable[[int], list[int]]]:
    """Each takes a seed, samples all requests and returns the completions' lengths."""
    sampler = TransformersSampler(model, eos, pad)
    every_row = [request.prompt_ids for request in requests for _ in range(request.count)]

    def ours(seed: int) -> list[int]:
        rollouts = sampler.sample(requests, sampling, seed=seed)
        return [len(rollout.completion_ids) for group in rollouts for rollout in group]

    def generate_at_once(seed: int) -> list[int]:
        torch.manual_seed(seed)
        return generate(model, every_row, 1, sampling, eos, pad)

    def generate_per_group(seed: int) -> list[int]:
        torch.manual_seed(seed)
        plain = [r.prompt_ids for r in requests if r.count == AUTONOMOUS]
        guided = [r.prompt_ids for r in requests if r.count == GUIDED]
        lengths = generate(model, plain, AUTONOMOUS, sampling, eos, pad)
        return lengths + generate(model, guided, GUIDED, sampling, eos, pad)

    def generate_batch(seed: int) -> list[int]:
        torch.manual_seed(seed)
        config = GenerationConfig(
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=eos,
            pad_token_id=pad,
        )
        width = max(map(len, every_row)) + sampling.max_new_tokens
        # By default it takes most of the memory there is, for a mask of 8,192 tokens.
        paged = ContinuousBatchingConfig(
            page_size=16, num_blocks=len(every_row) * -(-width // 16), max_batch_tokens=2 * len(every_row)
        )
        outputs = model.generate_batch(
            every_row, generation_config=config, continuous_batching_config=paged, warmup=False
        )
        return [len(output.generated_tokens) for output in outputs.values()]

    return {
        "TransformersSampler": ours,
        "generate, one call": generate_at_once,
        "generate, a call per group": generate_per_group,
        "generate_batch": generate_batch,
    }


def measure(entries: dict[str, Callable[[int], list[int]]], repeats: int, limit: int) -> dict[str, Any]:
    """Run the contenders in turns, after one untimed turn; times in seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in entries}
    cpu: dict[str, list[float]] = {name: [] for name in entries}
    lengths: dict[str, list[int]] = {name: [] for name in entries}
    for repeat in range(repeats + 1):
        for name, run in entries.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            sampled = run(repeat)
            finish()
            if repeat > 0:
                seconds[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - cpu_start)
                lengths[name] += sampled
    return {
        name: {
            "median_s": statistics.median(seconds[name]),
            "all_s": seconds[name],
            "least_cpu_s": min(cpu[name]),
            "median_cpu_s": statistics.median(cpu[name]),
            "mean_length": statistics.mean(lengths[name]),
            "mean_over_limit": statistics.mean(lengths[name]) / limit,
            "share_at_limit": sum(length == limit for length in lengths[name]) / len(lengths[name]),
        }
        for name in entries
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint directory; default: a random model")
    parser.add_argument("--prompts", type=Path, help="with --model: JSON lines [prompt, prompt with strategy]")
    parser.add_argument("--miniworld", action="store_true", help="the shipped model, on problems of the mini-world")
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--weight-scale", type=float, default=0.15, help="of the random model; smaller is flatter")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    arguments = parser.parse_args()
    if bool(arguments.model) != bool(arguments.prompts):
        parser.error("give --model and --prompts together, or neither")
    if arguments.model and arguments.miniworld:
        parser.error("--miniworld brings its own model")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    sampling = SamplingConfig(arguments.max_new_tokens, arguments.temperature, arguments.top_p)
    if arguments.model or arguments.miniworld:
        model: Any = AutoModelForCausalLM.from_pretrained(arguments.model or BASE_MODEL).eval()
        if arguments.miniworld:
            requests = miniworld_requests(arguments.problems)
        else:
            requests = text_requests(arguments.model, arguments.prompts, arguments.problems)
        end = model.generation_config.eos_token_id
        eos = end if isinstance(end, list) else [end]
        pad = model.generation_config.pad_token_id
        pad = eos[0] if pad is None else pad
    else:
        requests = random_requests(arguments.problems)
        model, eos, pad = random_model(sampling, requests, arguments.weight_scale), [EOS], PAD
    model.to(arguments.device)
    results = measure(contenders(model, requests, sampling, eos, pad), arguments.repeats, sampling.max_new_tokens)
    generate_s = min(result["median_s"] for name, result in results.items() if name.startswith("generate,"))
    ratio = generate_s / results["TransformersSampler"]["median_s"]
    for name, result in results.items():
        print(
            f"{name:28s} median {result['median_s']:7.3f} s, of CPU {result['median_cpu_s']:7.3f}, "
            f"least {result['least_cpu_s']:7.3f}   "
            f"mean length / limit {result['mean_over_limit']:.2f}   "
            f"at the limit {result['share_at_limit']:.2f}"
        )
    print(f"ratio (faster generate / ours): {ratio:.2f}")
    report = {
        "arguments": {key: str(value) for key, value in vars(arguments).items()},
        "rows": sum(request.count for request in requests),
        "results": results,
        "ratio": ratio,
    }
    write_report(arguments.output, report)


if __name__ == "__main__":
    main()
