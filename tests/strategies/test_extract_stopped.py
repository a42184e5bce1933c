"""`sgpo strategies extract`, killed or stopped by Ctrl-C, with faults of the server, and resumed."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from chat_server import ChatServer, Reply, Request, Script, teacher
from extraction_cases import PROBLEMS, extract

from sgpo.chat.journal import Journal
from sgpo.cli import main
from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.problems import Problem, load_problems, save_problems

pytestmark = pytest.mark.usefixtures("strategies_environment")


def faulty(problems: list[Problem], seed: int) -> Script:
    """5% 429, 5% 500, 3% malformed, 3% dropped, decided by the request and its attempt; otherwise the teacher."""
    good = teacher(problems)

    def script(request: Request) -> Reply:
        draw = random.Random(f"{seed} {request.attempt} {json.dumps(request.body, sort_keys=True)}").random()
        if draw < 0.05:
            return Reply(status=429, headers={"Retry-After": "0.1"}, content="slow down")
        if draw < 0.10:
            return Reply(status=500, content="oh")
        if draw < 0.13:
            return Reply(content='{"choices": [')
        if draw < 0.16:
            return Reply(drop=True)
        reply = good(request)
        return Reply(reply.texts, delay=0.03, prompt_tokens=reply.prompt_tokens)

    return script


@pytest.mark.integration
def test_killed_twice_and_resumed(tmp_path: Path) -> None:
    problems = problem_sets(3, Sizes.only(rl=120))["rl"]
    save_problems(problems, tmp_path / "problems.jsonl")
    concurrency = 8
    options = ["--concurrency", str(concurrency), "--journal", "killed.jsonl", "--output", "killed.jsonl.parquet"]
    with ChatServer(faulty(problems, 1)) as server:
        command = [sys.executable, "-m", "sgpo", *extract(server, tmp_path / "problems.jsonl", *options)]
        for lines in (60, 300):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _wait_for_lines(tmp_path / "killed.jsonl", lines, process)
            process.send_signal(signal.SIGKILL)
            process.wait()
        answered = sum(1 for _ in (tmp_path / "killed.jsonl").open())
        assert 300 <= answered < 720
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0, result.stderr
        asked = Counter(json.dumps(request.body, sort_keys=True) for request in server.requests)
        good_attempts = Counter(
            json.dumps(r.body, sort_keys=True) for r in server.requests if faulty(problems, 1)(r).delay
        )
    again = sum(count - 1 for count in good_attempts.values())
    assert again <= 2 * concurrency  # answered, but killed before the answer was journalled
    assert len(asked) == 240
    with ChatServer(faulty(problems, 1)) as server:
        other = [option.replace("killed", "whole") for option in options]
        assert main(extract(server, tmp_path / "problems.jsonl", *other)) == 0
    assert load_problems("killed.jsonl.parquet") == load_problems("whole.jsonl.parquet")
    assert len(load_problems("killed.jsonl.parquet")) == 120


def _wait_for_lines(path: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        assert process.poll() is None, "it ended before it was killed"
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.05)
    raise AssertionError("the journal does not grow")


def test_ctrl_c_waits_for_requests_under_way(problems_file: Path) -> None:
    good = teacher(PROBLEMS)

    def slow(request: Request) -> Reply:
        reply = good(request)
        return Reply(reply.texts, delay=0.5)

    with ChatServer(slow) as server:
        command = [sys.executable, "-m", "sgpo", *extract(server, problems_file, "--concurrency", "2")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while len(server.requests) < 2 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "\nCtrl-C: requests under way are waited for; once more gives them up.\n" in error
        stopped = r"sgpo strategies: stopped with \d problems to do: stopped by Ctrl-C"
        assert re.search(rf"\n{stopped}\nThe same command goes on from here; .*\n$", error)
        with Journal("strategies.journal.jsonl") as journal:
            assert journal.totals["strong"].requests == len(server.requests)
    assert "not finished" in out
