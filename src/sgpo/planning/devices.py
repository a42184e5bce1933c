"""GPUs: what their makers state, and what a computation is assumed to get of it."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    """What is assumed: replace it by what your runs say."""

    completion_tokens: int = field(default=2048, metadata={"help": "Mean of an answer in RL (length/autonomous)."})
    eval_tokens: int = field(default=2048, metadata={"help": "Mean of an answer in the evaluation."})
    prompt_tokens: int = field(default=200, metadata={"help": "Mean of a prompt."})
    strategy_tokens: int = field(default=100, metadata={"help": "Mean of a strategy."})
    response_tokens: int = field(default=4000, metadata={"help": "Mean of a strong model's response."})
    longest_prompt: int = field(
        default=1024, metadata={"help": "Tokens of the longest prompt, with the strategy or solution in it."}
    )
    utilisation: float = field(default=0.35, metadata={"help": "Share of the GPU's rate of products in training."})
    bandwidth_share: float = field(default=0.5, metadata={"help": "Share of its memory's bandwidth in sampling."})
    eager_layer: float = field(
        default=0.001, metadata={"help": "Seconds of a layer in a step of the transformers sampler, at least."}
    )
    reserve: float = field(default=0.06, metadata={"help": "Share of its memory that is not for the process."})


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
