"""A model in several processes: whole in each (DDP), or divided among them (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator
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
    return isinstance(model, FSDPModule)


def check_sharded(model: nn.Module) -> None:
    """For those who asked for FSDP. Raises ValueError for another model: accelerate says nothing."""
    if not is_sharded(model):
        raise ValueError(
            f"fsdp was asked for, but the model is a {type(model).__name__}: accelerate shards with version 2 "
            "(fsdp_config: {fsdp_version: 2}) and on accelerators only; set that, or leave fsdp out"
        )


# ---------------------------------------------------------------------- gradients


def averages_gradients(model: nn.Module) -> bool:
    """Whether the wrapper takes the mean of the gradients over the processes.

    Raises:
        ValueError: several processes, and a model that is not wrapped for them.
    """
    if isinstance(model, DistributedDataParallel | FSDPModule):
        return True
    if distributed.count() > 1:
        raise ValueError(
            f"there are {distributed.count()} processes, but the model is a bare {type(model).__name__}: wrap it in "
            "DistributedDataParallel, or shard it with fully_shard"
        )
    return False


def gradient_sync(model: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """Around a micro-batch: the processes of a replicated model exchange gradients once, in the last one.

    Those of a sharded model do it in every one, or each would have to hold the gradients of the whole model.
    """
    return nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()


# ---------------------------------------------------------------------- whole weights


def whole(value: Tensor) -> Tensor:
    """The tensor, gathered from all processes if each has a part of it: all of them have to call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


@torch.no_grad()
def whole_state(model: nn.Module) -> dict[str, Any]:
    """The state of a sharded model, as that of the same model in one piece, on the CPU of the first process.

    Every process has to call it; the others get an empty dict.
    """
    found: dict[str, Tensor] = {}
    names: dict[int, str] = {}  # of tied weights, which are gathered once
    for name, value in model.state_dict(keep_vars=True).items():
        first = names.setdefault(id(value), name)
        part = whole(value) if first == name else None
        if distributed.rank() == 0:
            found[name] = found[first] if part is None else part.cpu()
    return found


@contextmanager
def gathered(model: Any) -> Iterator[None]:
    """All parameters of a sharded model in every process, so that a forward pass waits for no other one.

    Afterwards each module does with its parameters what it did before, such as to reshard them after a forward pass.
    """
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
