"""The example of a reward of one's own: programs judged by unit tests."""

from __future__ import annotations

import functools
import time
from pathlib import Path

import pytest
from places import ROOT

from sgpo.rewards import Batch, choose_rewards, load_reward, math_reward, score

EXAMPLE = ROOT / "examples" / "unit_test_reward.py"
TESTS = "assert add(2, 3) == 5\nassert add(-1, 1) == 0"


@pytest.fixture(scope="module")
def reward():
    return load_reward(f"{EXAMPLE}:unit_test_reward")


def fenced(program: str) -> str:
    return f"First a sketch:\n```python\nraise ValueError\n```\nThe program:\n```python\n{program}\n```\nDone."


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("def add(a, b):\n    return a + b", 1.0),
        ("def add(a, b):\n    return a - b", 0.0),
        ("def add(a, b):\n    return a +", 0.0),
        ("import sys; sys.exit(0)", 0.0),
        ("import os; os._exit(0)", 0.0),
        ("text = 'x' * (1 << 30)\ndef add(a, b):\n    return a + b", 0.0),
        ("open('big', 'wb').write(bytes(1 << 22))\ndef add(a, b):\n    return a + b", 0.0),
        ("import os\nassert 'SECRET' not in os.environ\ndef add(a, b):\n    return a + b", 1.0),
    ],
)
def test_programs(reward, monkeypatch, program, expected):
    monkeypatch.setenv("SECRET", "1")
    assert reward([fenced(program)], [TESTS], seconds=20) == [expected]


def test_time_limit_and_what_the_program_starts(reward, tmp_path):
    pid = tmp_path / "pid"
    child = "[sys.executable, '-c', 'import time; time.sleep(600)']"
    program = (
        f"import subprocess, sys\nchild = subprocess.Popen({child})\nopen({str(pid)!r}, 'w').write(str(child.pid))\n"
    )
    assert reward([fenced(program + "while True: pass")], [TESTS], seconds=3) == [0.0]
    deadline = time.monotonic() + 20
    while alive(int(pid.read_text())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(int(pid.read_text()))


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and not stat.read_text().rpartition(") ")[2].startswith("Z")


def test_order_no_program_and_no_tests(reward):
    good, bad = fenced("def add(a, b):\n    return a + b"), "I do not know."
    assert reward([good, bad, good, [{"role": "assistant", "content": good}]], [TESTS, TESTS, None, TESTS]) == [
        1.0,
        0.0,
        None,
        1.0,
    ]


def test_beside_the_verifier(reward):
    """Rows with tests and rows with an answer in one run: each function says None where it does not apply."""

    def math_where_no_tests(completions, answer, tests, **columns):
        verdicts = math_reward(completions, answer)
        return [None if test else verdict for verdict, test in zip(verdicts, tests, strict=True)]

    functions = [functools.partial(reward, seconds=20), math_where_no_tests]
    completions = [fenced("def add(a, b):\n    return a + b"), r"\boxed{7}", r"\boxed{8}"]
    columns = {"answer": ["-", "7", "7"], "tests": [TESTS, None, None]}
    rewards = choose_rewards(functions, [1.0, 0.5], correctness=["unit_test_reward", "math_where_no_tests"])
    found = score(rewards, Batch(["p", "q", "r"], completions, columns))
    assert found.rewards == [1.0, 0.5, 0.0]
    assert found.correct == [True, True, False]
