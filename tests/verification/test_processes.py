"""The verifier works from wherever it is called, and leaves no process behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gold_cases import TOWER

from sgpo.verification import pool, verify

SCRIPT = r"""
import sys
from sgpo.verification import pool, verify
print(verify(r"\boxed{\frac{1}{2}}", "0.5").status, "torch" in sys.modules, flush=True)
print(pool._server.process.pid, flush=True)
"""
HANG = rf"verify(r'\boxed{{{TOWER}}}', '4', timeout=600)"


def run(script: Path, code: str) -> list[str]:
    """Run a script to its end; returns the lines it printed."""
    script.write_text(code)
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


def group_members(leader: int) -> list[int]:
    """The living processes of a process group; the verification process leads its own."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(") ")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while being looked at
        if int(group) == leader and state != "Z":
            members.append(int(stat.parent.name))
    return members


def assert_gone(leader: int) -> None:
    deadline = time.monotonic() + 20
    while group_members(leader) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert group_members(leader) == []


def test_script_without_a_main_guard(tmp_path):
    status, server = run(tmp_path / "script.py", SCRIPT)
    assert status == "correct False"
    assert group_members(int(server)) == []


@pytest.mark.parametrize(("how", "ends_as"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, -signal.SIGINT)])
def test_no_process_outlives_a_caller_that_is_killed_or_interrupted(tmp_path, how, ends_as):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + HANG)
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "correct False\n"
        server = int(process.stdout.readline())
        time.sleep(0.5)
        assert len(group_members(server)) > 1  # the server and its workers
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == ends_as
    assert errors.endswith("KeyboardInterrupt\n" if how == signal.SIGINT else "")
    assert_gone(server)


def test_a_killed_caller_with_a_living_child_leaves_no_worker(tmp_path):
    """A forked child inherits the caller's end of the pipe, and must not keep the workers alive with it."""
    script = tmp_path / "script.py"
    fork = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\n    os._exit(0)\nos.kill(os.getpid(), 9)\n"
    script.write_text(SCRIPT + fork)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, process_group=0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "correct False\n"
        server = int(process.stdout.readline())
        process.wait(timeout=60)
        assert len(group_members(process.pid)) == 1  # the child
        assert_gone(server)
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_forked_process_starts_its_own_pool():
    assert verify(r"\boxed{\frac12}", "0.5").correct
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if verify(r"\boxed{\frac34}", "0.75").correct else 2
        finally:
            pool.close_pool()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert verify(r"\boxed{\frac12}", "0.5").correct


MULTIPROCESSING = r"""
import multiprocessing, os
from sgpo.verification import pool, verify

def judge(number):
    return verify(rf"\boxed{{\frac{{{number}}}{{4}}}}", str(number / 4)).status, pool._server.process.pid

if __name__ == "__main__":
    context = multiprocessing.get_context("METHOD")
    servers = []
    for _ in range(2):  # before this process has a pool of its own, and after
        with context.Pool(2) as processes:
            answers = processes.map(judge, range(1, 7), chunksize=1)
            processes.close()
            processes.join()
        answers.append(judge(1))
        print(*(status for status, _ in answers))
        servers += [server for _, server in answers]
    process = context.Process(target=judge, args=(3,))
    process.start()
    process.join()
    print(process.exitcode)
    print(*sorted(set(servers)))
"""


@pytest.mark.integration
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_multiprocessing(tmp_path, method):
    before, after, exit_code, servers = run(tmp_path / "script.py", MULTIPROCESSING.replace("METHOD", method))
    assert before == after == " ".join(["correct"] * 7)
    assert exit_code == "0"
    for server in map(int, servers.split()):
        assert_gone(server)


def test_several_threads_share_the_pool():
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(lambda n: verify(rf"\boxed{{\frac{{{n}}}{{4}}}}", str(n / 4)), range(24)))
    assert [verdict.status for verdict in verdicts] == ["correct"] * 24


def test_async_code():
    async def judge(number: int) -> list[str]:
        pair = (rf"\boxed{{\frac{{{number}}}{{4}}}}", str(number / 4))
        loop = asyncio.get_running_loop()
        found = await asyncio.gather(asyncio.to_thread(verify, *pair), loop.run_in_executor(None, verify, *pair))
        return [verdict.status for verdict in (*found, verify(*pair))]

    async def everything() -> list[list[str]]:
        return await asyncio.gather(*map(judge, range(4)))

    assert asyncio.run(everything()) == [["correct"] * 3] * 4


@pytest.mark.integration
def test_under_xdist(tmp_path):
    (tmp_path / "test_inner.py").write_text(
        "import pytest\nfrom sgpo.verification import verify\n\n\n@pytest.mark.parametrize('n', range(6))\n"
        r"def test_judged(n):" + "\n" + r"    assert verify(rf'\boxed{{\frac{{{n}}}{{4}}}}', str(n / 4)).correct" + "\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "test_inner.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "6 passed" in result.stdout
