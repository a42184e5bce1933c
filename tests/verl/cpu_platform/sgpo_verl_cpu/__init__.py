"""A CPU as a platform of veRL: chosen by VERL_PLATFORM=cpu. A Ray resource "GPU" stands for a place to train on."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import shared_memory
from typing import Any

import torch
import verl.utils.distributed as verl_distributed
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

NOTHING = "empty_cache synchronize set_device ipc_collect reset_peak_memory_stats manual_seed manual_seed_all"
ZERO = "memory_allocated memory_reserved max_memory_allocated max_memory_reserved"


def _device_module() -> Any:
    module: Any = types.ModuleType("sgpo_verl_cpu_device")
    for name in [*NOTHING.split(), "set_per_process_memory_fraction"]:
        setattr(module, name, lambda *_, **__: None)
    for name in ZERO.split():
        setattr(module, name, lambda *_, **__: 0)
    module.mem_get_info = lambda *_, **__: (8 << 30, 16 << 30)
    module.is_available = lambda: False
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module.get_device_name = lambda *_: "cpu"
    module.get_rng_state = lambda *_: torch.get_rng_state()
    module.set_rng_state = lambda state, *_: torch.set_rng_state(state)
    module.current_stream = torch.cpu.current_stream
    module.stream = torch.cpu.stream
    return module


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _device_module()

    def is_available(self) -> bool:
        return True

    def current_device(self) -> torch.device:
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, index: int) -> None: ...

    def synchronize(self, index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, message: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False  # weights go through shared memory

    def rollout_env_vars(self) -> dict[str, str]:
        return {"VLLM_CPU_KVCACHE_SPACE": "1"}

    def cudart(self) -> None: ...


# veRL asks for the backend "cpu:gloo,cpu:gloo" on a CPU, which torch refuses.
_initialize = verl_distributed.initialize_global_process_group_ray


def _initialize_gloo(timeout_second: Any = None, backend: str | None = None) -> Any:
    return _initialize(timeout_second, backend or "gloo")


verl_distributed.initialize_global_process_group_ray = _initialize_gloo

# Where `tensor.to("cpu")` copies nothing, views of the shared buffer are alive when veRL closes it.
_close = shared_memory.SharedMemory.close


def _close_unless_used(self: shared_memory.SharedMemory) -> None:
    try:
        _close(self)
    except BufferError:
        return


shared_memory.SharedMemory.close = _close_unless_used  # type: ignore[method-assign]
