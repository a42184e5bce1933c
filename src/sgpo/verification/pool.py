"""The shared pool of worker processes: started by the first comparison that needs it, ended with this process.

The workers live in a process of their own (``sgpo.verification.worker`` says why), which ends when this process closes
its end of the pipe, also by being killed. A process forked from this one starts its own.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

MAX_WORKERS = 8

_START = "import sys; from sgpo.verification.worker import serve; serve(int(sys.argv[1]), int(sys.argv[2]))"


class _Server:
    """The process that runs the worker pool, and the thread that hands its replies to whoever asked."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        self.process = _start_process(theirs)
        theirs.close()
        self.ended = False
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[tuple[str, Any]]] = {}
        threading.Thread(target=self._read_replies, name="sgpo-verification", daemon=True).start()

    def ask(self, function: str, arguments: tuple[str, ...], timeout: float) -> Future[tuple[str, Any]]:
        future: Future[tuple[str, Any]] = Future()
        with self._lock:
            if self.ended:
                raise RuntimeError("the verification process has ended")
            number = next(self._numbers)
            self._waiting[number] = future
            self._send((number, function, arguments, timeout))
        return future

    def close(self) -> None:
        with self._lock:
            if not self.ended:
                self._send(None)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()  # its workers end with it
            self.process.wait()

    def _send(self, message: object) -> None:
        # When the process has just died, the reading thread finds out and tells everyone who waits.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def _read_replies(self) -> None:
        while True:
            try:
                number, kind, value = self.connection.recv()
            except (EOFError, ConnectionResetError):
                break
            with self._lock:
                future = self._waiting.pop(number)
            future.set_result((kind, value))
        with self._lock:
            self.ended = True
            abandoned = list(self._waiting.values())
            self._waiting.clear()
            self.connection.close()
        for future in abandoned:
            message = "the verification process ended while answers were being compared; its error output says why"
            future.set_exception(RuntimeError(message))


def _start_process(connection: Connection) -> subprocess.Popen[bytes]:
    # The same import path as here, as multiprocessing would give it; -P keeps the working directory out
    # unless it is on that path. A session of its own, so that Ctrl-C reaches the caller only, which then
    # closes the pool. A fixed order of sets, so that no verdict depends on chance.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    command = [sys.executable, "-P", "-c", _START, str(connection.fileno()), str(_worker_count())]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        pass_fds=[connection.fileno()],
        start_new_session=True,
    )


def _worker_count() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Under torchrun each process on this machine has a pool of its own.
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MAX_WORKERS, cores // processes))


_server: _Server | None = None
_server_lock = threading.Lock()


def ask(function: str, arguments: tuple[str, ...], timeout: float) -> Future[tuple[str, Any]]:
    global _server
    with _server_lock:
        if _server is None or _server.ended:
            _server = _Server()
        return _server.ask(function, arguments, timeout)


def close_pool() -> None:
    """End the worker processes, if any; the next comparison starts new ones. Called at exit by itself."""
    global _server
    with _server_lock:
        server, _server = _server, None
    if server is not None:
        server.close()


def _forget_server() -> None:
    """In a forked child: the pool is the parent's, which must be the only one to hold its end of the pipe."""
    global _server, _server_lock
    server, _server, _server_lock = _server, None, threading.Lock()
    if server is not None and not server.connection.closed:
        server.connection.close()


atexit.register(close_pool)
os.register_at_fork(after_in_child=_forget_server)
