"""Which engine samples during training: its options, what of them is refused, and the sampler they describe."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sgpo.errors import Refusals
from sgpo.models.checkpoint import FLOATING_TYPES

if TYPE_CHECKING:
    from accelerate import Accelerator

    from sgpo.sampling.records import Sampler

SAMPLERS = ("transformers", "vllm")
MODES = ("colocate", "server")
VLLM_TEMPERATURE = 2.0  # what it validates
OPTIONS_OF = {
    "colocate": [
        "vllm_dtype",
        "vllm_gpu_memory_utilization",
        "vllm_max_model_length",
        "vllm_tensor_parallel_size",
        "vllm_enable_sleep_mode",
    ],
    "server": ["vllm_server_base_url", "vllm_server_timeout", "vllm_group_port", "vllm_sample_timeout"],
}


@dataclass
class EngineArguments:
    """Options of the sampling engine; those of vLLM have TRL's names where TRL has the option."""

    sampler: str = field(default="transformers", metadata={"help": "What samples: transformers, or vllm."})
    vllm_mode: str = field(
        default="colocate",
        metadata={
            "help": "vLLM in each process on its device ('colocate'), or one or several vLLM servers ('server')."
        },
    )
    vllm_dtype: str | None = field(
        default=None,
        metadata={"help": "Floating type of a colocated engine; default: bfloat16 with bf16, else float32."},
    )
    vllm_gpu_memory_utilization: float = field(
        default=0.3, metadata={"help": "Share of the device's memory that a colocated engine takes."}
    )
    vllm_max_model_length: int | None = field(
        default=None,
        metadata={"help": "Longest prompt and completion of a colocated engine; default: the model's context."},
    )
    vllm_tensor_parallel_size: int = field(
        default=1, metadata={"help": "Processes that share a colocated engine, each with a part of its weights."}
    )
    vllm_enable_sleep_mode: bool = field(
        default=False, metadata={"help": "A colocated engine leaves its memory to the training; GPUs only."}
    )
    vllm_server_base_url: str = field(
        default="http://localhost:8000",
        metadata={"help": "Where the server is; several are separated by commas, and share the prompts."},
    )
    vllm_server_timeout: float = field(default=240.0, metadata={"help": "Seconds to wait for a server to be up."})
    vllm_group_port: int = field(
        default=51216, metadata={"help": "Port of the first process for sending the weights to servers."}
    )
    vllm_sync_timeout: float = field(
        default=300.0, metadata={"help": "Seconds after which a weight synchronisation has failed."}
    )
    vllm_sample_timeout: float = field(
        default=3600.0, metadata={"help": "Seconds that a server may take to answer one prompt."}
    )

    def check_engine_arguments(self) -> None:
        """Raises ValueError for what no engine can be made from, all of it in one."""
        refusals = Refusals()
        refusals.add(self._refusals_of_engine())
        if self.sampler == "vllm":
            refusals.add(refusals_of_vllm_values(self, "temperature", "eval_temperature"))
            with refusals.collected():
                check_vllm(self.vllm_mode)
        refusals.refuse()

    def _refusals_of_engine(self) -> Iterator[str]:
        choices = {"sampler": SAMPLERS, "vllm_mode": MODES, "vllm_dtype": (None, *FLOATING_TYPES)}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                named = ", ".join(value for value in allowed if value)
                yield f"{name} is {getattr(self, name)!r}; choose one of {named}"
        for name in ("vllm_server_timeout", "vllm_sync_timeout", "vllm_sample_timeout"):
            if not getattr(self, name) > 0:
                yield f"{name} is {getattr(self, name)}; it must be a positive number of seconds"
        if self.vllm_tensor_parallel_size < 1:
            yield f"vllm_tensor_parallel_size is {self.vllm_tensor_parallel_size}; it must be 1 or more"
        if self.vllm_enable_sleep_mode and not _has_cuda():
            yield "vllm_enable_sleep_mode gives back memory of a CUDA device, and there is none here; leave it out"
        yield from self._refusals_of_unused()

    def _refusals_of_unused(self) -> Iterator[str]:
        """An option of an engine that does not run would be ignored in silence."""
        defaults = {each.name: each.default for each in dataclasses.fields(EngineArguments)}
        unused = {"sampler: vllm": [name for name in defaults if name.startswith("vllm_")]}
        if self.sampler == "vllm":
            unused = {f"vllm_mode: {mode}": OPTIONS_OF[mode] for mode in MODES if mode != self.vllm_mode}
        for remedy, names in unused.items():
            if changed := [name for name in names if getattr(self, name) != defaults[name]]:
                yield f"{', '.join(changed)}: no effect without {remedy}; write that too, or leave {changed[0]} out"


def _has_cuda() -> bool:
    import torch  # here, since options are read without it

    return torch.cuda.is_available()


def check_vllm(mode: str) -> None:
    """Raises ValueError where vLLM is not installed, or cannot run in that mode."""
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(
            "sampler vllm needs vLLM, which is not installed here; install it as docs/sampling.md says, or use "
            "sampler: transformers"
        )
    if mode == "server" and not _has_cuda():
        raise ValueError(
            "vllm_mode server sends the weights through NCCL, which needs a CUDA device here, and there is none; use "
            "sampler: transformers"
        )


def refusals_of_vllm_values(args: Any, *temperatures: str) -> Iterator[str]:
    """What vLLM would refuse once it has started."""
    share = args.vllm_gpu_memory_utilization
    if not 0 < share <= 1:
        yield f"vllm_gpu_memory_utilization is {share}; it must be above 0 and at most 1"
    for name in temperatures:
        if getattr(args, name) > VLLM_TEMPERATURE:
            yield f"{name} is {getattr(args, name)}; vLLM takes {VLLM_TEMPERATURE} at most"


def check_engine(args: Any) -> None:
    """Refuse an engine that cannot be used, before weights are loaded; `args` hold `EngineArguments`.

    Raises:
        ValueError: limits of time that contradict each other; processes that cannot be divided into groups with an
            engine each; a server that is not reached in time, or that was started with other options than are needed.
    """
    if args.sampler != "vllm":
        return
    if args.world_size > 1 and args.vllm_sync_timeout >= args.ddp_timeout:
        raise ValueError(
            f"vllm_sync_timeout ({args.vllm_sync_timeout:g} seconds) must be below ddp_timeout ({args.ddp_timeout}): "
            "else the other processes give up first, without the cause; change one of them"
        )
    if args.vllm_mode == "colocate" and args.world_size % args.vllm_tensor_parallel_size:
        raise ValueError(
            f"vllm_tensor_parallel_size ({args.vllm_tensor_parallel_size}) does not divide the number of processes "
            f"({args.world_size}), of which so many share an engine; change one of them"
        )
    if args.vllm_mode == "server":
        from sgpo.sampling.vllm_client import check_server, server_urls

        for url in server_urls(args.vllm_server_base_url):
            check_server(url, args.vllm_server_timeout, args.max_completion_length)


def make_sampler(args: Any, model: Any, tokenizer: Any, accelerator: Accelerator) -> Sampler:
    """The sampler that `args` (with `EngineArguments`) ask for; it samples from `model` as it is at each call.

    Raises:
        ValueError: a model in memory that vLLM cannot find on disk, or whose weights it cannot be given.
        EngineError: the engine did not start.
    """
    if args.sampler == "transformers":
        from sgpo.sampling.transformers import TransformersSampler

        return TransformersSampler.of(model, tokenizer, args.sampler_batch_tokens)
    if getattr(model, "is_quantized", False):
        raise ValueError("vLLM cannot be given the weights of a quantized model: use sampler: transformers")
    if args.vllm_mode == "colocate" and not model.name_or_path:
        raise ValueError("vLLM reads the model's configuration from its folder: give the model as a folder or Hub name")
    from sgpo.sampling.vllm import VLLMSampler

    return VLLMSampler.of(args, model, tokenizer, accelerator, engine_dtype(args))


def engine_dtype(args: Any) -> str:
    """The floating type of a colocated engine: that of the training's forward passes, unless it is given."""
    return args.vllm_dtype or ("bfloat16" if args.bf16 else "float32")
