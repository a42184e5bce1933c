"""Where cells run: a core or a device each, and one comparison at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sgpo.command_runner import OF_ALL_PLACES

Place = dict[str, str]


def find_places(parallel: int | None, *, on_cpu: bool) -> list[Place]:
    """The environment of each of the cells that run at once.

    On a CPU a cell has one thread, and there are as many cells as cores; otherwise there is one for each device.

    Args:
        parallel: that many instead; devices are shared out in turn.
        on_cpu: although there may be devices.

    Raises:
        ValueError: fewer than one.
    """
    if parallel is not None and parallel < 1:
        raise ValueError(f"--parallel is {parallel}; it must be at least 1")
    devices = [] if on_cpu else visible_devices()
    count = parallel or len(devices) or available_cores()
    if not devices:
        return [{**OF_ALL_PLACES, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} for _ in range(count)]
    return [{**OF_ALL_PLACES, "CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} for number in range(count)]


def visible_devices() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def available_cores() -> int:
    """Those that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def only_one(output: Path) -> Iterator[int]:
    """Refuse a folder in which a comparison is at work, also one that was killed and whose commands still run.

    Gives the lock's file descriptor, which the commands are to keep open.

    Raises:
        ValueError: another one is.
    """
    output.mkdir(parents=True, exist_ok=True)
    handle = os.open(output / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"a comparison is at work in {output}, or a command of one that was killed; wait for it, or end it"
            ) from None
        yield handle
    finally:
        os.close(handle)
