"""`sgpo strategies extract`: whole runs against a server on this machine, candidates, the judge, costs."""

from __future__ import annotations

import re
from pathlib import Path

import datasets
import pytest
from chat_server import ChatServer, Reply, Request, Script, problem_of, teacher
from extraction_cases import GOOD, PROBLEM, PROBLEMS, candidates, extract, outcomes_of
from places import ROOT

from sgpo.chat.journal import Journal
from sgpo.cli import main
from sgpo.problems import load_problems, save_problems
from sgpo.strategies import Connection, Extraction, Solving, extract_strategies, parse_strategy, save_strategies
from sgpo.strategies.prompts import EXTRACT_TEMPLATE, SCORE_TEMPLATE

pytestmark = pytest.mark.usefixtures("strategies_environment")


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
        assert 0.02 < spent <= 0.3
        asked = len(server.requests)
        assert main(extract(server, problems_file, *options[:-1], "50")) == 0
        assert len(server.requests) == 12 > asked
    assert "kept" in capsys.readouterr().out


# ------------------------------------------------------------------------------ requests, Python, documentation


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
    assert (run.unfinished, run.stop_reason, run.counts.usage.requests) == (0, None, 8)
    with pytest.raises(ValueError, match="attempts must be at least 1"):
        Solving(model="strong", attempts=0)


def test_the_documentation_shows_the_prompts_as_they_are() -> None:
    text = (ROOT / "docs" / "strategies.md").read_text()
    assert EXTRACT_TEMPLATE in text
    assert SCORE_TEMPLATE in text


def test_each_problem_is_told_apart_by_the_server() -> None:
    request = Request({"messages": [{"role": "user", "content": f"Problem:\n{PROBLEMS[0].prompt}\n"}]}, 0, {})
    assert problem_of(request, PROBLEMS) == PROBLEMS[0]
