"""Evaluation through a real HTTP server: the samples, the journal, and what happens when the server fails."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from chat_server import ChatServer, Reply, Request, Script

from sgpo.cli import main
from sgpo.evaluation.evaluate import problem_seed
from sgpo.problems import Problem, save_problems

PROBLEMS = [Problem(f"p{i}", f"Compute {i}+1", str(i + 1), strategy=f"Steps: (a) add to {i}") for i in range(5)]


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SGPO_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    save_problems(PROBLEMS, tmp_path / "sums.jsonl")
    return tmp_path / "sums.jsonl"


def run(server: ChatServer, problems: Path, output: Path, *options: str) -> int:
    start = ["eval", "--sampler", "http", "--base_url", server.url, "--model", "strong", "--problems", str(problems)]
    return main([*start, "--output", str(output), "--k", "2", "--max_completion_length", "100", *options])


def problem_of(request: Request) -> Problem:
    (problem,) = [p for p in PROBLEMS if request.body["messages"][-1]["content"].endswith(p.prompt)]
    return problem


def answer(request: Request) -> Reply:
    """Right to even problems; to odd ones, right with one of the two seeds."""
    problem = problem_of(request)
    first = request.body.get("seed", 0) == problem_seed(0, problem)
    right = int(problem.id[1:]) % 2 == 0 or first
    return Reply([f"so \\boxed{{{problem.answer if right else 99}}}"], tokens_each=7)


def summary_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "summary.json").read_text())["benchmarks"]["sums"]


def test_each_sample_is_a_request_with_a_seed_of_its_own(problems: Path, tmp_path: Path) -> None:
    with ChatServer(answer) as server:
        assert run(server, problems, tmp_path / "a", "--extra_body", '{"top_k": 20}') == 0
    assert len(server.requests) == 10
    for request in server.requests:
        assert request.body["max_tokens"] == 100
        assert (request.body["temperature"], request.body["top_p"], request.body["top_k"]) == (0.6, 0.95, 20)
        assert [turn["role"] for turn in request.body["messages"]] == ["system", "user"]
        assert "n" not in request.body
    seeds = sorted(request.body["seed"] for request in server.requests)
    assert seeds == sorted(problem_seed(0, p) + i for p in PROBLEMS for i in range(2))
    numbers = summary_of(tmp_path / "a")
    assert numbers["average"] == pytest.approx(4 / 5)
    assert numbers["pass_at"] == {"1": pytest.approx(4 / 5), "2": 1.0}
    assert (numbers["length"], numbers["truncated"]) == (7.0, 0.0)
    engine = json.loads((tmp_path / "a" / "summary.json").read_text())["engine"]
    assert (engine["name"], engine["model"], engine["extra_body"]) == ("http", "strong", {"top_k": 20})


def test_without_a_seed_samples_still_differ_in_the_journal(problems: Path, tmp_path: Path) -> None:
    with ChatServer(answer) as server:
        assert run(server, problems, tmp_path / "a", "--send_seed", "false") == 0
    assert len(server.requests) == 10
    assert all("seed" not in request.body for request in server.requests)


def test_truncated_answers_count_as_wrong(problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def cut(request: Request) -> Reply:
        return Reply([f"\\boxed{{{problem_of(request).answer}}}"], finish_reason="length")

    with ChatServer(cut) as server:
        assert run(server, problems, tmp_path / "a") == 0
    numbers = summary_of(tmp_path / "a")
    assert (numbers["average"], numbers["truncated"], numbers["majority"]) == (0.0, 1.0, 0.0)
    assert "WARNING: 100% of the answers on sums were cut off at 100 tokens" in capsys.readouterr().out


def test_reasoning_is_kept_beside_the_answer(problems: Path, tmp_path: Path) -> None:
    with ChatServer(lambda request: Reply(["\\boxed{1}"], reasoning="first \\boxed{2}")) as server:
        assert run(server, problems, tmp_path / "a", "--guided") == 0
    rows = pq.read_table(tmp_path / "a" / "samples" / "sums.parquet").to_pylist()
    assert {(row["completion"], row["reasoning"]) for row in rows} == {("\\boxed{1}", "first \\boxed{2}")}
    assert [row["verdict"] for row in rows] == ["correct"] * 2 + ["wrong"] * 8
    assert "Steps: (a) add to 0" in min(request.body["messages"][1]["content"] for request in server.requests)


def test_what_a_server_refused_is_asked_again_and_nothing_else(
    problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(request: Request) -> Reply:
        if problem_of(request).id == "p3":
            return Reply(status=400, content='{"error": {"message": "no more today"}}')
        return answer(request)

    with ChatServer(failing) as server:
        assert run(server, problems, tmp_path / "a") == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == (
        "sgpo eval: HTTP 400: no more today; 1 problems are not answered; the same command goes on with them"
    )
    assert not (tmp_path / "a" / "summary.json").exists()
    with ChatServer(answer) as server:  # on another port: where a server is does not matter
        assert run(server, problems, tmp_path / "a") == 0
    error = capsys.readouterr().err
    assert re.search(r"^sums: 10 completions in \d+ s, 8 of them known before$", error, re.MULTILINE)
    assert {problem_of(request).id for request in server.requests} == {"p3"}
    assert len(server.requests) == 2
    with ChatServer(answer) as server:
        assert run(server, problems, tmp_path / "whole") == 0
    assert summary_of(tmp_path / "a")["average"] == summary_of(tmp_path / "whole")["average"] == 4 / 5


def test_ctrl_c_waits_for_requests_under_way_and_the_command_goes_on(
    problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopping(request: Request) -> Reply:
        if problem_of(request).id == "p2":
            os.kill(os.getpid(), signal.SIGINT)
        return answer(request)

    with ChatServer(stopping) as server:
        assert run(server, problems, tmp_path / "a", "--concurrency", "1") == 130
        asked = len(server.requests)
    error = capsys.readouterr().err
    assert "\nCtrl-C: requests under way are waited for; once more gives them up.\n" in error
    end = r"\nsgpo eval: stopped by Ctrl-C; [1-4] problems are not answered; the same command goes on with them\n$"
    assert re.search(end, error)
    assert asked < 10
    with ChatServer(answer) as server:
        assert run(server, problems, tmp_path / "a") == 0
        assert len(server.requests) == 10 - asked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "strnog"], "does not answer for the model 'strnog'"),
        (["--extra_body", "[1]"], "extra_body is '[1]'; it must be a JSON object like {\"top_k\": 20}"),
        (
            ["--extra_body", '{"temperature": 1.0, "max_tokens": 7, "top_k": 20}'],
            "extra_body has max_tokens, temperature, which the command sends from options of their own: leave them out",
        ),
        (
            ["--extra_body", '{"seed": 1}'],
            "extra_body has seed, which the command sends from an option of its own: leave it out",
        ),
        (["--base_url", "localhost:8000"], "'localhost:8000' is no address"),
    ],
)
def test_what_cannot_work_is_refused(
    problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    refuse: Script = lambda request: Reply(status=404, content='{"error": {"message": "no such model"}}')  # noqa: E731
    with ChatServer(refuse) as server:
        assert run(server, problems, tmp_path / "a", *options) == 2
    assert message in capsys.readouterr().err


def test_a_server_that_is_not_there(problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ChatServer(answer) as server:
        pass
    assert run(server, problems, tmp_path / "a") == 2
    assert "no server answers at" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_what_is_to_be_overwritten_stays_until_the_server_answers(problems: Path, tmp_path: Path) -> None:
    with ChatServer(answer) as server:
        assert run(server, problems, tmp_path / "a") == 0
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert len(before) == 4
    assert run(server, problems, tmp_path / "a", "--overwrite") == 2
    assert before == {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
