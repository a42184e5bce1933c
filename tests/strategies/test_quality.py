"""The quality report: by hand-made ratings, over HTTP, and against the mini-world's truth."""

from __future__ import annotations

import json
import random
import re
import statistics
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from chat_server import ChatServer, Reply, Request, Script

from sgpo.cli import main
from sgpo.domains.mathematics.leaks import find_leaks
from sgpo.miniworld.teacher.candidates import KINDS, generator, write
from sgpo.miniworld.teacher.judging import scores
from sgpo.miniworld.teacher.reading import read_puzzle
from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.problems import Problem, save_problems
from sgpo.strategies.prompts import QUALITY_TEMPLATE, SCORE_TEMPLATE, quality_messages
from sgpo.strategies.quality import Rated, grade, quality_report, sample_of

PROBLEMS = problem_sets(5, Sizes.only(rl=60))["rl"]


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SGPO_API_KEY", "none")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    save_problems(PROBLEMS[:8], "problems.jsonl")


def quality(server: ChatServer, *options: str) -> int:
    command = ["strategies", "quality", "--problems", "problems.jsonl", "--base-url", server.url, "--model", "judge"]
    return main([*command, *options])


def by_problem(ratings: list[list[float]]) -> Script:
    """The ratings of each problem in turn."""

    def script(request: Request) -> Reply:
        (row,) = [row for row, p in enumerate(PROBLEMS) if f"Problem:\n{p.prompt}\n" in request.text]
        return Reply([json.dumps({"scores": ratings[row]})])

    return script


def test_grades_at_their_thresholds() -> None:
    assert [grade(mean) for mean in (1.0, 0.8, 0.7999, 0.5, 0.4999, 0.0)] == (
        ["High", "High", "Medium", "Medium", "Low", "Low"]
    )
    assert grade(statistics.fmean([0.9, 0.7, 0.85, 0.75])) == "High"


def test_report_by_hand() -> None:
    rated = [(1.0, 1.0, 1.0, 0.6), (0.8, 0.8, 0.8, 0.8), (0.5, 0.5, 0.4, 0.8), (0.1, 0.0, 0.2, 0.9)]
    outcomes = [Rated(problem, "kept", ratings=r) for problem, r in zip(PROBLEMS, rated, strict=False)]
    report = quality_report([*outcomes, Rated(PROBLEMS[5], "rejected", "no")])
    assert (report["asked"], report["rated"], report["mean"]) == (5, 4, 0.6375)
    assert report["grades"] == {
        "High": {"count": 2, "share": 0.5, "mean": 0.85},
        "Medium": {"count": 1, "share": 0.25, "mean": 0.55},
        "Low": {"count": 1, "share": 0.25, "mean": 0.3},
    }
    assert report["criteria"] == {"problem_type": 0.6, "strategy": 0.575, "steps": 0.6, "nothing_told": 0.775}
    assert [row["grade"] for row in report["strategies"]] == ["High", "High", "Medium", "Low"]
    with pytest.raises(ValueError, match="rated no strategy"):
        quality_report([Rated(PROBLEMS[0], "failed")])


def test_sample_is_drawn_among_strategies_and_keeps_the_order() -> None:
    bare = [Problem(f"bare {n}", "p", "1") for n in range(5)]
    chosen = sample_of([*bare, *PROBLEMS], 20, 3)
    assert len({problem.id for problem in chosen}) == 20
    assert [PROBLEMS.index(problem) for problem in chosen] == sorted(PROBLEMS.index(problem) for problem in chosen)
    assert chosen == sample_of(PROBLEMS, 20, 3) != sample_of(PROBLEMS, 20, 4)
    assert sample_of([*bare, *PROBLEMS], 500, 0) == PROBLEMS
    with pytest.raises(ValueError, match="no problem has a strategy"):
        sample_of(bare, 20, 0)


def test_command_writes_table_json_and_picture(capsys: pytest.CaptureFixture[str]) -> None:
    ratings = [[1.0, 1.0, 1.0, n / 10] for n in range(8)]  # means 0.75, 0.775, 0.8, ...
    with ChatServer(by_problem(ratings)) as server:
        assert quality(server, "--output", "out/q.json") == 0
        assert len(server.requests) == 8
        first = server.requests[0].body
        assert (first["temperature"], first.get("n")) == (0.0, None)
        assert first["messages"] in [quality_messages(p.prompt, str(p.response), str(p.strategy)) for p in PROBLEMS[:8]]
        assert quality(server, "--output", "out/q.json") == 0
        assert len(server.requests) == 8  # all from the journal
    out = capsys.readouterr().out
    for row in (r"High .* 6 .* 75\.0%", r"Medium .* 2 .* 25\.0%", r"Low .* 0 .* 0\.0% .* -", r"all .* 8 .* 0\.838"):
        assert re.search(row, out), row
    report = json.loads(Path("out/q.json").read_text())
    assert report["model"] == "judge"
    assert report["sample"] == {"size": 500, "seed": 0}
    assert [row["mean"] for row in report["strategies"]] == [0.75, 0.775, 0.8, 0.825, 0.85, 0.875, 0.9, 0.925]
    assert report["criteria"]["nothing_told"] == 0.35
    assert Path("out/q.png").read_bytes().startswith(b"\x89PNG")


def test_an_answer_without_four_ratings_may_be_mended(capsys: pytest.CaptureFixture[str]) -> None:
    def script(request: Request) -> Reply:
        if len(request.body["messages"]) > 1 and PROBLEMS[0].prompt in request.text:
            return Reply(["[0.5, 0.5, 0.5, 0.5]"])
        return Reply(["[0.5, 0.5]"])

    with ChatServer(script) as server:
        assert quality(server) == 0
        assert len(server.requests) == 16
        assert "there are 2 scores for 4 criteria" in str([r.body["messages"][-1] for r in server.requests])
    assert "7 of 8 strategies got no four ratings" in capsys.readouterr().out
    assert json.loads(Path("quality.json").read_text())["rated"] == 1


def test_nothing_rated_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with ChatServer(lambda request: Reply(["good"])) as server:
        assert quality(server) == 1
    error = capsys.readouterr().err
    assert error.startswith("sgpo strategies: the judge rated no strategy; for example: there is no list of scores")
    assert not Path("quality.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sample", "0"], "--sample must be at least 1; it is 0"),
        (["--output", "q.csv"], "the report is one .json file, not q.csv"),
        (["--output", "a.json", "b.json"], "the report is one .json file, not a.json b.json"),
        (["--plot", "q.svg"], "--plot q.svg: the picture is written as .png, not '.svg'"),
        (["--max-tokens", "0"], "max_tokens must be at least 1; it is 0"),
        (["--columns", "strategy=hint"], "there is no column 'hint'"),
        (["--extra-body", '{"temperature": 1}'], "extra_body has temperature, which the command sends from an option"),
    ],
)
def test_what_cannot_work_is_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with ChatServer(lambda request: Reply(["never"])) as server:
        assert quality(server, *options) == 2
        assert server.requests == []
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_the_criteria_are_those_of_the_scores() -> None:
    criteria = re.findall(r"^[1-4]\. .*$", QUALITY_TEMPLATE, re.MULTILINE)
    assert len(criteria) == 4
    assert criteria == re.findall(r"^[1-4]\. .*$", SCORE_TEMPLATE, re.MULTILINE)


def test_checks_and_scores_separate_the_kinds() -> None:
    """Where the truth is known: the table of docs/benchmarks.md, small."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for number, problem in enumerate(PROBLEMS * 3):
        puzzle = read_puzzle(problem.prompt)
        for kind in KINDS:
            text = write(kind, puzzle, generator("truth", number)).text
            leaks = find_leaks(text, problem.prompt, problem.answer, problem.response or "")
            (score,) = scores(puzzle, [text], str(random.Random(number).random()))
            found[kind]["dropped" if leaks else grade(score)] += 1
    share = {kind: {name: count / 180 for name, count in counts.items()} for kind, counts in found.items()}
    assert share["right"].get("dropped", 0) == 0
    assert share["right"]["High"] > 0.97
    for kind in ("vague", "wrong"):
        assert share[kind].get("dropped", 0) == 0
    for kind in ("detailed", "leaking"):
        assert share[kind]["dropped"] > 0.5  # what the expert made one has no result that could be told
    for kind in ("vague", "detailed", "leaking", "wrong"):
        assert share[kind].get("High", 0) < 0.06
