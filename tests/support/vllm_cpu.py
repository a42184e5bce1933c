"""What vLLM needs on a CPU before its weights can be replaced. Only for tests: on a GPU none of this is needed.

- vLLM for CPU packs linear weights after loading and cannot load them again. `keep_weights` puts a plain linear layer
  there, which keeps the weight.
- Weights go to a server through NCCL. `install_transport` puts a TCP store in its place, at both ends: everything else
  of the way (requests, metadata, loading) stays as it is.

`server_environment` makes a vLLM server do both, as a plugin.
"""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore

# Few threads and little memory; nothing is asked of the network.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}
OPTIONS = {"enforce_eager": True}  # compilation takes minutes
SERVER_OPTIONS = ["--enforce-eager", "--no-enable-chunked-prefill"]


def use_in_this_process(monkeypatch: Any) -> None:
    """For engines that this process starts. Those of earlier tests that nobody holds any more end before.

    The end of an engine tears down the groups that all engines of a process share. vLLM hides engines from the garbage
    collector, and collects them in the middle of the start of another one.
    """
    from sgpo.sampling.vllm_engines import ColocatedEngine

    gc.unfreeze()
    gc.collect()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ColocatedEngine, "OPTIONS", OPTIONS)


def keep_weights() -> None:
    import vllm.model_executor.layers.utils as layers

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    layers.dispatch_cpu_unquantized_gemm = plain


def share_through_gloo() -> None:
    """Processes that hold an engine together would meet in shared memory, whose name is the same in all runs."""
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

    CpuCommunicator._all_group_ranks_share_shm_group_name = lambda self: False


class StoreGroup:
    """Rank 0 sends tensors to all other ranks, in order."""

    def __init__(self, address: str, port: int, rank: int, ranks: int) -> None:
        wait = timedelta(seconds=120)
        self.store = TCPStore(address, port, world_size=ranks, is_master=rank == 0, timeout=wait)
        self.rank, self.ranks = rank, ranks
        self.number = 0

    def send(self, name: str, tensor: torch.Tensor) -> None:
        """Blocks until it was received, like a broadcast."""
        data = tensor.detach().cpu().contiguous()
        self.store.set(f"tensor-{self.number}", pickle.dumps((name, data)))
        received = [f"received-{self.number}-{rank}" for rank in range(1, self.ranks)]
        self.store.wait(received, timedelta(days=1))
        self.number += 1

    def receive(self) -> tuple[str, torch.Tensor]:
        found = pickle.loads(self.store.get(f"tensor-{self.number}"))
        self.store.set(f"received-{self.number}-{self.rank}", b"1")
        self.number += 1
        return found


def send_all(*, iterator: Iterator[tuple[str, torch.Tensor]], group: StoreGroup, **ignored: Any) -> None:
    for name, tensor in iterator:
        group.send(name, tensor)


def receive_all(
    *, iterator: Iterator[tuple[str, Any]], group: StoreGroup, post_unpack_func: Callable[..., Any], **ignored: Any
) -> None:
    for name, (shape, dtype) in iterator:
        sent, tensor = group.receive()
        assert (sent, tensor.shape, tensor.dtype) == (name, torch.Size(shape), dtype)
        post_unpack_func([(name, tensor)])


def install_transport_of_server() -> None:
    from vllm.distributed.weight_transfer import nccl_engine

    def join(info: Any, config: Any) -> StoreGroup:
        return StoreGroup(info.master_address, info.master_port, info.rank_offset, info.world_size)

    nccl_engine.worker_init_process_group = join
    nccl_engine.packed_nccl_broadcast_consumer = receive_all


def install_transport_of_trainer(monkeypatch: Any) -> None:
    from sgpo.sampling import vllm_client

    def join(info: dict[str, Any]) -> StoreGroup:
        return StoreGroup(info["master_address"], info["master_port"], 0, info["world_size"])

    monkeypatch.setattr(vllm_client, "trainer_init", join)
    monkeypatch.setattr(vllm_client, "packed_nccl_broadcast_producer", send_all)


def plugin() -> None:
    """Called by vLLM in each of its processes."""
    keep_weights()
    install_transport_of_server()


def server_environment(folder: Path) -> dict[str, str]:
    """The environment of a server that loads `plugin`; its entry point is written into folder."""
    distribution = folder / "vllm_cpu-0.dist-info"
    distribution.mkdir(parents=True)
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu-tests\nVersion: 0\n")
    (distribution / "entry_points.txt").write_text("[vllm.general_plugins]\ntests = vllm_cpu:plugin\n")
    paths = [str(Path(__file__).parent), str(folder)]
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths), "VLLM_SERVER_DEV_MODE": "1"}
