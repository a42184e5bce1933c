"""`sgpo data prepare`: what is kept of each layout, and that all that is left out is counted, with an example."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sgpo.cli import main
from sgpo.preparation.prepare import Preparation, prepare
from sgpo.preparation.sources import source_of_text
from sgpo.problems import load_problems

Write = Callable[[str, Sequence[Mapping[str, Any]]], Path]

LONG = "A farmer counts the {} that stand behind the old barn of his uncle every single morning before he eats"


def counts(report: Any, what: str) -> dict[str, int]:
    return {kind: count.number for kind, count in report.dropped[what].counts.items()}


def prepared(path: Path, output: Path, **options: Any) -> Any:
    return prepare(Preparation([source_of_text(str(path))], output, **options))


def numbered(count: int) -> list[dict[str, str]]:
    return [
        {"prompt": f"What is {n} + 1?", "answer": str(n + 1), "response": f"So \\boxed{{{n + 1}}}"}
        for n in range(count)
    ]


def test_gsm8k(tmp_path: Path, write: Write) -> None:
    rows = [
        {"question": "Two and three?", "answer": "It is 2+3=<<2+3=5>>5 in all.\n#### 5"},
        {"question": "A house?", "answer": "It costs $1000 * 2 = $<<1000*2=2000>>2,000.\n#### 2,000"},
        {"question": "Wrong label?", "answer": "It is 2*4=<<2*4=8>>8.\n#### 9"},
    ]
    report = prepared(write("g.jsonl", rows), tmp_path / "out")
    found = {p.prompt: (p.answer, p.response) for p in load_problems(tmp_path / "out" / "rl.jsonl")}
    assert found == {
        "Two and three?": ("5", "It is 2+3=5 in all.\n\nThe answer is \\boxed{5}."),
        "A house?": ("2000", "It costs $1000 * 2 = $2,000.\n\nThe answer is \\boxed{2000}."),
    }
    assert report.sources[0].layout == "gsm8k"
    assert counts(report, "rows") == {"gold that no response reaches": 1}
    example = report.dropped["rows"].counts["gold that no response reaches"].example
    assert example == "g.jsonl, row 2: gold '9', response '8'"


def test_luffy(tmp_path: Path, write: Write) -> None:
    def row(question: str, text: str, gold: Any) -> dict[str, Any]:
        prompt = [{"role": "system", "content": "Think."}, {"role": "user", "content": question}]
        target = [{"role": "assistant", "content": text}]
        return {"prompt": prompt, "target": target, "reward_model": {"ground_truth": gold}, "data_source": "x"}

    rows = [
        row("Half of 1?", "<think>\\boxed{7}</think> So \\boxed{0.5}", "\\frac{1}{2}"),
        row("Half of 3?", "So \\boxed{1}", "1.5"),
        row("Half of 5?", "I do not know", "2.5"),
        row("Half of 7?", "So \\boxed{3.5}", 3.5),
        row("Half of 9?", "So \\boxed{4.5}", "notfound"),
    ]
    report = prepared(write("luffy.jsonl", rows), tmp_path / "out")
    found = {p.prompt: (p.answer, p.response) for p in load_problems(tmp_path / "out" / "rl.jsonl")}
    assert found == {
        "Half of 1?": ("\\frac{1}{2}", "<think>\\boxed{7}</think> So \\boxed{0.5}"),
        "Half of 5?": ("2.5", None),
    }
    assert counts(report, "rows") == {
        "row that cannot be read": 1,
        "gold that cannot be read": 1,
        "gold that no response reaches": 1,
    }
    assert counts(report, "responses") == {"another answer than the gold": 1, "no answer in a box": 1}


def test_several_generations_become_a_list(tmp_path: Path, write: Write) -> None:
    generations = ["a \\boxed{4}", "b \\boxed{4}", "c \\boxed{5}", "d \\boxed{4}", "a \\boxed{4}"]
    marks = [True, True, True, False, True]
    row = {"problem": "2+2?", "solution": "four", "answer": "4", "generations": generations}
    report = prepared(write("r1.jsonl", [{**row, "correctness_math_verify": marks}]), tmp_path / "out")
    (line,) = (tmp_path / "out" / "rl.jsonl").read_text().splitlines()
    assert json.loads(line)["response"] == ["a \\boxed{4}", "b \\boxed{4}"]
    assert counts(report, "responses") == {
        "marked wrong by the data set (correctness_math_verify)": 1,
        "another answer than the gold": 1,
        "response that the problem has already": 1,
    }


def test_own_columns_and_unsolved_problems(tmp_path: Path, write: Write) -> None:
    path = write("own.jsonl", [{"q": "1+1?", "a": "2", "r": "\\boxed{3}"}, {"q": "", "a": "2", "r": None}])
    columns = {"prompt": "q", "answer": "a", "response": "r"}
    report = prepared(path, tmp_path / "out", columns=columns, keep_unsolved=True)
    (problem,) = load_problems(tmp_path / "out" / "rl.jsonl")
    assert (problem.prompt, problem.answer, problem.response) == ("1+1?", "2", None)
    assert counts(report, "rows") == {"no prompt or no answer": 1}


def test_rows_of_one_text(tmp_path: Path, write: Write) -> None:
    rows = [
        {"prompt": "Find $x$.", "answer": "1/2", "response": "a \\boxed{1/2}"},
        {"prompt": "find  \\(x\\)", "answer": "0.5", "response": "b \\boxed{0.5}"},
        {"prompt": "Find 1 2", "answer": "3"},
        {"prompt": "Find 12", "answer": "4"},
        {"prompt": "Find y", "answer": "1"},
        {"prompt": "Find y", "answer": "2"},
    ]
    report = prepared(write("d.jsonl", rows), tmp_path / "out")
    found = {p.prompt: p.responses for p in load_problems(tmp_path / "out" / "rl.jsonl")}
    assert found == {"Find $x$.": ("a \\boxed{1/2}", "b \\boxed{0.5}"), "Find 1 2": (), "Find 12": ()}
    assert counts(report, "rows") == {
        "problem that an earlier row has (responses are kept)": 1,
        "golds that differ for one text": 2,
    }


def test_problems_of_benchmarks(tmp_path: Path, write: Write) -> None:
    benchmark = write("bench.jsonl", [{"prompt": LONG.format("hens") + " soup", "answer": "1"}, *numbered(1)])
    rows = [
        {"prompt": "what is  0 + 1?", "answer": "1"},
        {"prompt": "Yesterday " + LONG.format("cows"), "answer": "2"},
        {"prompt": "Every single morning before he eats nothing is like the benchmark", "answer": "3"},
    ]
    report = prepared(write("p.jsonl", rows), tmp_path / "out", benchmarks=[str(benchmark)])
    assert [p.answer for p in load_problems(tmp_path / "out" / "rl.jsonl")] == ["3"]
    assert report.benchmarks == {str(benchmark): 2}
    assert counts(report, "rows") == {
        "text of a benchmark's problem": 1,
        "13 words in a row of a benchmark's problem": 1,
    }
    example = report.dropped["rows"].counts["13 words in a row of a benchmark's problem"].example
    assert example.startswith(f"p.jsonl, row 1 is like {benchmark}, problem 0 ('that stand behind the old barn")


def test_twelve_words_are_not_thirteen(tmp_path: Path, write: Write) -> None:
    words = " ".join(f"w{n}" for n in range(12))
    benchmark = write("bench.jsonl", [{"prompt": f"{words} here", "answer": "1"}])
    path = write("p.jsonl", [{"prompt": f"{words} there", "answer": "1"}])
    prepared(path, tmp_path / "out", benchmarks=[str(benchmark)])
    with pytest.raises(ValueError, match=r"no problem is left for rl\.jsonl: 12 words in a row"):
        prepared(path, tmp_path / "other", benchmarks=[str(benchmark)], words=12)


def test_parts_have_no_problem_in_common(tmp_path: Path, write: Write) -> None:
    path, test = write("p.jsonl", numbered(30)), write("test.jsonl", numbered(10))
    names = ("sft", "rl", "eval")

    def parts(output: str, seed: int) -> list[list[str]]:
        options = {"sft_size": 8, "rl_size": 5, "eval_source": source_of_text(str(test)), "eval_size": 4}
        report = prepared(path, tmp_path / output, seed=seed, **options)
        assert counts(report, "rows") == {"text of a benchmark's problem": 10}
        return [[p.prompt for p in load_problems(tmp_path / output / f"{name}.jsonl")] for name in names]

    first, again, other = parts("a", 0), parts("b", 0), parts("c", 1)
    assert [len(part) for part in first] == [8, 5, 4]
    assert len(set().union(*first)) == 17
    assert first == again != other
    with pytest.raises(ValueError, match="rl_size is 23, and 22 problems are left beside those of the warm-up"):
        prepared(path, tmp_path / "d", sft_size=8, rl_size=23)


def test_strategies_are_joined_and_checked(tmp_path: Path, write: Write) -> None:
    def strategy(n: int, steps: str) -> dict[str, str]:
        text = f"Problem type: sum\nStrategy: Add both.\nSteps: {steps}"
        return {"question_sha256": hashlib.sha256(f"What is {n} + 1?".encode()).hexdigest(), "strategy": text}

    texts = ["(a) Take both. (b) Add them.", "(a) Add them, which is 78.", "no steps"]
    strategies = write("s.jsonl", [strategy(n, text) for n, text in zip((5, 77, 9), texts, strict=True)])
    report = prepared(
        write("p.jsonl", numbered(80)),
        tmp_path / "out",
        strategies=str(strategies),
        rl_needs_strategy=True,
        sft_size=79,
    )
    assert [p.prompt for p in load_problems(tmp_path / "out" / "rl.jsonl")] == ["What is 5 + 1?"]
    assert counts(report, "strategies") == {"tells the answer": 1, "not in three parts": 1}
    joined = report.strategies
    assert (joined.offered, joined.joined, joined.checked, joined.passed) == (3, 3, 3, 1)


def test_the_command(tmp_path: Path, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = write("p.jsonl", numbered(3)), tmp_path / "out"
    command = ["data", "prepare", "--source", str(path), "--output", str(output)]
    assert main(command) == 0
    assert "rl.jsonl: 3 problems, fingerprint " in capsys.readouterr().out
    report = json.loads((output / "report.json").read_text())
    assert report["parts"]["rl"]["answers"] == {"whole number": 3}
    assert report["parts"]["rl"]["characters"]["prompt"] == {"median": 14, "mean": 14, "90 %": 14, "longest": 14}
    assert "| answers: whole number | 3 |" in (output / "report.md").read_text()
    assert main(command) == 2
    assert "holds prepared data (rl.jsonl)" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("openai/gsm8k", ("openai/gsm8k", None, None, None)),
        ("openai/gsm8k:main", ("openai/gsm8k", "main", None, None)),
        ("openai/gsm8k:main:test@v1", ("openai/gsm8k", "main", "test", "v1")),
        ("data:1/train.jsonl", ("data:1/train.jsonl", None, None, None)),
    ],
)
def test_sources(text: str, parts: tuple[str | None, ...]) -> None:
    source = source_of_text(text)
    assert (source.name, source.subset, source.split, source.revision) == parts
