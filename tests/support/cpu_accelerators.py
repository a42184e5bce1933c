"""Accelerate shards on accelerators only. Here it takes CPUs for such, so that a trainer runs as it does on GPUs."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType


def take_cpus_for_accelerators() -> None:
    """Of all that accelerate does later in this process; processes talk through gloo."""

    def prepare_backend(self: Any, *args: Any) -> tuple[str, DistributedType]:
        return "gloo", DistributedType.MULTI_GPU

    def set_device(self: Any) -> None:
        self.device = torch.device("cpu")

    PartialState._prepare_backend = prepare_backend
    PartialState.set_device = set_device


def without_shared_memory() -> None:
    """DeepSpeed would compile an extension for it, which takes a minute and a compiler."""
    backend: Any = importlib.import_module("deepspeed.comm.torch")  # as an attribute, deepspeed.comm.torch is torch
    backend.build_shm_op = lambda: None
