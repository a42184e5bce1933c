"""A run that is killed ten times, against a faulty server, loses nothing and asks for nothing twice."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sgpo.chat.journal import keys_of
from sgpo.command_runner import Command, serving
from sgpo.miniworld.teacher import MODEL
from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.problems import save_problems

KILLS, CONCURRENCY = 10, 16
PROBLEMS = problem_sets(3, Sizes.only(rl=300))["rl"]
FAULTS = {"rate-limited": 0.05, "error": 0.05, "hanging": 0.02, "malformed": 0.03, "garbled": 0.05}
SERVER = {"port": 0, "latency": 0.05, "retry-after": 0.2, "fault-seed": 1, **FAULTS}
QUIET_SECONDS = 0.5  # without a new request, what a killed client had sent has arrived


@dataclass(frozen=True)
class Kill:
    """What was known when a client had been killed: the journal's keys, and how many requests had come."""

    journalled: frozenset[str]
    requests: int


def requests_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def keys_of_request(request: Mapping[str, Any]) -> list[str]:
    """The journal's keys of what a request asks for, made as the client makes them.

    The server gives several samples a request, and all are asked for at once, so they are numbered from 0.
    """
    body = dict(request["body"])
    messages, samples = body.pop("messages"), body.pop("n", 1)
    question = {"model": body.pop("model"), "prompt_version": f"{request['kind']} 1", "parameters": body}
    return keys_of(messages, question, samples)


def keys_in(journal: Path) -> frozenset[str]:
    """The keys of all answers in a journal; a line that a kill tore off is none."""
    lines = journal.read_text().splitlines(keepends=True)
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return frozenset(entry["key"] for entry in entries if entry["text"] is not None)


def command_of(url: str, name: str) -> list[str]:
    options = {
        "problems": "problems.jsonl",
        "output": f"{name}.jsonl",
        "journal": f"{name}.journal.jsonl",
        "base-url": url,
        "model": MODEL,
        "concurrency": CONCURRENCY,
        "min-score": 0.85,
        "timeout": 2,
        "deadline": 120,
    }
    return [sys.executable, "-m", "sgpo", *Command("strategies extract", options).arguments]


def killed(command: Sequence[str], lines: int, journal: Path) -> None:
    """Run until the journal has so many lines, then kill."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= lines):
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline, "the journal does not grow"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def wait_until_quiet(log: Path) -> int:
    """The number of requests once no more of them come."""
    count, since = -1, time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        if (now := len(requests_of(log))) != count:
            count, since = now, time.monotonic()
        time.sleep(0.05)
    return count


def whole_run(folder: Path, name: str) -> list[dict[str, Any]]:
    """The same run without kills, on a server that has seen nothing; returns its requests."""
    log = folder / f"{name}.requests.jsonl"
    with serving(Command("teacher serve", {**SERVER, "log": log}), folder / f"{name}.log") as url:
        subprocess.run(command_of(url, name), check=True, timeout=300, capture_output=True)
    return requests_of(log)


@pytest.mark.integration
def test_ten_kills_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SGPO_API_KEY", "none")
    save_problems(PROBLEMS, "problems.jsonl")
    whole = whole_run(tmp_path, "whole")
    journal, log = tmp_path / "killed.journal.jsonl", tmp_path / "killed.requests.jsonl"
    total = (tmp_path / "whole.journal.jsonl").read_bytes().count(b"\n")
    moments = sorted(random.Random(7).sample(range(10, total - 50), KILLS))
    kills: list[Kill] = []
    with serving(Command("teacher serve", {**SERVER, "log": log}), tmp_path / "killed.log") as url:
        for lines in moments:
            killed(command_of(url, "killed"), lines, journal)
            arrived = wait_until_quiet(log)
            kills.append(Kill(keys_in(journal), arrived))
        subprocess.run(command_of(url, "killed"), check=True, timeout=300, capture_output=True)
    requests = requests_of(log)

    # The faults were there, in both runs.
    for of_run in (whole, requests):
        faults = Counter(request["fault"] for request in of_run)
        assert set(faults) == {None, "rate_limited", "error", "hanging", "malformed"}
        assert min(faults.values()) >= 5

    # Every problem has its result, and it is that of the run without kills.
    rows = [json.loads(line) for line in Path("killed.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [problem.id for problem in PROBLEMS]
    assert {row["status"] for row in rows} == {"kept", "rejected"}
    assert Path("killed.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()

    # Nothing that was journalled was asked for again.
    assert sorted(len(kill.journalled) for kill in kills) == [len(kill.journalled) for kill in kills]
    for kill in kills:
        later = {key for request in requests[kill.requests :] for key in keys_of_request(request)}
        assert kill.journalled
        assert not later & kill.journalled
    # The keys are the journal's own: all that is in it at the end was asked for.
    assert keys_in(journal) == {key for request in requests for key in keys_of_request(request)}

    # What was asked again although it had been answered: at most what was under way at a kill.
    answered = Counter(request["hash"] for request in requests if request["fault"] is None)
    repeated = sum(count - 1 for count in answered.values())
    print(f"{repeated} requests repeated, {len(requests)} in all, {len(whole)} without kills")  # pytest -s shows it
    assert repeated <= KILLS * CONCURRENCY
    assert max(Counter(request["hash"] for request in whole if request["fault"] is None).values()) == 1
