"""Checks and times what only a GPU shows, in one command of less than 9 minutes.

    python benchmarks/gpu.py [--output FOLDER] [--small] [--only WORD ...] [--minutes 8.5]

It needs torch, transformers and this package's source (PYTHONPATH=src) and no other dependency; TRL's kernels and
Liger are compared where they can be imported (wheels without their dependencies suffice), FlashAttention and flex
attention where they run. Each task has a process of its own, so that one that fails or runs out of memory costs no
other. FOLDER gets gpu.md and gpu.json, rewritten after each task.

    machine      the rates of matrix products and copies, which the floors below are computed from
    divergence   forward KL of Eq. 3 and its gradients over a large vocabulary; floor 8 T V H FLOP. Errors are against
                 full logits in float32, of the same 16-bit inputs
    update       forward and backward passes of one GRPO update; floor 6 N FLOP a token
    step         sampling with the transformers sampler, update, optimizer; floor 2 N a sampled and 6 N a trained token
    exactness    log-probabilities of sampler and engine, and gradients, in bfloat16 and in float32

Seconds are medians of 3 after a warm-up; memory is the peak beyond model, inputs and gradients. Without a GPU, --small
runs everything on a CPU, to test the script; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import PeakMemory, finish, write_report
from divergence import VARIANTS as DIVERGENCES
from grpo_rows import gradient, lean_update, our_update, rollout_batch
from tiny_model import build_model

from sgpo.engine.batching import BatchLayout
from sgpo.engine.update import add_head_task, completion_scores
from sgpo.methods.terms import token_divergence
from sgpo.sampling.records import Rollout, SampleRequest, SamplingConfig
from sgpo.sampling.transformers import TransformersSampler

Row = dict[str, Any]
TASK_SECONDS = 110  # after which a task is given up


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Example: ``SMALL``
    """

    tokens: tuple[int, ...]  # of the divergence
    vocabulary: int
    hidden: int
    layers: int
    rows: int  # of an update
    longest: int  # tokens of a completion
    matrix: int  # of the machine's rates


FULL = Sizes((4096, 16_384), 151_936, 896, 24, 96, 1024, 8192)
SMALL = Sizes((48, 96), 2048, 64, 2, 48, 24, 256)


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def sixteen_bits() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def timed(run: Callable[[], Any], repeats: int = 3) -> tuple[float, int]:
    """Median seconds, and peak memory [bytes] of the last run; after one that is not timed."""
    run()
    finish()
    seconds = []
    for _ in range(repeats):
        with PeakMemory() as memory:
            start = time.perf_counter()
            run()
            finish()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), memory.extra


def rate(dtype: torch.dtype, size: int) -> float:
    """FLOP a second of a product of matrices."""
    a, b = (torch.randn(size, size, device=device()).to(dtype) for _ in range(2))
    return 2 * size**3 / timed(lambda: a @ b)[0]


# ---------------------------------------------------------------------- tasks: each yields rows as it finds them


def machine(sizes: Sizes, folder: Path) -> Iterator[Row]:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    yield {"what": name, "torch": torch.__version__, "cuda": torch.version.cuda}
    for dtype in (torch.float32, torch.bfloat16):
        yield {"what": f"product of matrices, {dtype}", "tflops": rate(dtype, sizes.matrix) / 1e12}
    source = torch.randn(sizes.matrix, sizes.matrix, device=device())
    copied = torch.empty_like(source)
    yield {"what": "copy", "gb_per_s": 8 * source.numel() / timed(lambda: copied.copy_(source))[0] / 1e9}


def divergence(sizes: Sizes, folder: Path, variant: str) -> Iterator[Row]:
    flops = rate(sixteen_bits(), sizes.matrix)
    for tokens in sizes.tokens:
        torch.manual_seed(0)
        shape = (tokens, sizes.hidden)
        hidden, teacher = (torch.randn(shape, device=device(), dtype=sixteen_bits()) for _ in range(2))
        weight = 0.05 * torch.randn(sizes.vocabulary, sizes.hidden, device=device())
        weight = weight.to(sixteen_bits()).requires_grad_()
        hidden.requires_grad_()

        def run(hidden: Any = hidden, teacher: Any = teacher, weight: Any = weight) -> float:
            hidden.grad = weight.grad = None
            loss = DIVERGENCES[variant](hidden, teacher, weight)
            loss.backward()
            return loss.item()

        seconds, extra = timed(run)
        loss, floor = run(), 8 * tokens * sizes.vocabulary * sizes.hidden / flops
        found = (hidden.grad.float(), weight.grad.float())
        exact, *expected = _exact_divergence(hidden.detach(), teacher, weight.detach())
        yield {
            "what": f"{tokens} tokens, {variant}",
            "seconds": seconds,
            "distance": seconds / floor,
            "mib": max(0, extra - weight.numel() * weight.element_size()) / 2**20,
            "loss_error": abs(loss - exact) / exact,
            "gradient_error": max(_difference(one, other) for one, other in zip(found, expected, strict=True)),
        }
        del hidden, teacher, weight, found, expected


def _exact_divergence(hidden: Any, teacher: Any, weight: Any) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Mean loss and gradients by full logits in float32, a few tokens at a time."""
    weight = weight.float().requires_grad_()
    loss, gradients = 0.0, []
    for some, of_teacher in zip(hidden.split(256), teacher.split(256), strict=True):
        some = some.float().requires_grad_()
        logits = of_teacher.float() @ weight.detach().t()
        part = token_divergence(logits, some @ weight.t()).sum() / len(hidden)
        part.backward()
        loss += part.item()
        gradients.append(some.grad)
    return loss, torch.cat(gradients), weight.grad


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).norm() / other.float().norm())


UPDATES: dict[str, tuple[str, Callable[[Any, list[Any], int], Callable[[], float]]]] = {
    "lean, full logits, sdpa": ("sdpa", lambda model, batch, budget: lean_update(model, batch, 8)),
    "sgpo padded, sdpa": ("sdpa", our_update),
    "sgpo packed, sdpa": ("sdpa", functools.partial(our_update, packed=True)),
    "sgpo packed, flex_attention": ("flex_attention", functools.partial(our_update, packed=True)),
    "sgpo packed, flash_attention_2": ("flash_attention_2", functools.partial(our_update, packed=True)),
}


def update(sizes: Sizes, folder: Path, variant: str) -> Iterator[Row]:
    attention, make = UPDATES[variant]
    model = _model(sizes, sixteen_bits(), attention)
    batch = rollout_batch(sizes.rows, sizes.longest, equal_share=0.25)
    tokens = sum(len(prompt) + len(completion) for prompt, completion, advantage in batch if advantage)
    run = make(model, batch, 8 * (sizes.longest + 60))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    seconds, extra = timed(run)
    model.zero_grad()
    run()
    own, first = gradient(model)[: 2**22].float().cpu(), folder / "gradient.pt"  # the embedding's: all rows have a part
    if not first.exists():
        torch.save(own, first)
    yield {
        "what": variant,
        "seconds": seconds,
        "distance": seconds / (6 * _parameters(model) * tokens / rate(sixteen_bits(), sizes.matrix)),
        "mib": extra / 2**20,
        "tokens_per_s": tokens / seconds,
        "gradient_difference": _difference(own, torch.load(first)),
    }


def _model(sizes: Sizes, dtype: torch.dtype, attention: str = "sdpa", **options: Any) -> Any:
    model = build_model(
        sizes.hidden, sizes.layers, sizes.vocabulary, dtype=dtype, attn_implementation=attention, **options
    )
    return model.to(device(), dtype)


def _parameters(model: Any) -> int:
    """Those that are multiplied for each token: the embedding is the head too."""
    return sum(parameter.numel() for parameter in model.parameters())


def _rows(sizes: Sizes, model: Any, new: int) -> tuple[list[SampleRequest], list[list[Rollout]], float]:
    """A problem of every 12 rows, 8 + 4 completions whose lengths are geometric with mean 100 or so; and seconds."""
    prompts = [prompt for prompt, *_ in rollout_batch(sizes.rows, sizes.longest, 0.0)[::12]]
    requests = [request for p in prompts for request in (SampleRequest(p, 8), SampleRequest(p[:1] + p, 4))]
    sampler = TransformersSampler(model, list(range(0, sizes.vocabulary, 100)), 0)
    start = time.perf_counter()
    rollouts = sampler.sample(requests, SamplingConfig(new, 1.0, 0.95), seed=0)
    finish()
    return requests, rollouts, time.perf_counter() - start


def step(sizes: Sizes, folder: Path) -> Iterator[Row]:
    model = _model(sizes, sixteen_bits())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    flops, parameters = rate(sixteen_bits(), sizes.matrix), _parameters(model)
    for attempt in ("warm-up", "whole step"):
        with PeakMemory() as memory:
            requests, rollouts, sampling = _rows(sizes, model, sizes.longest // 2)
            batch = [
                (request.prompt_ids, rollout.completion_ids, 1.0 if number % 2 else -1.0)
                for request, group in zip(requests, rollouts, strict=True)
                for number, rollout in enumerate(group)
            ]
            start = time.perf_counter()
            our_update(model, batch, 8 * (sizes.longest + 60))()
            optimizer.step()
            optimizer.zero_grad()
            finish()
            updating = time.perf_counter() - start
        if attempt == "warm-up":
            continue
        sampled = sum(len(completion) for _, completion, _ in batch)
        trained = sampled + sum(len(prompt) for prompt, _, _ in batch)
        floors = 2 * parameters * sampled / flops, 6 * parameters * trained / flops
        for what, seconds, floor, tokens in (
            ("sampling", sampling, floors[0], sampled),
            ("update and optimizer", updating, floors[1], trained),
            ("whole step", sampling + updating, sum(floors), sampled),
        ):
            yield {
                "what": what,
                "seconds": seconds,
                "distance": seconds / floor,
                "tokens_per_s": tokens / seconds,
                "mib": memory.extra / 2**20 if what == "whole step" else None,
            }


def exactness(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """A smaller model with peaked distributions, once in float32, then the same weights in bfloat16."""
    torch.backends.cuda.matmul.allow_tf32 = False
    batch = rollout_batch(12, min(sizes.longest, 256), 0.0)
    reference: torch.Tensor | None = None
    for dtype in (torch.float32, torch.bfloat16):
        model = build_model(128, 4, initializer_range=0.1).to(device(), dtype)
        add_head_task(model)
        requests, rollouts, _ = _rows(Sizes((), 2048, 128, 4, 48, 64, 0), model, min(sizes.longest, 128))
        pairs = [(r.prompt_ids, o.completion_ids) for r, group in zip(requests, rollouts, strict=True) for o in group]
        scores = torch.cat([found.logprobs.cpu() for found in completion_scores(model, pairs, BatchLayout(8192, 0))])
        sampled = torch.cat([o.sampler_logprobs for group in rollouts for o in group if o.sampler_logprobs is not None])
        our_update(model, batch, 4096)()
        found = gradient(model).float()
        reference = found if reference is None else reference
        gap = (scores - sampled).abs()
        yield {
            "what": str(dtype),
            "mismatch": float(gap.mean()),
            "largest_mismatch": float(gap.max()),
            "gradient_difference": _difference(found, reference),
        }


TASKS: dict[str, Callable[[Sizes, Path], Iterator[Row]]] = {
    "machine": machine,
    **{f"divergence, {name}": functools.partial(divergence, variant=name) for name in DIVERGENCES},
    "exactness": exactness,
    **{f"update, {name}": functools.partial(update, variant=name) for name in UPDATES},
    "step": step,
}


# ---------------------------------------------------------------------- a process for each, and the report


def run_task(name: str, small: bool, folder: Path, seconds: float) -> tuple[list[Row], str | None]:
    """The rows of a task, and why it ended early, if it did."""
    command = [sys.executable, __file__, "--task", name, "--output", str(folder)] + ["--small"] * small
    rows, problem = "", None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        rows = done.stdout
        if done.returncode:
            problem = next(reversed(done.stderr.strip().splitlines()), f"exit status {done.returncode}")[:300]
    except subprocess.TimeoutExpired as late:
        rows = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        problem = f"not done after {seconds:.0f} s"
    return [json.loads(line) for line in rows.splitlines() if line.startswith("{")], problem


def markdown(results: dict[str, Row]) -> str:
    """A table for each kind of task."""
    lines = ["# Measured on a GPU" if torch.cuda.is_available() else "# A trial on a CPU: the numbers mean nothing"]
    kinds: dict[str, list[Row]] = {}
    for name, result in results.items():
        missing = [{"what": name, "problem": result["problem"]}] if result["problem"] else []
        kinds.setdefault(name.split(",")[0], []).extend(result["rows"] + missing)
    for kind, rows in kinds.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += ["", f"## {kind}", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
        lines += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu-results"))
    parser.add_argument("--small", action="store_true", help="sizes for a CPU")
    parser.add_argument("--only", nargs="+", help="tasks whose name has one of these words")
    parser.add_argument("--minutes", type=float, default=8.5, help="no task begins after it")
    parser.add_argument("--task", choices=list(TASKS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = SMALL if options.small else FULL
    if options.task:
        for row in TASKS[options.task](sizes, options.output):
            print(json.dumps(row), flush=True)
        return
    if not (torch.cuda.is_available() or options.small):
        parser.error("there is no GPU; --small tries the script on a CPU")
    options.output.mkdir(parents=True, exist_ok=True)
    names = [name for name in TASKS if not options.only or any(word in name for word in options.only)]
    end, results = time.monotonic() + 60 * options.minutes, dict[str, Row]()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            start, left = time.monotonic(), end - time.monotonic()
            rows, problem = [], "left out: no time was left"
            if left > 0:
                rows, problem = run_task(name, options.small, Path(folder), min(left, TASK_SECONDS))
            seconds = time.monotonic() - start
            results[name] = {"rows": rows, "problem": problem, "task_seconds": seconds}
            print(f"{name}: {len(rows)} rows in {seconds:.0f} s{f'; {problem}' if problem else ''}", flush=True)
            (options.output / "gpu.md").write_text(markdown(results), encoding="utf-8")
            write_report(options.output / "gpu.json", {"results": results})
    print((options.output / "gpu.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
