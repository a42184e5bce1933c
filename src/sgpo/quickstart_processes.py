"""Running `sgpo` commands as processes, two at a time, so that none is left behind."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgpo.configuration import read_config

POLL_SECONDS, PATIENCE_SECONDS = 0.25, 5.0
SERVER_SECONDS = 60.0  # until a server says where it is
LOG_LINES_SHOWN = 15
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
# Two processes of two threads each on two cores are slower than of one. Nothing is looked up on the Hub.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONIOENCODING": "utf-8",
    # The teacher's server is on this machine: no key of the user's is sent to it, and no proxy stands before it.
    "SGPO_API_KEY": "none",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


class StageFailed(Exception):  # noqa: N818 - said to a user, who reads no class names
    """A command of the quickstart ended with an error; the message holds the end of its log."""


@dataclass(frozen=True)
class Command:
    """One `sgpo` command, an action after a space. Example: ``Command("train", {"config": "sgpo.yaml", "seed": 0})``"""

    name: str
    options: dict[str, Any]

    @property
    def arguments(self) -> list[str]:
        return [*self.name.split(), *(text for key, value in self.options.items() for text in (f"--{key}", str(value)))]

    def configuration(self) -> dict[str, Any]:
        """The values of the recipe, and the options over them."""
        recipe = read_config(Path(self.options["config"])) if "config" in self.options else {}
        return {**recipe, **self.options}


def run_commands(
    commands: Mapping[str, Command],
    logs: Path,
    watch: Callable[[set[str]], None],
    *,
    at_once: int = 2,
) -> None:
    """Run `sgpo` commands, two at a time; `watch` gets the names of those that have ended, again and again.

    Whatever ends this, an error or a signal, no process is left.

    Raises:
        StageFailed: one ended with an error.
    """
    waiting, running, ended = dict(commands), dict[str, subprocess.Popen[bytes]](), set[str]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                name = next(iter(waiting))
                running[name] = _start(waiting.pop(name), logs / f"{name}.log")
            time.sleep(POLL_SECONDS)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                status = running.pop(name).returncode
                if status:
                    raise StageFailed(_failure(name, status, logs / f"{name}.log"))
                ended.add(name)
            watch(ended)
    finally:
        stop(running.values())


@contextlib.contextmanager
def serving(command: Command, log: Path) -> Iterator[str]:
    """Run a server meanwhile; gives its address, which it writes into its log.

    Raises:
        StageFailed: it ended, or did not say where it is.
    """
    process = _start(command, log)
    try:
        deadline = time.monotonic() + SERVER_SECONDS
        while not (found := re.search(r"^Serving at (\S+)\n", log.read_text(encoding="utf-8"), re.MULTILINE)):
            if process.poll() is not None:
                raise StageFailed(_failure(log.stem, process.returncode, log))
            if time.monotonic() > deadline:
                raise StageFailed(f"{log.stem} did not say within {SERVER_SECONDS:.0f} s where it serves; see {log}")
            time.sleep(POLL_SECONDS / 5)
        yield found[1]
    finally:
        stop([process])


def _start(command: Command, log: Path) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "sgpo", *command.arguments]
    with log.open("w", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(arguments)}\n")
        file.flush()
        # A session of its own: Ctrl-C reaches the quickstart alone, which then ends it and what it has started.
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,
        )


def stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """End processes and all that they have started."""
    alive = list(processes)
    with undisturbed():
        for sent in (signal.SIGTERM, signal.SIGKILL):
            for process in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, sent)
            deadline = time.monotonic() + PATIENCE_SECONDS
            for process in alive:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
            alive = [process for process in alive if process.poll() is None]


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back signals: a second Ctrl-C, out of impatience, must not leave processes behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *ENDING_SIGNALS})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _failure(name: str, status: int, log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES_SHOWN:]
    shown = "\n".join(f"  | {line}" for line in lines)
    return f"{name} ended with exit status {status}. The end of its log:\n{shown}\nThe whole log is {log}"


@contextlib.contextmanager
def ending_signals() -> Iterator[None]:
    """Being asked to end is like Ctrl-C meanwhile: without this the processes would go on alone."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
