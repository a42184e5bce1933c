"""A reward for programming problems: 1 if the program in the completion passes its problem's unit tests.

    sgpo train --config FILE --rewards examples/unit_test_reward.py:unit_test_reward

The data has a column ``tests`` with Python code that raises where the program is wrong, for example
``assert add(2, 3) == 5``; a row without tests gets no reward of this function. The program is the last fenced block of
Python in the completion.

Each program runs in a process of its own with limits on time, memory, and file size, in an empty folder, without this
process's environment; what it starts is killed with it. THIS IS NO SANDBOX: the program runs as the same user, can read
the user's files, and reach the network. Where that matters, run the training in a container without either.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sgpo.rewards import Completion, completion_text

MEMORY = 512 * 1024**2  # bytes of address space
FILE_SIZE = 1024**2  # bytes of each file that it writes, its output among them
PARALLEL = 2  # programs at a time

PROGRAM = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)

# Limits are set by the process itself, which cannot lift them again. Only who comes to the last line prints the word:
# a program that ends early, by sys.exit() or os._exit(), has not passed.
RUNNER = """
import resource
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
resource.setrlimit(resource.RLIMIT_FSIZE, ({file_size}, {file_size}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
scope = {{"__name__": "program"}}
exec(compile({program!r}, "program", "exec"), scope)
exec(compile({tests!r}, "tests", "exec"), scope)
print({word!r})
"""


def unit_test_reward(
    completions: Sequence[Completion], tests: Sequence[str | None], *, seconds: int = 5, **columns: Any
) -> list[float | None]:
    """Return 1.0 for each program that passes its tests within ``seconds``, 0.0 otherwise, None without tests."""
    texts = [completion_text(completion) for completion in completions]
    with ThreadPoolExecutor(PARALLEL) as threads:
        return list(threads.map(lambda text, test: _reward(text, test, seconds), texts, tests))


def _reward(text: str, tests: str | None, seconds: int) -> float | None:
    if not tests:
        return None
    programs = PROGRAM.findall(text)
    return float(bool(programs) and passes(programs[-1], tests, seconds))


def passes(program: str, tests: str, seconds: int) -> bool:
    """Run a program and its tests; tell whether all of it ran to the end in time."""
    word = secrets.token_hex()
    code = RUNNER.format(memory=MEMORY, file_size=FILE_SIZE, seconds=seconds, program=program, tests=tests, word=word)
    with tempfile.TemporaryDirectory() as folder:
        script, output = Path(folder, "run.py"), Path(folder, "output")
        script.write_text(code, encoding="utf-8", errors="surrogatepass")
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-I", script],
                cwd=folder,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a group of its own, to be killed with all that it starts
            )
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                return False
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode == 0 and output.read_bytes().endswith(f"{word}\n".encode())
