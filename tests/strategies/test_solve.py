"""`sgpo strategies solve`: answers are verified and tried again; what is said where nothing came through."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from chat_server import ChatServer, Reply, Request
from extraction_cases import GOOD, PROBLEMS, candidates, extract, refusal

from sgpo.cli import main
from sgpo.problems import Problem, load_problems, save_problems
from sgpo.strategies.output import save_rows
from sgpo.strategies.solve import Solved, solved_rows

pytestmark = pytest.mark.usefixtures("strategies_environment")


def test_solve_verifies_and_tries_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = Problem("given", "2+2", "4", "It is \\boxed{4}")
    easy, hard, long, hopeless = (Problem(name, f"{name}: 3+4", "7") for name in ("easy", "hard", "long", "hopeless"))
    save_problems([given, easy, hard, long, hopeless], tmp_path / "bare.jsonl")
    attempts: Counter[str] = Counter()

    def script(request: Request) -> Reply:
        name = request.body["messages"][1]["content"].partition(":")[0]
        attempts[name] += 1
        if name == "long":
            return Reply(["7 is \\boxed{7}"], finish_reason="length")
        right = name == "easy" or (name == "hard" and attempts[name] == 3)
        return Reply([f"It is \\boxed{{{7 if right else 8}}}"], reasoning=f"thought {attempts[name]}")

    command = ["strategies", "solve", "--problems", str(tmp_path / "bare.jsonl"), "--model", "strong"]
    with ChatServer(script) as server:
        command += ["--base-url", server.url, "--attempts", "3"]
        assert main(command) == 0
        assert attempts == {"easy": 1, "hard": 3, "long": 3, "hopeless": 3}
        assert server.requests[0].body["messages"][0]["role"] == "system"
        assert main(command) == 0
        assert len(server.requests) == 10
    out = capsys.readouterr().out
    for row in ("solved.* 3 ", "rejected.* 2 ", "answer wrong.* 1 ", "cut off at the length limit.* 1 "):
        assert re.search(row, out), row
    solved = {problem.id: problem for problem in load_problems("solved.parquet")}
    assert [solved[name].response for name in ("given", "easy", "hard", "long", "hopeless")] == [
        "It is \\boxed{4}",
        "It is \\boxed{7}",
        "It is \\boxed{7}",
        None,
        None,
    ]
    assert [solved[name].extra["reasoning"] for name in ("easy", "hard")] == ["thought 1", "thought 3"]
    assert [solved[name].extra["attempts"] for name in ("given", "easy", "hard", "long")] == [0, 1, 3, 3]
    assert main(["strategies", "show", "solved.parquet", "--id", "hard", "hopeless"]) == 0
    shown = [" ".join(panel.replace("│", " ").split()) for panel in capsys.readouterr().out.split("╰")]
    assert "Problem hard: 3+4 Response It is \\boxed{7}" in shown[0]
    assert "Problem hopeless: 3+4 Response none: answer wrong" in shown[1]
    with ChatServer(candidates(GOOD, scores="[0.8]")) as server:
        ours = extract(server, Path("solved.parquet"), "--candidates", "1", "--columns", "response=response")
        assert "2 of 5 problems have no response" in refusal(ours, capsys)
        assert main([*ours, "--skip-unsolved"]) == 0
    rows = load_problems("strategies.parquet")
    assert [row.extra["reason"] for row in rows[3:]] == ["no response to extract from"] * 2


@pytest.mark.parametrize("action", ["solve", "extract"])
def test_where_nothing_came_through_the_reasons_are_said(
    action: str, problems_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where other problems were not asked."""

    def script(request: Request) -> Reply:
        if PROBLEMS[0].prompt in request.body["messages"][-1]["content"]:
            return Reply(status=400, content="maximum context length is 10 [tokens]")
        return Reply(status=400, content="temperature must be 1")

    solving = action == "solve"
    other = PROBLEMS[6] if solving else replace(PROBLEMS[6], response=None)  # which is not asked
    asked = [replace(problem, response=None if solving else problem.response) for problem in PROBLEMS[:6]]
    save_problems([other, *asked], problems_file)
    with ChatServer(script) as server:
        command = extract(server, problems_file, "--output", "out.jsonl")
        command = [*command[:1], action, *command[2:]] if solving else [*command, "--skip-unsolved"]
        assert main(command) == 1
        assert main([*command, "--dry-run"]) == 1
    out, err = capsys.readouterr()
    for row in ("failed.* 6 ", "  HTTP 400: temperature must be 1 .* 5 ", r"  HTTP 400: maximum .* \[tokens\] .* 1 "):
        assert re.search(row, out), row
    assert err.strip().splitlines()[-1] == (
        "sgpo strategies: all 6 problems that were asked failed, most often because of HTTP 400: temperature must be "
        "1; mend that, and the same command asks for them again"
    )
    assert [problem.extra["status"] for problem in load_problems("out.jsonl")] == [
        "kept" if solving else "rejected"
    ] + (["failed"] * 6)


def test_answers_that_cannot_be_verified_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_problems([Problem("1", "q", "7"), Problem("2", "q2", "}{")], tmp_path / "bare.jsonl")
    command = ["strategies", "solve", "--problems", str(tmp_path / "bare.jsonl"), "--model", "m"]
    line = refusal([*command, "--base-url", "http://127.0.0.1:9/v1"], capsys)
    assert "1 reference answers cannot be parsed by Math-Verify" in line


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_problem_that_has_several_solutions_keeps_them(tmp_path: Path, suffix: str) -> None:
    problems = [replace(PROBLEMS[0], more_responses=("another one",)), replace(PROBLEMS[1], response=None)]
    outcomes = [
        Solved(problems[0], "kept", "had a response", response=problems[0].response),
        Solved(problems[1], "kept", response="the new one"),
    ]
    save_rows(solved_rows(outcomes, "m"), tmp_path / f"solved.{suffix}")
    responses = [problem.responses for problem in load_problems(tmp_path / f"solved.{suffix}")]
    assert responses == [(PROBLEMS[0].response, "another one"), ("the new one",)]
