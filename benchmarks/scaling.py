"""Cost against work: seconds and memory of an SGPO step over problems, completions, length and model size.

    python benchmarks/scaling.py [--threads 1] [--output scaling.json]

A step is sampling (2 of 3 completions without, 1 of 3 with the strategy), choice of targets, forward and backward
passes and AdamW, for a random Qwen2 whose completions all have the same length; a quarter of them is right, so that
every problem has advantages and a target. Each size runs in a process of its own: one step to warm up, then the median
of --repeats steps. From one base size, one quantity at a time is varied; the exponent is the slope of log(seconds)
over log(quantity).

The floor is 2 N FLOP a sampled and 6 N FLOP a trained token at the rate at which this machine multiplies matrices, N
the parameters that multiply (all but the embedding, with the head). "Distance" is the measured time over it:
attention, prompts, the teacher's forward pass, the softmax over the vocabulary, the sampler's narrow matrices and the
optimizer are all above the floor.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import PeakMemory, finish, write_report
from transformers import Qwen2Config, Qwen2ForCausalLM

from sgpo.engine.batching import BatchLayout
from sgpo.engine.update import accumulate_gradients, add_head_task, completion_scores
from sgpo.methods.records import ProblemRollouts, TokenScores, UpdateContext
from sgpo.methods.registry import METHODS
from sgpo.methods.sgpo import SGPOOptions
from sgpo.methods.terms import Thresholds
from sgpo.problems import Problem
from sgpo.sampling.records import Rollout, SampleRequest, SamplingConfig
from sgpo.sampling.transformers import TransformersSampler

VOCABULARY, PROMPT, STRATEGY = 2048, 48, 48
NEVER = VOCABULARY + 1  # an end-of-sequence token that is never drawn


@dataclass(frozen=True)
class Size:
    problems: int = 4
    completions: int = 12
    length: int = 128
    hidden: int = 256


SERIES = {
    "problems": [2, 4, 8, 16],
    "completions": [6, 12, 24, 48],
    "length": [64, 128, 256, 512],
    "hidden": [128, 256, 512, 768],
}


def build_model(hidden: int) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=6,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        intermediate_size=3 * hidden,
        tie_word_embeddings=True,
        eos_token_id=None,
    )
    return Qwen2ForCausalLM(config).to("cuda" if torch.cuda.is_available() else "cpu")


class Step:
    """One SGPO step at a size."""

    def __init__(self, size: Size, tokens: int) -> None:
        self.size = size
        self.model = build_model(size.hidden)
        add_head_task(self.model)
        self.sampler = TransformersSampler(self.model, [NEVER], 0)
        self.layout = BatchLayout(tokens, pad_token_id=0)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6)
        self.source = random.Random(0)

    def __call__(self) -> dict[str, float]:
        start = time.perf_counter()
        with PeakMemory() as sampling:
            groups = self._sample()
        finish()
        sampled = time.perf_counter()
        with PeakMemory() as update:
            context = UpdateContext(len(groups), self._score)
            decisions = METHODS["sgpo"].decide(groups, SGPOOptions(), context)
            rows = [row for decision in decisions for row in decision.rows]
            accumulate_gradients(self.model, rows, self.layout, Thresholds(0.2, 0.28, 1.0))
            self.optimizer.step()
            self.optimizer.zero_grad()
        finish()
        end = time.perf_counter()
        return {
            "sample_s": sampled - start,
            "update_s": end - sampled,
            "step_s": end - start,
            "sample_bytes": sampling.extra,
            "update_bytes": update.extra,
            "sampled_tokens": sum(len(r.completion_ids) for g in groups for r in (*g.autonomous, *g.guided)),
            "trained_tokens": sum(len(row.completion_ids) for row in rows if row.contributes),
        }

    def _sample(self) -> list[ProblemRollouts]:
        guided = self.size.completions // 3
        requests = []
        for _ in range(self.size.problems):
            prompt, strategy = (self._tokens(count) for count in (PROMPT, STRATEGY))
            requests += [
                SampleRequest(prompt, self.size.completions - guided),
                SampleRequest(strategy + prompt, guided),
            ]
        found = self.sampler.sample(requests, SamplingConfig(self.size.length, 1.0, 0.95), seed=0)
        return [
            ProblemRollouts(
                Problem(str(number), "", ""),
                {"autonomous": plain.prompt_ids, "guided": with_strategy.prompt_ids},
                {
                    "autonomous": self._rewarded(found[2 * number]),
                    "guided": self._rewarded(found[2 * number + 1]),
                },
            )
            for number, (plain, with_strategy) in enumerate(zip(requests[::2], requests[1::2], strict=True))
        ]

    def _rewarded(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """A quarter of the completions is right, and none counts as truncated."""
        rights = [number % 4 == 0 for number in range(len(rollouts))]
        return [
            replace(rollout, reward=float(right), correct=right, truncated=False)
            for rollout, right in zip(rollouts, rights, strict=True)
        ]

    def _score(self, sequences: Sequence[tuple[list[int], list[int]]]) -> list[TokenScores]:
        return completion_scores(self.model, sequences, self.layout)

    def _tokens(self, count: int) -> list[int]:
        return [self.source.randrange(1, VOCABULARY) for _ in range(count)]


def matrix_rate() -> float:
    """FLOP/s of a square float32 product; of the best of several."""
    side = 2048
    left, right = (torch.randn(side, side, device="cuda" if torch.cuda.is_available() else "cpu") for _ in range(2))
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        left @ right
        finish()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def measure(size: Size, options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    step = Step(size, options.tokens)
    step()
    steps = [step() for _ in range(options.repeats)]
    found: dict[str, Any] = {name: statistics.median(s[name] for s in steps) for name in steps[0]}
    multiplying = sum(p.numel() for p in step.model.parameters())  # tied: the head counts, the embedding does not
    rate = matrix_rate()
    floor = (2 * found["sampled_tokens"] + 6 * found["trained_tokens"]) * multiplying / rate
    return found | {"parameters": multiplying, "flops": rate, "floor_s": floor, "distance": found["step_s"] / floor}


def in_own_process(size: Size, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", json.dumps(asdict(size))]
    for name in ("threads", "repeats", "tokens"):
        command += [f"--{name}", str(getattr(options, name))]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def exponent(quantities: Sequence[float], values: Sequence[float]) -> float:
    """Least-squares slope in logarithms."""
    x, y = ([math.log(value) for value in some] for some in (quantities, values))
    x_mean, y_mean = statistics.mean(x), statistics.mean(y)
    slope = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return slope / sum((a - x_mean) ** 2 for a in x)


def show(name: str, rows: list[tuple[Size, dict[str, Any]]]) -> dict[str, float]:
    print(f"\n{name:>12} {'sample':>8} {'update':>8} {'step':>8} {'floor':>8} {'distance':>9} {'memory of both':>16}")
    for size, found in rows:
        memory = " / ".join(f"{found[f'{phase}_bytes'] / 2**20:.0f}" for phase in ("sample", "update"))
        seconds = " ".join(f"{found[f'{phase}_s']:8.2f}" for phase in ("sample", "update", "step", "floor"))
        label = f"{found['parameters'] / 1e6:.1f}M" if name == "hidden" else getattr(size, name)
        print(f"{label:>12} {seconds} {found['distance']:9.1f} {memory:>12} MiB", flush=True)
    quantity = [found["parameters"] if name == "hidden" else getattr(size, name) for size, found in rows]
    slopes = {
        key: exponent(quantity, [max(found[key], 1e-9) for _, found in rows])
        for key in ("sample_s", "update_s", "step_s", "update_bytes")
    }
    print("   exponents: " + ", ".join(f"{key} {value:.2f}" for key, value in slopes.items()))
    return slopes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(SERIES), nargs="+", default=list(SERIES))
    parser.add_argument("--tokens", type=int, default=4096, help="max_tokens_per_microbatch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(Size(**json.loads(options.one)), options)))
        return
    report: dict[str, Any] = {}
    for name in options.only:
        sizes = [replace(Size(), **{name: value}) for value in SERIES[name]]
        rows = [(size, in_own_process(size, options)) for size in sizes]
        report[name] = {"exponents": show(name, rows), "sizes": [asdict(size) | found for size, found in rows]}
    write_report(options.output, {"series": report})


if __name__ == "__main__":
    main()
