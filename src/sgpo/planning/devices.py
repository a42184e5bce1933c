"""GPUs: what their makers state, and what a computation is assumed to get of it."""

from __future__ import annotations

from dataclasses import dataclass

from sgpo.configuration import nearest

GB = 10**9


@dataclass(frozen=True)
class GpuSpecs:
    """Example: ``GPUS["h100"]``"""

    memory: float  # GB
    flops: float  # of dense bfloat16 products, a second
    bandwidth: float  # of the memory, bytes a second


# Data sheets: bfloat16 without sparsity.
GPUS = {
    "h100": GpuSpecs(80, 989e12, 3.35e12),  # SXM
    "h200": GpuSpecs(141, 989e12, 4.8e12),
    "a100": GpuSpecs(80, 312e12, 2.04e12),  # SXM, 80 GB
    "l40s": GpuSpecs(48, 362e12, 0.864e12),
    "l4": GpuSpecs(24, 121e12, 0.3e12),
    "rtx4090": GpuSpecs(24, 165e12, 1.01e12),
}


@dataclass(frozen=True)
class Assumptions:
    """What no formula knows; each is an option of `sgpo plan`. None is measured: replace them by what a run says."""

    completion_tokens: int = 2048  # mean of an answer in RL; length/autonomous in metrics.jsonl
    eval_tokens: int = 2048  # mean of an answer in the evaluation
    prompt_tokens: int = 200  # mean of a prompt; 90 of them are the system prompt and the chat template
    strategy_tokens: int = 100  # of a strategy
    response_tokens: int = 4000  # mean of a strong model's response
    longest_prompt: int = 1024  # tokens, the strategy included
    utilisation: float = 0.35  # share of the products' rate in training
    bandwidth_share: float = 0.5  # of the memory's bandwidth in sampling
    eager_layer: float = 0.001  # seconds of a layer in a step of the transformers sampler, at least
    reserve: float = 0.06  # share of the memory that CUDA, NCCL and fragmentation take


@dataclass(frozen=True)
class Machine:
    """The GPUs of a plan. Example: ``Machine(GPUS["h100"], gpus=8, memory=80.0)``"""

    specs: GpuSpecs
    gpus: int
    memory: float  # GB of each

    @property
    def bytes(self) -> float:
        return self.memory * GB


def gpu_specs(name: str) -> GpuSpecs:
    """Raises ValueError for a name that there is not."""
    if name not in GPUS:
        raise ValueError(f"there is no GPU {name}{nearest(name, GPUS)}; choose one of {', '.join(GPUS)}")
    return GPUS[name]
