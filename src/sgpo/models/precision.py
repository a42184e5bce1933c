"""In which floating type weights are kept and computed with, and the memory that they take.

bfloat16 has 8 significant bits: an update of a weight by less than about 1/500 of it is rounded away, and at the
learning rates of RL nearly all are. So trainable parameters are kept in float32 (masters), whatever they were loaded
in. Where ``bf16`` asks for it, the forward pass computes in bfloat16 by autocast, which leaves the masters as they are.
Frozen parameters lose nothing by a short type, and keep theirs as long as it can be computed with.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sgpo import sharding
from sgpo.files import readable_size
from sgpo.layouts import asks_for_deepspeed
from sgpo.models.adapters import describe_adapter, has_adapter
from sgpo.models.checkpoint import floating_type

SHORT = (torch.bfloat16, torch.float16)
MOMENTS_OF_ADAM = 2  # float32 numbers for each trained parameter
ADAMS = ("adamw_torch", "adamw_torch_fused", "adamw_apex_fused")


def keep_masters(model: nn.Module, *, autocast: bool) -> None:
    """Give trainable parameters of a 16-bit type float32 values, in place.

    Args:
        autocast: whether forward passes run under autocast. Without it layers of two types cannot be computed one
            after the other, unless they are an adapter's: then frozen parameters and buffers become float32 too.

    Raises:
        ValueError: no parameter requires a gradient.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "no parameter of the model requires a gradient, so there is nothing to train; an adapter is loaded for "
            "training with PeftModel.from_pretrained(model, folder, is_trainable=True)"
        )
    keeps_frozen = autocast or _computes_with_two_types(model)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dtype in SHORT and (tensor.requires_grad or not keeps_frozen):
            tensor.data = tensor.data.float()


def fitted_to_types(args: Any, config: Any) -> Any:
    """The configuration with ``bf16`` decided, where nobody has: the forward pass computes as the checkpoint was made.

    Args:
        args: `SGPOConfig`; it stays as it is.
        config: the model's.
    """
    if args.bf16 is not None:
        return args
    changed = copy.copy(args)
    own, asked = floating_type(config), args.mixed_precision
    changed.bf16 = own != "float32" and asked == "no" and not args.use_cpu and _gpu_has_bfloat16()
    if changed.bf16:
        changed.mixed_precision = "bf16"
        where = " by the optimizer" if asks_for_deepspeed(args) else ""
        print(f"bf16 is true: the checkpoint is in {own}. What is trained is kept in float32{where}.")
    return changed


def _gpu_has_bfloat16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def refusals_of_precision(args: Any) -> Iterator[str]:
    """Of float16, whose first overflow a loss scaler would expect, but `sgpo.engine.not_finite` does not.

    Args:
        args: `TrainingArguments`, or what is to become one.
    """
    if args.fp16:
        yield (
            "fp16 is not supported, as float16 overflows; write bf16: true instead (bfloat16 has the range of "
            "float32), or leave it out"
        )
    elif not args.bf16 and os.environ.get("ACCELERATE_MIXED_PRECISION") == "fp16":
        yield (
            "ACCELERATE_MIXED_PRECISION is fp16, which is not supported, as float16 overflows; start with accelerate "
            "launch --mixed_precision bf16, or write bf16: true"
        )


def _computes_with_two_types(model: Any) -> bool:
    """Whether all that is trained lies in layers of an adapter, which convert what goes in and comes out."""
    if not has_adapter(model):
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    converted = {id(parameter) for layer in layers for parameter in layer.parameters()}
    return all(id(parameter) in converted for parameter in model.parameters() if parameter.requires_grad)


# ---------------------------------------------------------------------- what it takes


@dataclass(frozen=True)
class Footprint:
    """Parameters by floating type, as a training step holds them. Example: ``Footprint.of(model)``"""

    trained: dict[torch.dtype, int]  # parameters
    frozen: dict[torch.dtype, int]

    @classmethod
    def of(cls, model: nn.Module) -> Footprint:
        counts: dict[bool, Counter[torch.dtype]] = {True: Counter(), False: Counter()}
        for parameter in model.parameters():
            counts[parameter.requires_grad][parameter.dtype] += sharding.size(parameter)
        return cls(dict(counts[True]), dict(counts[False]))

    def in_bfloat16(self) -> Footprint:
        """All parameters."""
        both = [{torch.bfloat16: sum(counts.values())} if counts else {} for counts in (self.trained, self.frozen)]
        return Footprint(*both)

    @property
    def trained_parameters(self) -> int:
        return sum(self.trained.values())

    @property
    def weights(self) -> int:
        """Bytes."""
        return _bytes(self.trained) + _bytes(self.frozen)

    @property
    def gradients(self) -> int:
        """Bytes."""
        return _bytes(self.trained)


def _bytes(counts: dict[torch.dtype, int]) -> int:
    return sum(dtype.itemsize * number for dtype, number in counts.items())


def weight_rows(model: Any, args: Any) -> list[tuple[str, str]]:
    """Rows of the table at the start: the types of the weights, and what a step holds beside activations.

    DeepSpeed makes the whole model bfloat16 where it computes so, in its gradients too, and keeps float32 apart.

    Args:
        args: `TrainingArguments`.
    """
    found = Footprint.of(model)
    apart = asks_for_deepspeed(args) and args.mixed_precision == "bf16"
    if apart:
        found = found.in_bfloat16()
    types = _types(found.trained)
    kept = f"in {types}, and kept in float32 by the optimizer" if apart else f"kept in {types}"
    trained = f"{found.trained_parameters:,} trained, {kept}"
    frozen = f"; {sum(found.frozen.values()):,} frozen, in {_types(found.frozen)}" if found.frozen else ""
    moments = MOMENTS_OF_ADAM * torch.float32.itemsize * found.trained_parameters
    parts = {"weights": found.weights, "gradients": found.gradients}
    if apart:
        parts["float32 copies"] = torch.float32.itemsize * found.trained_parameters
    other = ""
    if (optimizer := getattr(args.optim, "value", args.optim)) in ADAMS:
        parts["Adam's moments"] = moments
    else:
        other = f", and what {optimizer} keeps"
    shown = ", ".join(f"{name} {readable_size(size)}" for name, size in parts.items())
    where = ""
    if args.world_size > 1:
        divided = args.fsdp or asks_for_deepspeed(args)
        where = f", divided among {args.world_size} processes" if divided else " in each process"
    adapter = [("adapter", adapter_text(model))] if has_adapter(model) else []
    return [
        *adapter,
        ("weights", f"{trained}{frozen}; computed with in {_computing(found, args)}"),
        ("their memory", f"{shown}{other}: {readable_size(sum(parts.values()))}{where}, beside activations"),
    ]


def adapter_text(model: Any) -> str:
    """Example: ``LoRA, r 16, alpha 32, on q_proj, v_proj; of Qwen2.5-1.5B-Instruct``"""
    adapter = model.active_peft_config
    return f"{describe_adapter(adapter)}; of {Path(adapter.base_model_name_or_path or 'a model without name').name}"


def _types(counts: dict[torch.dtype, int]) -> str:
    return " and ".join(sorted(_name(dtype) for dtype in counts))


def _computing(found: Footprint, args: Any) -> str:
    return "bfloat16 (bf16)" if args.mixed_precision == "bf16" else _types(found.frozen or found.trained)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
