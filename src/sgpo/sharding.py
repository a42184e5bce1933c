"""A model in several processes: whole in each (DDP), or divided among them by FSDP2 or by DeepSpeed's ZeRO-3.

FSDP2 makes distributed tensors of the parameters. ZeRO-3 leaves empty ones in the model, and fills them while a module
computes; DeepSpeed's engine stands in for the model, and takes the step of the optimizer.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from sgpo import distributed

# ---------------------------------------------------------------------- what a model is


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule) or is_partitioned(model)


def is_partitioned(model: nn.Module) -> bool:
    """By ZeRO-3."""
    return any(map(_is_part, model.parameters()))


def is_engine(model: Any) -> bool:
    """Of DeepSpeed."""
    deepspeed = sys.modules.get("deepspeed")
    return deepspeed is not None and isinstance(model, deepspeed.DeepSpeedEngine)


def check_sharded(model: nn.Module) -> None:
    """For those who asked for FSDP. Raises ValueError for another model: accelerate says nothing."""
    if not is_sharded(model):
        raise ValueError(
            f"fsdp was asked for, but the model is a {type(model).__name__}: accelerate shards with version 2 "
            "(fsdp_config: {fsdp_version: 2}) and on accelerators only; set that, or leave fsdp out"
        )


def _is_part(value: Tensor) -> bool:
    return hasattr(value, "ds_id")


def size(parameter: Tensor) -> int:
    """Elements of the whole parameter."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


# ---------------------------------------------------------------------- gradients


def averages_gradients(model: nn.Module) -> bool:
    """Whether the wrapper takes the mean of the gradients over the processes.

    Raises:
        ValueError: several processes, and a model that is not wrapped for them.
    """
    if isinstance(model, DistributedDataParallel | FSDPModule) or is_engine(model):
        return True
    if distributed.count() > 1:
        raise ValueError(
            f"there are {distributed.count()} processes, but the model is a bare {type(model).__name__}: wrap it in "
            "DistributedDataParallel, or shard it with fully_shard"
        )
    return False


def gradient_sync(model: Any, *, last: bool) -> AbstractContextManager[Any]:
    """Around a micro-batch: the processes of a replicated model exchange gradients once, in the last one.

    Those of a sharded model do it in every one, or each would have to hold the gradients of the whole model.
    """
    if is_engine(model):
        model.set_gradient_accumulation_boundary(is_boundary=last)
    return nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()


def backward_of(model: Any, accelerator: Any) -> Callable[[Tensor], None]:
    """What is called with each loss. Accelerate would let DeepSpeed's engine take a step after each."""
    if not is_engine(model):
        return accelerator.backward
    return lambda loss: model.backward(loss, scale_wrt_gas=False)


def take_step(engine: Any) -> float:
    """Of DeepSpeed's optimizer, which does nothing if a gradient is not finite; the norm of the gradient, or NaN."""
    engine.step()
    return math.nan if getattr(engine.optimizer, "overflow", False) else float(engine.get_global_grad_norm())


# ---------------------------------------------------------------------- whole weights


def whole(value: Tensor) -> Tensor:
    """The tensor, gathered from all processes if each has a part of it: all of them have to call it."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if not _is_part(value):
        return value
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters([value]):
        return value.detach().clone()


@torch.no_grad()
def whole_state(model: nn.Module) -> dict[str, Any]:
    """The state of a sharded model, as that of the same model in one piece, on the CPU of the first process.

    Every process has to call it; the others get an empty dict.
    """
    found: dict[str, Tensor] = {}
    names: dict[int, str] = {}  # of tied weights, which are gathered once
    for name, value in model.state_dict(keep_vars=True).items():
        first = names.setdefault(id(value), name)
        gathered = whole(value) if first == name else None
        if distributed.rank() == 0:
            found[name] = found[first] if gathered is None else gathered.cpu()
    return found


def gathered(model: Any) -> AbstractContextManager[None]:
    """All parameters of a sharded model in every process, so that a forward pass waits for no other one.

    Args:
        model: as it is wrapped for training.
    """
    return _gathered_by_deepspeed(model) if is_engine(model) and is_sharded(model) else _gathered_by_fsdp(model)


@contextmanager
def _gathered_by_fsdp(model: Any) -> Iterator[None]:
    """Afterwards each module does with its parameters what it did before, such as to reshard them after a pass."""
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    states: list[Any] = [module._get_fsdp_state() for module in shards]
    for state in states:
        state._lazy_init()  # in which the root, the first, decides for itself, unless it was told
    groups = [group for state in states for group in state._fsdp_param_groups]
    before = [group.post_forward_mesh_info for group in groups]  # torch has no public way to read it
    for module in shards:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in shards:
            module.reshard()
        for group, mesh in zip(groups, before, strict=True):
            group.post_forward_mesh_info = mesh


@contextmanager
def _gathered_by_deepspeed(engine: Any) -> Iterator[None]:
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters(list(engine.parameters())), _without_hooks(engine.module):
        yield


@contextmanager
def _without_hooks(model: nn.Module) -> Iterator[None]:
    """DeepSpeed's empty the parameters of a module after its forward pass, and may wait for others before one.

    TRL's `remove_hooks` is not enough: it leaves those of the root, which end a pass by comparing the processes'
    records of modules, and so wait forever for a process that samples fewer tokens.
    """
    tables = [table for module in model.modules() for table in (module._forward_pre_hooks, module._forward_hooks)]
    kept = [dict(table) for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        for table, hooks in zip(tables, kept, strict=True):
            table.update(hooks)
