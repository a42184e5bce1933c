"""Several processes on one machine, as a launcher starts them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from tempfile import TemporaryFile

TIMEOUT_SECONDS = 240.0  # far more than any case needs; a hang ends here
ABORT_SECONDS = 10.0
SHOWN = 20_000  # characters of each process that hangs


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def launch(arguments: Sequence[str], processes: int = 2, seconds: float = TIMEOUT_SECONDS) -> list[tuple[int, str]]:
    """Exit status and output of each process of `python ARGUMENTS`.

    Raises TimeoutError if one runs longer: with the output of all, and the stack of every thread of those that ran.
    """
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    telling = {"PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1"}  # or what was said before a kill would be lost
    environment = {**os.environ, **rendezvous, **telling, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with ExitStack() as open_files:
        # Not pipes: one that is full stops its process, and so all that wait for that one.
        files = [open_files.enter_context(TemporaryFile("w+", errors="replace")) for _ in range(processes)]
        started = [
            subprocess.Popen(
                [sys.executable, *arguments],
                env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            for rank, file in enumerate(files)
        ]
        ended = _ended(started, time.monotonic() + seconds)
        for file in files:
            file.seek(0)
        outputs = [file.read() for file in files]
    if not ended:
        said = [f"\n--- process {rank}:\n{output[-SHOWN:]}" for rank, output in enumerate(outputs)]
        raise TimeoutError(f"{arguments} took more than {seconds:g} seconds{''.join(said)}")
    return [(process.returncode, output) for process, output in zip(started, outputs, strict=True)]


def _ended(processes: Sequence[subprocess.Popen[bytes]], deadline: float) -> bool:
    """Whether all ended in time. Those that did not are told to abort, upon which they say where they are."""
    try:
        for process in processes:
            process.wait(max(deadline - time.monotonic(), 0))
        return True
    except subprocess.TimeoutExpired:
        for process in processes:
            process.send_signal(signal.SIGABRT)
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(ABORT_SECONDS)
        return False
    finally:
        for process in processes:
            process.kill()
            process.wait()
