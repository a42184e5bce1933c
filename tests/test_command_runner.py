"""Commands as processes: order, failures, signals; jobs of several commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sgpo.command_runner import Command, CommandFailed, Job, JobRunner, run_commands, serving
from sgpo.errors import UsageError

URL = "http://127.0.0.1:4567/v1"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """`python -m sgpo NAME`, started in this folder, runs NAME.py in place of a command."""
    (tmp_path / "sgpo").mkdir()
    (tmp_path / "sgpo" / "__init__.py").touch()
    (tmp_path / "sgpo" / "__main__.py").write_text(
        "import runpy, sys\nrunpy.run_path(f'{sys.argv[1]}.py', run_name='__main__')\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until_ended(pids: list[int]) -> None:
    """A killed process is gone a moment after the signal was sent, not before."""
    deadline = time.monotonic() + 10
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {alive}"
        time.sleep(0.02)


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 20
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.02)
    return path.read_text()


LONG = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("pids.part", "w").write(f"{os.getpid()} {child.pid}\\n")
os.rename("pids.part", "pids")
time.sleep(600)
"""
FAILING = """
import os, sys, time
while not os.path.exists("pids"):
    time.sleep(0.02)
for number in range(40):
    print("line", number)
sys.exit("what went wrong")
"""


def test_a_failure_shows_the_end_of_its_log_and_ends_the_others(scripts: Path) -> None:
    (scripts / "long.py").write_text(LONG)
    (scripts / "failing.py").write_text(FAILING)
    commands = {"first": Command("long", {}), "second": Command("failing", {}), "third": Command("never", {})}
    with pytest.raises(CommandFailed) as caught:
        run_commands(commands, scripts, lambda ended: None)
    message = str(caught.value)
    assert "second ended with exit status 1" in message
    assert "| what went wrong" in message
    assert "| line 39" in message
    assert "| line 25\n" not in message
    assert str(scripts / "second.log") in message
    wait_until_ended([int(pid) for pid in (scripts / "pids").read_text().split()])
    assert not (scripts / "third.log").exists()


def test_commands_run_two_at_a_time_in_order(scripts: Path) -> None:
    (scripts / "note.py").write_text(
        "import sys, time\n"
        "open('notes', 'a').write(f'start {sys.argv[3]}\\n'); time.sleep(0.5); open('notes', 'a').write('end\\n')\n"
    )
    commands = {f"c{i}": Command("note", {"number": i}) for i in range(4)}
    seen: list[int] = []
    run_commands(commands, scripts, lambda ended: seen.append(len(ended)))
    notes = (scripts / "notes").read_text().split("\n")
    running = [notes[: i + 1].count("end") for i in range(len(notes))]
    started = [sum(note.startswith("start") for note in notes[: i + 1]) for i in range(len(notes))]
    assert max(s - e for s, e in zip(started, running, strict=True)) == 2
    assert seen == sorted(seen)
    assert seen[-1] == 4
    assert (scripts / "c2.log").read_text().startswith("$ ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_process(scripts: Path, number: signal.Signals) -> None:
    (scripts / "long.py").write_text(LONG)
    code = (
        "from pathlib import Path\n"
        "from sgpo.command_runner import Command, ending_signals, run_commands\n"
        "with ending_signals():\n"
        "    run_commands({'long': Command('long', {})}, Path(), lambda ended: None)\n"
    )
    # -P: unlike the commands that it starts, the parent takes the real package.
    parent = subprocess.Popen([sys.executable, "-P", "-c", code], cwd=scripts, stderr=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in wait_for(scripts / "pids").split()]
    assert all(is_alive(pid) for pid in pids)
    parent.send_signal(number)
    _, errors = parent.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    wait_until_ended(pids)


SERVER = """
import os, time
print("starting", flush=True)
open("pids.part", "w").write(f"{os.getpid()}\\n")
os.rename("pids.part", "pids")
print("Serving at http://127.0.0.1:4567/v1", flush=True)
time.sleep(600)
"""


def test_a_server_runs_meanwhile_and_not_after_a_failure(scripts: Path) -> None:
    (scripts / "server.py").write_text(SERVER)
    with (  # noqa: PT012 - what is raised within ends it
        pytest.raises(CommandFailed, match="inside"),
        serving(Command("server", {}), scripts / "server.log") as url,
    ):
        assert url == URL
        (pid,) = (int(pid) for pid in wait_for(scripts / "pids").split())
        assert is_alive(pid)
        raise CommandFailed("inside")
    wait_until_ended([pid])


def test_a_server_that_ends_at_once_shows_its_log(scripts: Path) -> None:
    (scripts / "server.py").write_text("import sys; sys.exit('no port')\n")
    with (
        pytest.raises(CommandFailed, match=r"server ended with exit status 1[^|]*(\|[^|]*)*\| no port"),
        serving(Command("server", {}), scripts / "server.log"),
    ):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_too(scripts: Path, number: signal.Signals) -> None:
    (scripts / "server.py").write_text(SERVER)
    code = (
        "from pathlib import Path\n"
        "from sgpo.command_runner import Command, ending_signals, serving\n"
        "import time\n"
        "with ending_signals(), serving(Command('server', {}), Path('server.log')):\n"
        "    Path('inside').write_text('x\\n'); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-P", "-c", code], cwd=scripts, stderr=subprocess.PIPE, text=True)
    wait_for(scripts / "inside")
    (pid,) = (int(pid) for pid in wait_for(scripts / "pids").split())
    parent.send_signal(number)
    _, errors = parent.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    wait_until_ended([pid])


# --- jobs -----------------------------------------------------------------------------------------------------

NOTE = "import os, sys; open('notes', 'a').write(f'{sys.argv[3]} {os.environ[\"PLACE\"]}\\n')\n"


def runner(folder: Path, places: int, failures: dict[str, str]) -> JobRunner:
    environments = [{"PLACE": str(number)} for number in range(places)]
    return JobRunner(folder / "logs", environments, failures.__setitem__, lambda ended, running: None)


def test_a_job_sees_the_results_of_its_commands_and_keeps_its_place(scripts: Path) -> None:
    (scripts / "note.py").write_text(NOTE)
    seen: list[str] = []

    def commands(name: str) -> Iterator[Command]:
        for part in ("first", "second"):
            yield Command("note", {"number": f"{name}-{part}"})
            seen.append(next(line for line in (scripts / "notes").read_text().splitlines() if f"{name}-{part}" in line))

    failures: dict[str, str] = {}
    found = runner(scripts, 2, failures)
    found.run({"a": Job(commands("a")), "b": Job(commands("b"), after=("a",)), "c": Job(commands("c"))})
    assert (found.ended, found.lost, failures) == ({"a", "b", "c"}, set(), {})
    assert [line for line in seen if line.startswith("a")] == ["a-first 0", "a-second 0"]
    assert [line for line in seen if line.startswith("c")] == ["c-first 1", "c-second 1"]
    assert seen.index("a-second 0") < next(i for i, line in enumerate(seen) if line.startswith("b"))
    log = (scripts / "logs" / "a.log").read_text()
    assert log.count("$ ") == 2


def test_a_failure_loses_what_waits_for_it_and_nothing_else(scripts: Path) -> None:
    (scripts / "note.py").write_text(NOTE)
    (scripts / "failing.py").write_text("import sys; sys.exit('what went wrong')\n")
    after = {"waits": ("bad",), "waits for that": ("waits",), "other": ()}
    jobs = {"bad": Job(iter([Command("failing", {}), Command("never", {})]))}
    jobs |= {name: Job(iter([Command("note", {"number": name})]), after=some) for name, some in after.items()}
    failures: dict[str, str] = {}
    found = runner(scripts, 1, failures)
    found.run(jobs)
    assert (found.ended, found.lost) == ({"other"}, {"bad", "waits", "waits for that"})
    assert set(failures) == {"bad"}
    assert "| what went wrong" in failures["bad"]
    assert not found.running


def test_jobs_without_a_command_end_at_once(scripts: Path) -> None:
    failures: dict[str, str] = {}
    found = runner(scripts, 1, failures)
    found.run({"a": Job(iter([])), "b": Job(iter([]), after=("a",))})
    assert (found.ended, failures) == ({"a", "b"}, {})


def test_what_the_user_can_mend_between_two_commands_loses_the_job_alone(scripts: Path) -> None:
    def commands(error: Exception) -> Iterator[Command]:
        raise error
        yield Command("never", {})

    failures: dict[str, str] = {}
    found = runner(scripts, 1, failures)
    full = OSError(28, "No space left on device", "cell.json")
    damaged = UsageError("cell.json is damaged; delete it")
    found.run({"full": Job(commands(full)), "damaged": Job(commands(damaged)), "other": Job(iter([]))})
    assert (found.ended, found.lost) == ({"other"}, {"full", "damaged"})
    assert failures == {
        "full": "full: OSError: [Errno 28] No space left on device: 'cell.json'",
        "damaged": "damaged: cell.json is damaged; delete it",
    }


def test_a_bug_between_two_commands_ends_all_with_its_traceback(scripts: Path) -> None:
    (scripts / "long.py").write_text(LONG.replace("600", "20"))

    def commands() -> Iterator[Command]:
        wait_for(scripts / "pids")
        yield Command("never", {"score": {}["average"]})

    failures: dict[str, str] = {}
    with pytest.raises(KeyError, match="average") as caught:
        runner(scripts, 2, failures).run({"long": Job(iter([Command("long", {})])), "bug": Job(commands())})
    assert caught.traceback[-1].name == "commands"
    assert failures == {}
    wait_until_ended([int(pid) for pid in (scripts / "pids").read_text().split()])
