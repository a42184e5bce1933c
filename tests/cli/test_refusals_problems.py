"""Problems that are refused at the start.

The table of docs/errors.md lists the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from refusal_cases import BAD_ROWS, PROBLEMS, Refuse

from sgpo import SGPOConfig
from sgpo.problems import Problem, save_problems


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "broken.jsonl",
            '{"prompt": "p", "answer": "1"}\n{"prompt"\n',
            "broken.jsonl, line 2: not valid JSON (Expecting",
        ),
        ("list.jsonl", "[1]\n", "list.jsonl, line 1: expected one JSON object with the columns of a problem, not [1]"),
        ("latin.jsonl", b'{"prompt": "\xe9"}\n', "latin.jsonl, line 1: not text in UTF-8 ("),
        ("data.parquet", "no Parquet", "data.parquet: not a readable Parquet file ("),
        ("data.csv", "a,b\n", "data.csv: problems are read from .parquet, .jsonl, .json files, not '.csv'"),
        ("nowhere.csv", None, "nowhere.csv: problems are read from .parquet, .jsonl, .json files, not '.csv'"),
        ("nowhere.jsonl", None, "there is no file nowhere.jsonl with problems (looked in {folder})"),
        ("empty.jsonl", "", "empty.jsonl has no rows, so no problems"),
    ],
)
def test_files_are_refused(refuse: Refuse, folder: Path, name: str, content: str | bytes | None, message: str) -> None:
    if content is not None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for command in ("train", "sft", "eval"):
        assert refuse(command, problems=name).startswith(message.format(folder=folder))


def test_a_guided_evaluation_without_strategies(refuse: Refuse) -> None:
    some = [replace(problem, strategy=None) if n in (2, 5, 7) else problem for n, problem in enumerate(PROBLEMS)]
    save_problems(some, "some.jsonl")
    assert refuse("eval", "--guided", "--require_strategies", problems="some.jsonl") == (
        "some: 3 of 8 problems have no strategy, e.g. p2: fill the column 'strategy', or leave require_strategies out "
        "to evaluate the other 5"
    )
    save_problems([replace(problem, strategy=None) for problem in PROBLEMS], "bare.jsonl")
    for options in ([], ["--require_strategies"]):
        assert refuse("eval", "--guided", *options, problems="bare.jsonl") == (
            "a guided evaluation needs strategies, and no problem of bare has one: fill the column 'strategy', name "
            "it by --columns strategy=NAME, or leave guided out"
        )
    assert refuse("eval", "--require_strategies") == (
        "require_strategies: no effect without guided; add it, or leave require_strategies out"
    )


@pytest.mark.parametrize("command", ["train", "sft", "eval"])
def test_a_column_with_another_name_is_named_by_an_option(refuse: Refuse, folder: Path, command: str) -> None:
    (folder / "other.jsonl").write_text('{"text": "1+1", "answer": "2"}\n')
    assert refuse(command, problems="other.jsonl") == (
        "other.jsonl, row 0: no prompt: name its column with --columns prompt=NAME (in Python columns={'prompt': "
        "'NAME'}); the data has the columns text, answer"
    )
    assert refuse(command, "--columns", "prompt=txt", problems="other.jsonl") == (
        "other.jsonl: there is no column 'txt' for 'prompt'; the data has the columns text, answer"
    )
    assert refuse(command, "--columns", "promt=text", problems="other.jsonl") == (
        "columns: 'promt' is none of the fields of a problem, which are id, prompt, answer, response, strategy"
    )


def test_revision_of_a_file_is_refused(refuse: Refuse) -> None:
    message = "problems.jsonl is a file, which has no revision: leave out revision 'main'"
    assert refuse("train", "--revision", "main") == message


def test_bad_rows_are_counted_with_an_example_each(refuse: Refuse, tokenizer: Any) -> None:
    from sgpo.prompts import PROMPTS
    from sgpo.tokenizers import PromptLengths

    save_problems(PROBLEMS, "dev.jsonl")
    save_problems([*PROBLEMS, *BAD_ROWS], "bad.jsonl")
    (length,) = PromptLengths(tokenizer, SGPOConfig.system_prompt, PROMPTS)([BAD_ROWS[3]])
    start = "5 of 13 rows cannot be used: empty field: 1, e.g. row 9 (id 'empty') has no answer; "
    middle = (
        "duplicate: 1, e.g. row 8 (id 'double') has the prompt and answer of row 3; id used twice: 1, e.g. row 12 (id "
        "'p2') has the id of row 2; gold not parsed: 1, e.g. row 10 (id 'gold') has the answer '}{', which the "
        "verifier cannot parse; "
    )
    end = ". Mend them, or leave them out with bad_rows: drop"
    expected = (
        f"training problems: {start}{middle}prompt too long: 1, e.g. row 11 (id 'long') has {length} tokens, "
        f"max_completion_length 12 of 512 positions leaves 500{end}"
    )
    assert refuse("train", problems="bad.jsonl") == expected
    unguided = PromptLengths(tokenizer, SGPOConfig.system_prompt, {"autonomous": PROMPTS["autonomous"]})([BAD_ROWS[3]])[
        0
    ]
    assert refuse("train", "--eval_problems", "bad.jsonl") == expected.replace("training", "evaluation").replace(
        str(length), str(unguided)
    )
    assert refuse("eval", problems="bad.jsonl") == (
        f"bad: {start}{middle}prompt too long: 1, e.g. row 11 (id 'long') has {unguided} tokens, the model's "
        f"context "
        f"of 512 leaves 511{end}"
    )


def test_bad_rows_of_the_warm_up(refuse: Refuse, tokenizer: Any) -> None:
    """Two responses to one problem are two rows to learn from, ids and golds play no part."""
    rows = [Problem("none", "Compute 5+5", "10"), PROBLEMS[0], Problem("again", *_content(PROBLEMS[0]))]
    save_problems([*PROBLEMS, *BAD_ROWS[:3], *rows], "bad.jsonl")
    assert refuse("sft", problems="bad.jsonl") == (
        "training problems: 4 of 14 rows cannot be used: empty field: 1, e.g. row 9 (id 'empty') has no answer; "
        "no response: "
        "1, e.g. row 11 (id 'none') has no response; duplicate: 2, e.g. row 12 (id 'p0') has the prompt, answer and "
        "response of row 0. Mend them, or leave them out with bad_rows: drop"
    )
    (line,) = {refuse("sft", "--max_length", "10")}
    assert line.startswith("training problems: 8 of 8 rows cannot be used: prompt and response too long: 8, e.g. row 0")
    assert refuse("sft", "--limit", "1") == (
        "1 problem is too few for SFT: one at least is kept to choose the checkpoint"
    )


def _content(problem: Problem) -> tuple[str, str, str | None]:
    return problem.prompt, problem.answer, problem.response


def test_no_row_left_is_refused(refuse: Refuse) -> None:
    save_problems([Problem("a", "p", " "), Problem("b", " ", "1")], "bad.jsonl")
    assert refuse("train", "--bad_rows", "drop", problems="bad.jsonl") == (
        "training problems: 2 of 2 rows cannot be used, so none is left: empty field: 2, e.g. row 0 (id 'a') has "
        "no answer"
    )


def test_golds_are_the_reward_functions_business(refuse: Refuse, folder: Path) -> None:
    """Another reward than Math-Verify may know what to do with them: here only the context is left to refuse."""
    save_problems([*PROBLEMS, BAD_ROWS[2]], "bad.jsonl")
    (folder / "r.py").write_text("def f(completions, **columns):\n    return [0.0 for _ in completions]\n")
    changes = ["--rewards", "r.py:f", "--problems_per_rollout", "10"]
    assert refuse("train", *changes, problems="bad.jsonl").startswith("9 problems do not fill a rollout batch of 10")


def test_no_strategies_are_refused(refuse: Refuse) -> None:
    save_problems([Problem(p.id, p.prompt, p.answer) for p in PROBLEMS], "bare.jsonl")
    assert refuse("train", problems="bare.jsonl") == (
        "method sgpo needs strategies, and no problem has one; fill the column 'strategy', or use method: grpo"
    )


@pytest.mark.parametrize(
    ("method", "prompts"),
    [("opsd", "informed"), ("scaf_grpo", "problem_type, type_and_strategy, whole_strategy, informed")],
)
def test_a_method_without_any_of_its_prompts_is_refused(refuse: Refuse, method: str, prompts: str) -> None:
    save_problems([Problem(p.id, p.prompt, p.answer) for p in PROBLEMS], "bare.jsonl")
    assert refuse("train", "--method", method, problems="bare.jsonl") == (
        f"method {method} needs a prompt of its own ({prompts}), and no problem has one; fill the columns that it is "
        "made of, such as 'response' or 'strategy', or name those that hold them"
    )
