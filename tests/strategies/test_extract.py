"""`sgpo strategies`: whole runs against a server on this machine, with faults, refusals, kills and resumes."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from chat_server import ChatServer, Reply, Request, Script, problem_of, teacher
from places import ROOT

from sgpo.chat.journal import Journal
from sgpo.cli import main
from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.problems import Problem, load_problems, save_problems
from sgpo.prompts import EXTRACT_TEMPLATE, SCORE_TEMPLATE
from sgpo.strategies import Connection, Extraction, Solving, extract_strategies, parse_strategy, save_strategies

SECRET = "sk-sentinel-0123456789abcdef"
PROBLEMS = problem_sets(0, Sizes(sft=0, rl=30, dev=0, test=0, test_deeper=0, test_unseen=0))["rl"]
Arguments = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SGPO_API_KEY", SECRET)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def problems_file(tmp_path: Path) -> Path:
    save_problems(PROBLEMS[:6], tmp_path / "problems.jsonl")
    return tmp_path / "problems.jsonl"


def extract(server: ChatServer | str, problems: Path, *options: str) -> list[str]:
    url = server if isinstance(server, str) else server.url
    return ["strategies", "extract", "--problems", str(problems), "--base-url", url, "--model", "strong", *options]


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that refuses to start."""
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_from_responses_to_a_training_set(problems_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = ["--price-in", "1", "--price-out", "10"]
    with ChatServer(teacher(PROBLEMS)) as server:
        output = ["--output", "out/strategies.parquet", "out/strategies.jsonl"]
        assert main(extract(server, problems_file, *output, *prices)) == 0
        assert [request.body.get("n") for request in server.requests].count(5) == 6
        assert len(server.requests) == 12
    out = capsys.readouterr().out
    # Six requests of 100 tokens in and 50 out, six of 200 and 10: 1,800 x $1 + 360 x $10 a million.
    for row in (
        "kept.* 6 ",
        "rejected.* 0 ",
        "failed.* 0 ",
        "mean score.* 0.900",
        "in, out.* 1.80k, 360",
        r"cost.* \$0.0054",
    ):
        assert re.search(row, out), row

    loaded = load_problems("out/strategies.parquet")
    assert loaded == load_problems("out/strategies.jsonl")
    for problem, original in zip(loaded, PROBLEMS, strict=False):
        expected = str(original.strategy).replace("Strategy: ", "Strategy: really really really really ")
        assert (problem.id, problem.prompt, problem.answer) == (original.id, original.prompt, original.answer)
        assert problem.response == original.response
        assert problem.strategy == problem.extra["text"] == expected
        parts = parse_strategy(expected)
        assert [problem.extra[name] for name in ("problem_type", "principle", "steps")] == [
            parts.problem_type,
            parts.strategy,
            list(parts.steps),
        ]
        assert problem.extra["score"] == 0.9
        assert [c["score"] for c in problem.extra["candidates"]] == [0.5, 0.6, 0.7, 0.8, 0.9]
        assert problem.extra["status"] == "kept"
        assert (problem.extra["model"], problem.extra["judge_model"]) == ("strong", "strong")
        assert problem.extra["prompt_version"] == "1"
        assert problem.extra["family"] == original.extra["family"]
    rows = datasets.load_dataset("parquet", data_files="out/strategies.parquet", cache_dir="cache")["train"]
    assert rows["strategy"] == [problem.strategy for problem in loaded]
    assert main(["strategies", "show", "out/strategies.parquet", "--id", loaded[1].id]) == 0
    shown = capsys.readouterr().out
    assert loaded[1].prompt in shown
    assert "score 0.90" in shown
    assert "Steps: (a)" in shown


@pytest.mark.parametrize("several", [True, False])
def test_a_second_run_asks_nothing(several: bool, problems_file: Path) -> None:
    with ChatServer(teacher(PROBLEMS, several=several)) as server:
        assert main(extract(server, problems_file)) == 0
        asked = len(server.requests)
        assert asked == (12 if several else 36)
        first = load_problems("strategies.parquet")
        assert main(extract(server, problems_file)) == 0
        assert len(server.requests) == asked
        assert load_problems("strategies.parquet") == first
        assert main(extract(server, problems_file, "--candidates", "6")) == 0
        assert len(server.requests) == asked + 6  # the sixth candidates, which are like the first: no new scores


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


@pytest.mark.parametrize(
    ("script", "reason", "requests"),
    [
        (candidates(GOOD.replace("order", "order to get 51")), "candidates tell the answer", 1),
        (candidates(GOOD.replace("them", "33 and 18")), "candidates tell an intermediate result", 1),
        (candidates(GOOD.replace("them", "16+17 = 34")), "candidates compute", 1),
        (candidates(GOOD + " x" * 800), "candidates too long or with too many steps", 1),
        (candidates("No idea."), "no candidate has the three parts", 2),
        (candidates(GOOD, finish_reason="length"), "candidates cut off at the length limit", 1),
        (candidates(""), "no text in any candidate", 1),
        (candidates(GOOD, scores="good"), "the judge gave no usable scores", 3),
        (candidates(GOOD, scores="[0.2]"), "best score below the minimum", 2),
    ],
)
def test_reasons_of_rejection(script: Script, reason: str, requests: int) -> None:
    outcome, server = outcomes_of(script, PROBLEM, min_score=0.3)
    assert (outcome.status, outcome.strategy) == ("rejected", None)
    assert len(server.requests) == requests
    if reason == "candidates compute":
        assert outcome.candidates[0].flags == ("computation: 16+17 = 34",)
    else:
        assert outcome.reason == reason


def test_one_repair_with_the_error_told() -> None:
    outcome, server = outcomes_of(candidates("Problem type: sum\nStrategy: add", repaired=GOOD), PROBLEM)
    assert (outcome.status, outcome.strategy) == ("kept", parse_strategy(GOOD))
    assert outcome.candidates[0].repaired
    conversation = server.requests[1].body["messages"]
    assert [message["role"] for message in conversation] == ["user", "assistant", "user"]
    assert "exactly three parts" in conversation[2]["content"]
    assert "it has Problem type, Strategy" in conversation[2]["content"]


def test_leaking_candidates_are_not_shown_to_the_judge_and_the_best_other_is_kept() -> None:
    texts = [GOOD, GOOD.replace("order", "order to get 51"), GOOD.replace("order", "turn"), GOOD]
    outcome, server = outcomes_of(candidates(*texts, scores="[0.2, 0.7]"), PROBLEM, candidates=4, judge_model="judge")
    assert outcome.score == 0.7
    assert outcome.strategy == parse_strategy(texts[2])
    assert [c.score for c in outcome.candidates] == [0.2, None, 0.7, 0.2]
    assert outcome.candidates[1].flags == ("answer: 51",)
    assert [request.body["model"] for request in server.requests] == ["strong", "judge"]
    assert server.requests[1].body["temperature"] == 0.0
    assert server.requests[1].text.count("Candidate ") == 2


def test_failed_problems_are_asked_again_by_the_next_run(
    problems_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = PROBLEMS[2].prompt
    good = teacher(PROBLEMS)
    with ChatServer(lambda r: Reply(status=400, content="too long") if bad in r.text else good(r)) as server:
        assert main(extract(server, problems_file)) == 0
    assert re.search(r"kept.* 5 .*failed.* 1 ", capsys.readouterr().out, re.DOTALL)
    row = load_problems("strategies.parquet")[2]
    assert (row.strategy, row.extra["status"], row.extra["detail"]) == (None, "failed", "HTTP 400: too long")
    with ChatServer(good) as server:
        assert main(extract(server, problems_file)) == 0
        assert [bad in request.text for request in server.requests] == [True, True]
    assert load_problems("strategies.parquet")[2].strategy


# ------------------------------------------------------------------------------ refusals before the first request


def test_bad_input_is_refused_in_one_line(
    problems_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"id": "a", "prompt": "1+1", "answer": "2", "response": ""}\n')
    with ChatServer(lambda request: Reply(status=404, content="no such model")) as server:
        ours = extract(server, problems_file)
        for arguments, message in (
            (extract(server, bare), "1 of 1 problems have no response (the first: id 'a')"),
            (extract(server, tmp_path / "no.jsonl"), "there is no file"),
            ([*ours, "--columns", "prompt=question"], "there is no column 'question'"),
            ([*ours, "--columns", "prompt"], "columns takes field=name"),
            ([*ours, "--output", str(problems_file)], "is the file of the problems"),
            ([*ours, "--output", "x.csv"], "written as .parquet or .jsonl"),
            ([*ours, "--output", str(problems_file / "x.parquet")], "problems.jsonl is no folder"),
            ([*ours, "--max-cost", "5"], "--max-cost needs --price-in and --price-out"),
            ([*ours, "--price-in", "5"], "belong together"),
            ([*ours, "--candidates", "0"], "candidates must be at least 1"),
            ([*ours, "--concurrency", "0"], "concurrency must be at least 1"),
            (
                [*ours, "--extra-body", '{"temperature": 0.5, "n": 3}'],
                "extra_body has n, temperature, which the command sends from options of their own: leave them out",
            ),
            ([*ours, "--extract-prompt", "none.txt"], "none.txt"),
            ([*ours, "--model", "stronk"], "does not answer for the model 'stronk'"),
            ([*ours, "--judge-model", "jugde"], "the server lists judge"),
            (extract("http://127.0.0.1:9/v1", problems_file), "no server answers at http://127.0.0.1:9/v1"),
            (extract(server.url.removesuffix("/v1"), problems_file), "check"),
            (extract("ftp://x", problems_file), "is no address"),
        ):
            assert message in refusal(arguments, capsys), message
            assert list(tmp_path.glob("**/*.journal.jsonl")) == []
        with Journal(tmp_path / "strategies.journal.jsonl"):
            assert "another process is writing the journal" in refusal(ours, capsys)
        monkeypatch.delenv("SGPO_API_KEY")
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        assert "set the environment variable" in refusal(extract("https://api.example.com/v1", problems_file), capsys)
        assert all(request.body["model"] in ("stronk", "jugde") for request in server.requests)


@pytest.mark.parametrize(("status", "message"), [(401, "does not accept the key"), (403, "HTTP 403: [key] is blocked")])
def test_a_wrong_key_is_refused_without_showing_it(
    status: int, message: str, problems_file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    body = json.dumps({"error": {"message": f"{SECRET} is blocked"}})
    with ChatServer(lambda request: Reply(status=status, content=body), models=None) as server:
        assert message in refusal(extract(server, problems_file), capsys)
        assert len(server.requests) == 1
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_the_key_appears_nowhere(problems_file: Path, tmp_path: Path) -> None:
    """Also where the server repeats it in every error and every answer, and with the openai package's own log."""
    good = teacher(PROBLEMS)

    def script(request: Request) -> Reply:
        if PROBLEMS[1].prompt in request.text or request.attempt == 0:
            return Reply(status=500 if request.attempt == 0 else 400, content=f"who sent {SECRET}?")
        reply = good(request)
        return Reply([f"{text} {SECRET}" if "scores" not in text else text for text in reply.texts], reasoning=SECRET)

    with ChatServer(script) as server:
        environment = {**os.environ, "OPENAI_LOG": "debug"}
        command = [sys.executable, "-m", "sgpo", *extract(server, problems_file)]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "HTTP 400: who sent [key]?" in Path("strategies.journal.jsonl").read_text() + str(
        load_problems("strategies.parquet")[1].extra["detail"]
    )
    assert SECRET not in result.stdout + result.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert not any(SECRET.encode() in path.read_bytes() for path in files)


# ------------------------------------------------------------------------------ money


def test_dry_run_estimates_from_a_pilot_that_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_problems(PROBLEMS, tmp_path / "problems.jsonl")
    options = ["--price-in", "1", "--price-out", "10"]
    with ChatServer(teacher(PROBLEMS)) as server:
        assert main(extract(server, tmp_path / "problems.jsonl", *options, "--dry-run")) == 0
        out = capsys.readouterr().out
        # 300 tokens in and 60 out a problem, 20 asked, 30 in all.
        for row in ("requests.* 40 .* 60 ± 0", "tokens in.* 6.00k .* 9.00k ± 0", r"cost.* 0.0180 .* 0.0270 ± 0.0000"):
            assert re.search(row, out), row
        assert not Path("strategies.parquet").exists()
        assert len(server.requests) == 40
        assert main(extract(server, tmp_path / "problems.jsonl", *options)) == 0
        assert len(server.requests) == 60


def test_max_cost_stops_before_it_is_exceeded(problems_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--price-in", "100", "--price-out", "100", "--max-tokens", "100", "--max-cost", "0.3"]
    with ChatServer(teacher(PROBLEMS)) as server:
        assert main(extract(server, problems_file, *options)) == 1
        said = (
            r"sgpo strategies: stopped with \d problems to do: --max-cost 0\.3: .*\n.*no answer is paid for twice\.\n$"
        )
        assert re.search(said, capsys.readouterr().err)
        with Journal("strategies.journal.jsonl") as journal:
            totals = journal.totals["strong"]
        spent = 100e-6 * (totals.prompt_tokens + totals.completion_tokens)
        assert 0.05 < spent <= 0.3
        asked = len(server.requests)
        assert main(extract(server, problems_file, *options[:-1], "50")) == 0
        assert len(server.requests) == 12 > asked
    assert "kept" in capsys.readouterr().out


# ------------------------------------------------------------------------------ solve


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


# ------------------------------------------------------------------------------ kills


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
    problems = problem_sets(3, Sizes(sft=0, rl=120, dev=0, test=0, test_deeper=0, test_unseen=0))["rl"]
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


def test_further_fields_are_sent_and_may_set_what_is_not(tmp_path: Path) -> None:
    """A temperature, say, where neither prompt is sent with one."""
    extra = {"temperature": 0.5, "reasoning_effort": "low"}
    _, server = outcomes_of(candidates(GOOD), PROBLEM, temperature=None, judge_temperature=None, parameters=extra)
    assert [{name: request.body[name] for name in extra} for request in server.requests] == [extra, extra]
    for how in (
        lambda: Extraction("strong", temperature=None, parameters=extra),  # the judge's is sent
        lambda: Solving("strong", parameters=extra),
        lambda: Solving("strong", parameters={"max_completion_tokens": 7}),
    ):
        with pytest.raises(ValueError, match=r"extra_body has .* which the command sends from an option of its own"):
            how()
    assert Solving("strong", temperature=None, parameters=extra).parameters == extra


def test_python_api(tmp_path: Path) -> None:
    with ChatServer(teacher(PROBLEMS)) as server:
        how = Extraction(model="strong", judge_model="judge", candidates=3)
        run = extract_strategies(PROBLEMS[:4], how, Connection(server.url, tmp_path / "journal.jsonl"))
    save_strategies(run.outcomes, tmp_path / "strategies.jsonl", how)
    assert [p.extra["judge_model"] for p in load_problems(tmp_path / "strategies.jsonl")] == ["judge"] * 4
    assert (run.unfinished, run.stop_reason, run.meter.usage.requests) == (0, None, 8)
    with pytest.raises(ValueError, match="attempts must be at least 1"):
        Solving(model="strong", attempts=0)


def test_the_documentation_shows_the_prompts_as_they_are() -> None:
    text = (ROOT / "docs" / "strategies.md").read_text()
    assert EXTRACT_TEMPLATE in text
    assert SCORE_TEMPLATE in text


def test_each_problem_is_told_apart_by_the_server() -> None:
    request = Request({"messages": [{"role": "user", "content": f"Problem:\n{PROBLEMS[0].prompt}\n"}]}, 0, {})
    assert problem_of(request, PROBLEMS) == PROBLEMS[0]
