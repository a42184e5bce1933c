"""Time and memory of the token divergence over a large vocabulary: full logits, TRL's chunked function, ours.

    python benchmarks/divergence.py [--tokens 1024 4096 16384] [--vocabulary 151936] [--hidden 896] [--threads 2]

Forward KL between the distributions of two sides of hidden states under one head, and its gradients for the hidden
states of one side and the head. Each measurement runs in a process of its own, in turns; times are medians over the
turns. Memory is the peak beyond inputs and
gradients (the weight's gradient has to be held by everybody): resident set on a CPU, allocated memory on a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import PeakMemory, finish, write_report
from torch import Tensor

from sgpo.engine.projection import Head, divergence_loss
from sgpo.methods.terms import token_divergence


def plain(hidden: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    with torch.no_grad():
        teacher_logits = teacher @ weight.t()
    return token_divergence(teacher_logits, hidden @ weight.t()).mean()


def ours(hidden: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    return divergence_loss(hidden, teacher, Head(weight), lambda d, _: d / len(hidden)).loss


def trl_chunked(hidden: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    from trl.kernels import chunked_divergence

    function = chunked_divergence.ChunkedDivergenceFunction
    return function.apply(hidden, weight, None, teacher, weight.detach(), None, 0.0)[0].mean()


def liger(hidden: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearJSD

    return LigerFusedLinearJSD(jsd_beta=0.0)(hidden, weight, teacher, weight.detach())


VARIANTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "full logits": plain,
    "TRL chunked": trl_chunked,
    "Liger fused JSD": liger,
    "sgpo": ours,
}


def measure(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    """One variant at one size, in this process."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    (tokens,) = options.tokens
    hidden, teacher = (torch.randn(tokens, options.hidden, device=device, dtype=dtype) for _ in range(2))
    weight = (0.05 * torch.randn(options.vocabulary, options.hidden, device=device)).to(dtype).requires_grad_()
    hidden.requires_grad_()
    weight.grad, hidden.grad = torch.zeros_like(weight), torch.zeros_like(hidden)
    VARIANTS[variant](hidden[:8].detach().requires_grad_(), teacher[:8], weight)  # imports, kernels
    finish()
    start = time.perf_counter()
    with PeakMemory() as memory:
        loss = VARIANTS[variant](hidden, teacher, weight)
        loss.backward()
        value = loss.item()
        finish()
    seconds = time.perf_counter() - start
    gradient_bytes = weight.numel() * weight.element_size()  # the new gradient, before it is added to the old one
    return {
        "seconds": seconds,
        "extra_bytes": max(0, memory.extra - gradient_bytes),
        "loss": value,
        "gradient_norm": float(weight.grad.float().norm()),
    }


def in_turns(tokens: int, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The measurements of each variant that runs here."""
    found: dict[str, list[dict[str, Any]]] = {}
    left = [name for name in VARIANTS if name != "full logits" or tokens <= options.most_plain_tokens]
    for _ in range(options.turns):
        for variant in list(left):
            command = [sys.executable, __file__, "--one", variant, "--tokens", str(tokens)]
            for name in ("vocabulary", "hidden", "threads"):
                command += [f"--{name}", str(getattr(options, name))]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                print(f"{tokens:6} tokens  {variant:16} does not run here: {run.stderr.strip().splitlines()[-1:]}")
                left.remove(variant)
                continue
            found.setdefault(variant, []).append(json.loads(run.stdout.splitlines()[-1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--most-plain-tokens", type=int, default=4096, help="full logits are not tried beyond")
    parser.add_argument("--one", choices=list(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options)))
        return
    report: dict[str, Any] = {}
    for tokens in options.tokens:
        found = in_turns(tokens, options)
        for variant, turns in found.items():
            result = turns[0] | {"seconds": statistics.median(turn["seconds"] for turn in turns)}
            report[f"{tokens} {variant}"] = result
            print(
                f"{tokens:6} tokens  {variant:16} {result['seconds']:8.2f} s  "
                f"{result['extra_bytes'] / 2**20:8.0f} MiB  loss {result['loss']:.6f}  "
                f"gradient {result['gradient_norm']:.6f}",
                flush=True,
            )
    write_report(options.output, {"results": report})


if __name__ == "__main__":
    main()
