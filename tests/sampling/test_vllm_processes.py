"""`sampler: vllm` in two training processes (gloo), with two servers and with an engine in each process.

Run as tests/sampling/test_vllm.py. The weights go to the servers through a TCP store in place of NCCL (vllm_cpu.py).
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from places import SUPPORT
from processes import free_port, launch
from vllm_servers import Server

pytestmark = pytest.mark.vllm_engine
SCRIPT = str(SUPPORT / "vllm_process_cases.py")
Outcome = tuple[list[tuple[int, str]], list[dict[str, Any]]]  # exit status and output of each process; what each said


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two of them, of which a test kills the second, and another one leaves the first unfit."""
    running = [Server(tmp_path_factory.mktemp("server")) for _ in range(2)]
    try:
        for server in running:
            server.wait()
        yield running
    finally:
        for server in running:
            server.kill()


def run(case: str, folder: Path, servers: list[Server]) -> Outcome:
    (folder / "port").write_text(str(free_port()))
    ended = launch([SCRIPT, case, str(folder), ",".join(server.url for server in servers)])
    said = [json.loads(path.read_text()) for path in sorted(folder.glob("?.json"))]
    return ended, said


def succeeded(outcome: Outcome) -> list[dict[str, Any]]:
    for status, output in outcome[0]:
        assert status == 0, output[-4000:]
    assert len(outcome[1]) == 2
    return outcome[1]


def assert_trained_and_synchronised(both: list[dict[str, Any]]) -> None:
    for found in both:
        print({name: value for name, value in found.items() if name != "norms"})
        assert len(found["mismatch"]) == 2  # of each rollout batch, the mean over both processes
        assert max(found["mismatch"]) < 1e-5
        assert min(found["norms"]) > 0
        assert found["seeded"]
        assert found["kept"]  # one synchronisation for all calls inside
        assert found["answer"]  # and the known answer after the next
        assert "still has old weights" in found["stale"] or "does not compute what the model does" in found["stale"]


def test_two_processes_and_two_servers(servers: list[Server], tmp_path: Path) -> None:
    both = succeeded(run("servers", tmp_path, servers))
    assert_trained_and_synchronised(both)
    for found in both:
        one, other = found["asked"]
        assert one > 0 < other
        assert abs(one - other) <= 10  # a call of one prompt goes to one server


def test_a_process_that_is_killed_ends_the_other(servers: list[Server], tmp_path: Path) -> None:
    began = time.monotonic()
    (first, output), (second, _) = run("killed_process", tmp_path, servers)[0]
    print(f"{time.monotonic() - began:.0f} seconds with the start", output[-300:])
    assert second == -signal.SIGKILL
    assert first not in (0, None)
    assert "ProcessError: another process of the run is gone" in output


def test_a_server_that_is_killed_ends_both_processes(servers: list[Server], tmp_path: Path) -> None:
    def kill() -> None:
        while not (tmp_path / "kill").exists():
            time.sleep(0.1)
        servers[1].kill()
        (tmp_path / "killed").touch()

    threading.Thread(target=kill, daemon=True).start()
    both = succeeded(run("killed_server", tmp_path, servers))
    print(both)
    errors = [found["failure"] for found in both]
    assert any(error.startswith("EngineError: vLLM failed while sampling: ") for error in errors)
    for error in errors:
        assert "vLLM failed while sampling: " in error


def test_a_weight_that_does_not_fit_ends_both_processes(servers: list[Server], tmp_path: Path) -> None:
    both = succeeded(run("misfit", tmp_path, servers[:1]))
    print(both)
    said = "EngineError: vLLM: the weight synchronisation failed: ServerError: HTTP 500 of "
    assert both[0]["failure"].startswith(said)
    assert both[1]["failure"].startswith(f"ProcessError: process 0 failed, which ends the run: {said}")
    assert max(found["seconds"] for found in both) < 60


def test_two_processes_with_an_engine_each(tmp_path: Path) -> None:
    both = succeeded(run("colocated", tmp_path, []))
    assert_trained_and_synchronised(both)
    said = "vLLM: the weight synchronisation failed: no room in the second engine"
    assert both[1]["failure"] == "EngineError: no room in the second engine" or said in both[1]["failure"]
    assert both[0]["failure"].startswith("ProcessError: process 1 failed, which ends the run: EngineError: ")


def test_two_processes_with_an_engine_each_and_a_divided_model_under_an_adapter(tmp_path: Path) -> None:
    both = succeeded(run("divided_adapter", tmp_path, []))
    assert_trained_and_synchronised(both)
    assert all(found["sharded"] for found in both)


def test_two_processes_that_share_an_engine(tmp_path: Path) -> None:
    both = succeeded(run("shared", tmp_path, []))
    assert_trained_and_synchronised(both)
    for found in both:
        assert found["whose"]
        assert found["none"]
        assert 0.5 <= found["parts"] < 0.7  # of the weights; norms are whole in both
