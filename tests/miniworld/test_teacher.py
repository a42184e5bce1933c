"""The mini-world's teacher: it reads problems, answers over real HTTP, meets faults as told."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from sgpo.chat.endpoint import Endpoint, FatalError, RefusedError, TransientError
from sgpo.cli import main
from sgpo.command_runner import Command, serving
from sgpo.miniworld.cards import card, ways_of
from sgpo.miniworld.documents import puzzles
from sgpo.miniworld.families import FAMILIES
from sgpo.miniworld.families.puzzles import Puzzle
from sgpo.miniworld.numerals import number_in_words
from sgpo.miniworld.solutions import OPTION_OF, is_expert_dialect
from sgpo.miniworld.teacher import MODEL
from sgpo.miniworld.teacher.answering import answers
from sgpo.miniworld.teacher.candidates import KINDS, WEIGHTS, draw_kind, generator, write
from sgpo.miniworld.teacher.faults import ON_THE_WAY, Faults, fault_of, latency_of
from sgpo.miniworld.teacher.judging import NOISE, ratings, scores
from sgpo.miniworld.teacher.questions import RefusedRequestError, TeacherQuestion, digest_of, read_request
from sgpo.miniworld.teacher.reading import UnknownProblemError, read_puzzle
from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.problems import load_problems
from sgpo.prompts import student_messages
from sgpo.strategies.extract import parse_scores
from sgpo.strategies.prompts import StrategyPrompts, quality_messages, repair_messages
from sgpo.strategies.record import parse_strategy
from sgpo.verification import verify

PUZZLES = list(islice(puzzles("teacher tests", "train", tuple(FAMILIES), (2, 3, 4)), 700))
PROBLEMS = problem_sets(1, Sizes.only(rl=30))["rl"]
EQUATION = next(puzzle for puzzle in PUZZLES if puzzle.family == "equation")


def asked(puzzle: Puzzle, **changes: Any) -> TeacherQuestion:
    return TeacherQuestion(**{"kind": "extract", "puzzle": puzzle, "digest": digest_of({"p": puzzle.text}), **changes})


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGPO_API_KEY", "none")


# --- reading --------------------------------------------------------------------------------------------------


def test_every_problem_is_read_back() -> None:
    assert {puzzle.family for puzzle in PUZZLES} == set(FAMILIES)
    assert [read_puzzle(puzzle.text) for puzzle in PUZZLES] == PUZZLES


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Compute",
        "Compute 1+",
        "Solve for x: 3=4",
        "Solve for x: y+3=4",
        "My number loves 3 makes 4. My number?",
        "1 A=3 B, 1 C=2 D. 4 A is how many D?",
        "Compute 7/2",
        "Solve for x: (x+4)*2=12. Write (a^x*a^3)^2 as a^n. n?",
        "Ann is 9. Ben likes 4. And Ben?",
        "In how many ways can 5 people sit?",
    ],
)
def test_other_problems_are_refused(text: str) -> None:
    with pytest.raises(UnknownProblemError, match="no problem of the mini-world"):
        read_puzzle(text)


def test_our_prompts_are_recognised() -> None:
    prompts, puzzle = StrategyPrompts(), EQUATION
    strategies = ("Problem type: a\n\nStrategy: b", "Candidate 7 {x}")
    extract = prompts.extract_messages(puzzle.text, "3+4=7 \\boxed{7}")
    for messages, kind, found, repairing in (
        (student_messages(puzzle.text), "solve", (), False),
        (extract, "extract", (), False),
        (repair_messages(extract, "no", "bad"), "extract", (), True),
        (prompts.score_messages(puzzle.text, "r", strategies), "score", strategies, False),
        (quality_messages(puzzle.text, "r", strategies[0]), "quality", strategies[:1], False),
    ):
        body = {"model": MODEL, "messages": messages, "n": 3, "max_tokens": 50}
        assert read_request(body) == TeacherQuestion(kind, puzzle, digest_of(body), 3, 50, found, repairing)


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"messages": "x"},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": [1]}]},
        {"messages": student_messages("What is love?")},
        {"messages": student_messages(EQUATION.text), "n": 0},
        {"messages": student_messages(EQUATION.text), "max_tokens": "many"},
    ],
)
def test_requests_that_cannot_be_answered(body: Any) -> None:
    with pytest.raises(RefusedRequestError):
        read_request(body)


def test_equal_requests_have_one_hash() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1}) != digest_of({"a": 1, "b": [3]})


# --- what it says ---------------------------------------------------------------------------------------------


def test_kinds_come_in_their_shares() -> None:
    drawn = Counter(draw_kind(generator(digest_of({"n": n}), sample)) for n in range(2000) for sample in range(5))
    for kind, weight in zip(KINDS, WEIGHTS, strict=True):  # within four standard errors of 10,000 draws
        assert drawn[kind] / 10_000 == pytest.approx(weight, abs=4 * (weight * (1 - weight) / 10_000) ** 0.5)


def test_each_kind_is_what_it_is_called() -> None:
    for number, puzzle in enumerate(PUZZLES):
        answer, family = str(puzzle.start.truth()), FAMILIES[puzzle.family]
        made = {kind: write(kind, puzzle, generator("k", number)) for kind in KINDS}
        assert all(parse_strategy(strategy.text) == strategy for strategy in made.values())
        right = ways_of(family, made["right"])
        assert right
        assert set(right) <= set(family.routes)
        detailed = made["detailed"]
        assert [OPTION_OF[step.split(":")[0].split()[0]] for step in detailed.steps]
        assert any(any(sign.isdigit() for sign in step) for step in detailed.steps)
        told = made["leaking"].text
        assert answer in told or number_in_words(int(answer)) in told
        wrong = made["wrong"]
        assert wrong.problem_type != family.problem_type or set(ways_of(family, wrong)) <= set(family.mistakes)
        assert not any(ways_of(each, made[kind]) for each in FAMILIES.values() for kind in ("vague", "detailed"))
        assert not any(ways_of(each, made["leaking"]) for each in FAMILIES.values())


def test_numbers_in_words() -> None:
    assert [number_in_words(n) for n in (0, 7, 12, 20, 42, 99, -15)] == (
        ["zero", "seven", "twelve", "twenty", "forty-two", "ninety-nine", "minus fifteen"]
    )


def test_answers_depend_on_the_request_alone_but_for_solutions() -> None:
    question = asked(EQUATION, samples=5)
    assert answers(question, 0, 0.0) == answers(question, 7, 0.0)
    assert answers(question, 0, 0.0) != answers(asked(EQUATION, samples=5, digest="other"), 0, 0.0)
    solutions = [answers(asked(puzzle, kind="solve"), attempt, 0.0)[0].text for puzzle in PUZZLES for attempt in (0, 1)]
    assert all(is_expert_dialect(text) for text in solutions)
    right = [verify(text, str(p.start.truth())).correct for p, text in zip(PUZZLES, solutions[::2], strict=True)]
    # 90% without a slip; of the others some come out right by chance.
    assert 0.88 < sum(right) / len(right) < 0.97
    assert solutions[::2] != solutions[1::2]


def test_garbled_candidates_are_mended_when_told() -> None:
    texts = [answers(asked(puzzle, samples=2), 0, 0.25) for puzzle in PUZZLES]
    share = sum("Steps:" not in text.text for of_one in texts for text in of_one) / (2 * len(PUZZLES))
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 1400) ** 0.5)
    assert all("Steps:" in answers(asked(puzzle, repairing=True), 0, 1.0)[0].text for puzzle in PUZZLES)


def test_answers_end_at_the_limit() -> None:
    (text,) = answers(asked(EQUATION, max_tokens=5), 0, 0.0)
    assert (len(text.text), text.finish_reason) == (20, "length")


def exact(puzzle: Puzzle, text: str) -> list[float]:
    """The judge's ratings without its errors: means over many, where no clipping disturbs them."""
    drawn = [ratings(puzzle, text, str(n)) for n in range(400)]
    return [sum(column) / len(column) for column in zip(*drawn, strict=True)]


def test_ratings_by_hand() -> None:
    puzzle = read_puzzle("Solve for x: (x+4)*2=12")  # divide, subtract; the answer is 2
    kind, principle = "Problem type: linear equation\n", "Strategy: undo the outer operation before others"
    steps = "\nSteps: (a) see what was done to x last (b) do its opposite to the right side"
    head = f"{kind}{principle}\nSteps: "
    repeat = f"{kind}Strategy: redo the outer operation on the result"
    again = "\nSteps: (a) see what was done to x last (b) do the same again to the right side"
    confuse = "\nSteps: (a) for a factor use sums (b) for a term use quotients"
    open_steps = "\nSteps: (a) find what was done to x last (b) take the next operation to x and to the number"
    other = "Problem type: steps that repeat\nStrategy: jump over equal steps at once"
    other_steps = "\nSteps: (a) see what equal steps make together (b) use it to where you are"
    clipped = NOISE / 4  # what an error evenly spread over +-0.15 takes off at an end of the scale, on average
    for text, expected in (
        (kind + principle + steps, (1, 1, 1, 1)),
        (kind + principle + " or open the brackets from inside" + open_steps, (1, 1, 1, 1)),
        (kind + principle + ", so that the answer is 2" + steps, (1, 1, 1, 0)),
        (kind + principle + steps + ", which leads to two", (1, 1, 0.5, 0)),
        (kind + principle + steps + " with 4", (1, 1, 0.5, 0.4)),
        (head + "(a) divide (b) minus", (1, 1, 0.5, 1)),  # the decisions of this problem, without a rule
        (head + "(a) divide: 12/2=6 (b) subtract: 6-4=2", (1, 1, 0.5, 0)),
        (head + "(a) divide with 2 (b) subtract with 4", (1, 1, 0.5, 0)),  # two is the answer
        (head + "(a) split (b) subtract with 4", (1, 1, 0.5, 0.4)),
        (head + "(a) divide (b) divide", (1, 1, 0.125, 1)),
        (head + "(a) add (b) subtract", (1, 1, 0, 1)),
        (repeat + again, (1, 0, 0, 1)),
        (kind + principle + confuse, (1, 1, 0, 1)),
        (kind + "Strategy: think carefully" + steps, (1, 0.3, 1, 1)),
        (head + "(a) look (b) think", (1, 1, 0.2, 1)),
        (other + other_steps, (0, 0, 0, 1)),
        ("nothing", (0, 0, 0, 1)),
    ):
        for found, value in zip(exact(puzzle, text), expected, strict=True):
            seen = value + clipped if value == 0 else value - clipped if value == 1 else value
            if value == 0.125:  # an error of -0.15 is cut to -0.125: on average (0.025 ** 2) / 2 / 0.3 is lost
                seen += 0.025**2 / 2 / 0.3
            assert found == pytest.approx(seen, abs=0.02), (text, expected)
    right = kind + principle + steps
    assert scores(puzzle, [right], "x") == [round(sum(ratings(puzzle, right, "x")) / 4, 2)]


def test_wrong_rules_get_their_share_of_right_decisions() -> None:
    puzzle = read_puzzle("A price of 40 falls by 50%, rises by 10%. Price?")  # the first part is of the first price
    original = next(way for way in FAMILIES["percent"].mistakes if way.name == "original")
    text = card(FAMILIES["percent"], (original,), generator("k", 0)).text
    assert exact(puzzle, text)[2] == pytest.approx(0.25 * 1 / 2, abs=0.02)


def test_the_words_of_a_card_tell_no_answer() -> None:
    """One share, two facts: numbers in words that belong to the card."""
    puzzle = read_puzzle("Compute 3*4-11")  # 1
    shares = next(way for way in FAMILIES["percent"].routes if way.name == "shares")
    text = card(FAMILIES["percent"], (shares,), generator("k", 0)).text
    assert "one" in text
    assert exact(puzzle, text)[3] == pytest.approx(1 - NOISE / 4, abs=0.02)
    assert exact(puzzle, text + ", which leads to one")[3] == pytest.approx(NOISE / 4, abs=0.02)


# --- faults ---------------------------------------------------------------------------------------------------


def test_faults_come_in_their_shares_and_depend_on_hash_attempt_and_seed_alone() -> None:
    shares = dict(zip(ON_THE_WAY, (0.05, 0.05, 0.04, 0.02, 0.03, 0.01), strict=True))
    faults = Faults(**shares, latency=0.1)
    found = Counter(fault_of(faults, digest_of({"n": n}), attempt) for n in range(10_000) for attempt in (0, 1))
    for name, share in shares.items():
        assert found[name] / 20_000 == pytest.approx(share, abs=4 * (share * (1 - share) / 20_000) ** 0.5)
    first = [fault_of(faults, str(n), 0) for n in range(300)]
    assert first == [fault_of(faults, str(n), 0) for n in range(300)]
    assert first != [fault_of(faults, str(n), 1) for n in range(300)]
    assert first != [fault_of(Faults(**shares, seed=1), str(n), 0) for n in range(300)]
    waits = [latency_of(faults, str(n), 0) for n in range(2000)]
    assert 0.05 <= min(waits) < max(waits) <= 0.15
    assert sum(waits) / 2000 == pytest.approx(0.1, abs=4 * 0.1 / 12**0.5 / 2000**0.5)


# --- over HTTP ------------------------------------------------------------------------------------------------


@contextmanager
def teacher(folder: Path, **options: Any) -> Iterator[str]:
    command = Command("teacher serve", {"port": 0, "log": folder / "requests.jsonl", **options})
    with serving(command, folder / "teacher.log") as url:
        yield url


def ask(url: str, *bodies: dict[str, Any], timeout: float = 20.0) -> list[Any]:
    """The reply to each body, or the error."""

    async def all_of_them() -> list[Any]:
        endpoint = Endpoint(url, connections=4)
        try:
            return [await _attempt(endpoint, body, timeout) for body in bodies]
        finally:
            await endpoint.close()

    return asyncio.run(all_of_them())


async def _attempt(endpoint: Endpoint, body: dict[str, Any], timeout: float) -> Any:
    try:
        return await endpoint.chat(body, timeout)
    except (FatalError, RefusedError, TransientError) as error:
        return error


def is_right(problem: str, text: str) -> bool:
    """Whether a strategy is a card of the problem's family that names routes alone."""
    family = FAMILIES[read_puzzle(problem).family]
    ways = ways_of(family, parse_strategy(text))
    return bool(ways) and set(ways) <= set(family.routes)


def extract_body(number: int = 0, **changes: Any) -> dict[str, Any]:
    problem = PROBLEMS[number]
    messages = StrategyPrompts().extract_messages(problem.prompt, problem.response or "")
    return {"model": MODEL, "messages": messages, "max_tokens": 4096, **changes}


def test_chat_completions_over_http(tmp_path: Path) -> None:
    body, right = extract_body(n=5), str(PROBLEMS[0].strategy)
    assert PROBLEMS[0].extra["card"] == "right"
    score = {"model": MODEL, "messages": StrategyPrompts().score_messages(PROBLEMS[0].prompt, "r", ["no", right])}
    with teacher(tmp_path) as url:
        first, again, scored, solved, other, model, stream, strange = ask(
            url,
            body,
            body,
            score,
            {"model": MODEL, "messages": student_messages(PROBLEMS[0].prompt)},
            {"model": MODEL, "messages": student_messages("What is love?")},
            {**body, "model": "gpt"},
            {**body, "stream": True},
            {"model": MODEL},
        )
        listed = asyncio.run(Endpoint(url, connections=1).models(5.0))
    assert listed == [MODEL]
    assert first == again
    assert (len(first.choices), {choice.finish_reason for choice in first.choices}) == (5, {"stop"})
    assert first.prompt_tokens == -(-len(body["messages"][0]["content"]) // 4)
    assert first.completion_tokens == sum(-(-len(choice.text) // 4) for choice in first.choices)
    low, high = parse_scores(scored.choices[0].text, 2)
    assert low < 0.5 < 0.8 < high
    assert "\\boxed{" in solved.choices[0].text
    assert [str(error)[:9] for error in (other, model, stream, strange)] == ["HTTP 400:", "HTTP 404:"] + [
        "HTTP 400:"
    ] * 2
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["attempt"], line["fault"]) for line in lines] == [
        ("extract", 0, None),
        ("extract", 1, None),
        ("score", 0, None),
        ("solve", 0, None),
    ]
    assert lines[0]["body"] == body
    assert lines[0]["kinds"] == [draw_kind(generator(digest_of(body), sample)) for sample in range(5)]


def test_from_bare_problems_to_a_quality_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bare = [{"id": problem.id, "prompt": problem.prompt, "answer": problem.answer} for problem in PROBLEMS]
    Path("bare.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    with teacher(tmp_path, garbled=0.1) as url:
        server = ["--base-url", url, "--model", MODEL]
        assert main(["strategies", "solve", "--problems", "bare.jsonl", "--output", "solved.jsonl", *server]) == 0
        extraction = ["--problems", "solved.jsonl", "--output", "s.jsonl", "--min-score", "0.8"]
        assert main(["strategies", "extract", *extraction, *server]) == 0
        assert main(["strategies", "quality", "--problems", "s.jsonl", *server]) == 0
    solved, taught = load_problems("solved.jsonl"), load_problems("s.jsonl")
    assert [row.extra["status"] for row in solved] == ["kept"] * 30
    assert Counter(row.extra["attempts"] for row in solved).keys() > {1}  # some needed more than one
    assert all(verify(str(row.response), row.answer).correct for row in solved)
    kept = [row for row in taught if row.strategy]
    assert len(kept) >= 25
    assert sum(is_right(row.prompt, str(row.strategy)) for row in kept) >= len(kept) - 1
    assert any(candidate["repaired"] for row in taught for candidate in row.extra["candidates"])
    report = json.loads(Path("quality.json").read_text())
    assert (report["rated"], report["grades"]["Low"]["count"]) == (len(kept), 0)
    assert report["mean"] > 0.9


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("rate_limited", "HTTP 429: too many requests"),
        ("error", "HTTP 500: the teacher has a headache"),
        ("dropped", "the connection failed (RemoteProtocolError"),
        ("hanging", "no answer within 1 s"),
        ("malformed", "the answer is not valid JSON: '<html>"),
        ("truncated", "the answer is not valid JSON: '{"),
    ],
)
def test_each_fault_over_http(fault: str, message: str, tmp_path: Path) -> None:
    with teacher(tmp_path, **{fault.replace("_", "-"): 1, "retry-after": 2.5}) as url:
        (error,) = ask(url, extract_body(), timeout=1.0)
        assert isinstance(error, TransientError)
        assert str(error).startswith(message)
        assert (error.rate_limited, error.retry_after) == ((True, 2.5) if fault == "rate_limited" else (False, None))
    assert json.loads((tmp_path / "requests.jsonl").read_text())["fault"] == fault


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_asked_to_whatever_hangs(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sgpo", "teacher", "serve", "--port", "0", "--hanging", "1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = server.stdout.readline().removeprefix("Serving at ").strip()
    (error,) = ask(url, extract_body(), timeout=0.5)
    assert "no answer" in str(error)
    server.send_signal(number)
    _, errors = server.communicate(timeout=20)
    assert "Traceback" not in errors
    assert server.returncode == (130 if number == signal.SIGINT else -signal.SIGTERM)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--error", "0.7", "--hanging", "0.4"], "are shares of at most 1"),
        (["--dropped", "-1"], "dropped must be 0 or more; it is -1"),
        (["--garbled", "2"], "are shares of at most 1"),
        (["--port", "70000"], "write another --port, or 0 for a free one"),
        (["--log", "/dev/null/x.jsonl"], "--log /dev/null/x.jsonl cannot be written: /dev/null is no folder"),
    ],
)
def test_what_cannot_work_is_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teacher", "serve", "--port", "0", *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("sgpo teacher: ")
    assert message in line


def test_a_port_that_is_taken_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with teacher(tmp_path) as url:
        port = url.removesuffix("/v1").rpartition(":")[2]
        assert main(["teacher", "serve", "--port", port]) == 2
    assert f"cannot listen on 127.0.0.1, port {port} (Address already in use)" in capsys.readouterr().err


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["teacher", "serve"], ["quickstart", "--output", "nowhere-at-all"]):
        monkeypatch.setitem(sys.modules, "starlette", None)
        assert main(command) == 2
        assert "pip install 'sgpo[teacher]'" in capsys.readouterr().err
    assert not Path("nowhere-at-all").exists()
