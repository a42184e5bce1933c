"""Running `sgpo` commands as processes, several at a time, so that none is left behind.

A job is an iterator over commands: it is advanced when the command that it gave last has ended well, so what it does
between two of them sees their results. There it fails by an OSError (a full device, say) or a `ReportedError`; any
other exception is a bug, and ends all with its traceback. Each place (a core, a device) is an environment, and runs one
job at a time.
"""

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sgpo.configuration import read_config
from sgpo.errors import ReportedError, UnfinishedError

POLL_SECONDS, PATIENCE_SECONDS = 0.25, 5.0
SERVER_SECONDS = 60.0  # until a server says where it is
LOG_LINES_SHOWN = 15
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
OF_ALL_PLACES = {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
# Two processes of two threads each on two cores are slower than of one. Nothing is looked up on the Hub.
ENVIRONMENT = {
    **OF_ALL_PLACES,
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    # The teacher's server is on this machine: no key of the user's is sent to it, and no proxy stands before it.
    "SGPO_API_KEY": "none",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


class CommandFailed(UnfinishedError):  # noqa: N818 - said to a user, who reads no class names
    """A command ended with an error; the message holds the end of its log."""


@dataclass(frozen=True)
class Command:
    """One `sgpo` command, an action after a space. Example: ``Command("train", {"config": "sgpo.yaml", "seed": 0})``"""

    name: str
    options: dict[str, Any]

    @property
    def arguments(self) -> list[str]:
        """A list is given as several texts."""
        texts = list(self.name.split())
        for key, value in self.options.items():
            texts += [f"--{key}", *map(str, value if isinstance(value, list | tuple) else [value])]
        return texts

    def configuration(self) -> dict[str, Any]:
        """The values of the recipe, and the options over them."""
        recipe = read_config(Path(self.options["config"])) if "config" in self.options else {}
        return {**recipe, **self.options}


@dataclass
class Job:
    """Commands that run one after the other, once the jobs in `after` have ended well.

    Example: ``Job(iter([Command("train", {...}), Command("eval", {...})]), after=("sft",))``
    """

    commands: Iterator[Command]
    after: tuple[str, ...] = ()


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    job: Job
    place: Mapping[str, str]


@dataclass
class JobRunner:
    """Runs jobs, as many at a time as there are places. Whatever ends it, an error or a signal, no process is left.

    Args:
        logs: folder; the output of all commands of a job goes into `logs`/NAME.log.
        places: environment variables of each place.
        failed: is called with a job's name and what is to be said of its failure; may raise, which ends all. Jobs
            that wait for a failed one are not begun.
        kept_open: file descriptors that the commands get, such as that of a lock.
        watch: is called again and again with the names of the jobs that have ended well, and of those that run.
    """

    logs: Path
    places: Sequence[Mapping[str, str]]
    failed: Callable[[str, str], None]
    watch: Callable[[set[str], Sequence[str]], None]
    kept_open: Sequence[int] = ()
    running: dict[str, _Running] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)  # failed, or waited for one that has

    def run(self, jobs: Mapping[str, Job]) -> None:
        waiting, free = dict(jobs), list(self.places)
        try:
            while waiting or self.running:
                self._begin(waiting, free)
                if self.running:
                    time.sleep(POLL_SECONDS)
                for name in [name for name, each in self.running.items() if each.process.poll() is not None]:
                    self._go_on(name, self.running.pop(name), free)
                self.watch(self.ended, list(self.running))
        finally:
            stop_processes(each.process for each in self.running.values())

    def _begin(self, waiting: dict[str, Job], free: list[Mapping[str, str]]) -> None:
        """Start what can be started, in the order of the jobs."""
        for name, job in list(waiting.items()):
            if self.lost & set(job.after):
                del waiting[name]
                self.lost.add(name)
            elif free and self.ended.issuperset(job.after):
                del waiting[name]
                self._start(name, job, free.pop(0), free, first=True)

    def _go_on(self, name: str, each: _Running, free: list[Mapping[str, str]]) -> None:
        """A command has ended: begin the job's next one, or tell of its failure."""
        if status := each.process.returncode:
            self._lose(name, failure(name, status, self._log(name)), each.place, free)
        else:
            self._start(name, each.job, each.place, free)

    def _start(
        self, name: str, job: Job, place: Mapping[str, str], free: list[Mapping[str, str]], *, first: bool = False
    ) -> None:
        try:
            command = next(job.commands, None)
        except ReportedError as error:
            self._lose(name, f"{name}: {error}", place, free)
            return
        except OSError as error:
            self._lose(name, f"{name}: {type(error).__name__}: {error}", place, free)
            return
        if command is None:
            self.ended.add(name)
            free.append(place)
        else:
            log = self._log(name)
            log.parent.mkdir(parents=True, exist_ok=True)
            mode = "w" if first else "a"
            process = start(command, log, environment=place, mode=mode, kept_open=self.kept_open)
            self.running[name] = _Running(process, job, place)

    def _lose(self, name: str, message: str, place: Mapping[str, str], free: list[Mapping[str, str]]) -> None:
        self.lost.add(name)
        free.append(place)
        self.failed(name, message)

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


def run_commands(
    commands: Mapping[str, Command],
    logs: Path,
    watch: Callable[[set[str]], None],
    *,
    at_once: int = 2,
) -> None:
    """Run single commands, the first failure of which ends all; `watch` gets the names of those that have ended.

    Raises:
        CommandFailed: one ended with an error.
    """

    def failed(name: str, message: str) -> None:
        raise CommandFailed(message)

    runner = JobRunner(logs, [ENVIRONMENT] * at_once, failed, lambda ended, running: watch(ended))
    runner.run({name: Job(iter([command])) for name, command in commands.items()})


@contextlib.contextmanager
def serving(command: Command, log: Path) -> Iterator[str]:
    """Run a server meanwhile; gives its address, which it writes into its log.

    Raises:
        CommandFailed: it ended, or did not say where it is.
    """
    process = start(command, log)
    try:
        deadline = time.monotonic() + SERVER_SECONDS
        while not (found := re.search(r"^Serving at (\S+)\n", log.read_text(encoding="utf-8"), re.MULTILINE)):
            if process.poll() is not None:
                raise CommandFailed(failure(log.stem, process.returncode, log))
            if time.monotonic() > deadline:
                raise CommandFailed(f"{log.stem} did not say within {SERVER_SECONDS:.0f} s where it serves; see {log}")
            time.sleep(POLL_SECONDS / 5)
        yield found[1]
    finally:
        stop_processes([process])


def start(
    command: Command,
    log: Path,
    *,
    environment: Mapping[str, str] = ENVIRONMENT,
    mode: str = "w",
    kept_open: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Run a command in the background; what it says goes into `log`."""
    arguments = [sys.executable, "-m", "sgpo", *command.arguments]
    with log.open(mode, encoding="utf-8") as file:
        file.write(f"$ {shlex.join(arguments)}\n")
        file.flush()
        # A session of its own: Ctrl-C reaches this process alone, which then ends it and what it has started.
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
            pass_fds=kept_open,
        )


def stop_processes(processes: Iterable[subprocess.Popen[bytes]]) -> None:
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


def failure(name: str, status: int, log: Path) -> str:
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
