"""Problems, commands and scripted answers for the tests of `sgpo strategies`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, Reply, Request, Script

from sgpo.cli import main
from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.problems import Problem
from sgpo.strategies import Connection, Extraction, extract_strategies

SECRET = "sk-sentinel-0123456789abcdef"
# With the first of their responses.
PROBLEMS = [replace(problem, more_responses=()) for problem in problem_sets(0, Sizes.only(rl=30))["rl"]]


def extract(server: ChatServer | str, problems: Path, *options: str) -> list[str]:
    url = server if isinstance(server, str) else server.url
    return ["strategies", "extract", "--problems", str(problems), "--base-url", url, "--model", "strong", *options]


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that refuses to start."""
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def outcomes_of(script: Script, problem: Problem, **changes: Any) -> tuple[Any, ChatServer]:
    with ChatServer(script) as server:
        connection = Connection(server.url, Path("one.jsonl"))
        run = extract_strategies([problem], Extraction("strong", **{"candidates": 1, **changes}), connection)
    (outcome,) = run.outcomes
    return outcome, server


def candidates(*texts: str, scores: str = "[1]", finish_reason: str = "stop", repaired: str | None = None) -> Script:
    def script(request: Request) -> Reply:
        if len(request.body["messages"]) > 1 and repaired is not None:
            return Reply([repaired])
        if "Candidate 1:" in request.text:
            return Reply([scores])
        return Reply(texts, finish_reason=finish_reason)

    return script


GOOD = "Problem type: sum\nStrategy: add in order\nSteps: (a) take the numbers (b) add them up"
PROBLEM = Problem("1", "Compute 16+17+18", "51", "(a) 16+17=33 (b) 33+18=51 \\boxed{51}")
