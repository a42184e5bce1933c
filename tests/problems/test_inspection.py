from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sgpo.problems import Problem, load_problems, problems_from, save_problems
from sgpo.problems.inspection import (
    STRUCTURE,
    Finding,
    duplicate_responses,
    find_bad_rows,
    fingerprint,
    inspect,
    too_long,
    unparsed_golds,
)

GOOD = [Problem(f"p{n}", f"{n}+1?", str(n + 1), extra={"level": n}) for n in range(4)]
ROWS = [
    GOOD[0],
    Problem("a", "0+1?", "1"),  # a duplicate of row 0
    GOOD[1],
    Problem("b", " ", ""),
    Problem("c", "", ""),  # empty, so not counted as a duplicate of row 3
    Problem("p1", "7?", "7"),  # the id of row 2
    Problem("p0", "0+1?", "1"),  # a duplicate of row 0, so not counted for its id
]
FOUND = [
    Finding("empty field", [3, 4], "row 3 (id 'b') has no prompt and no answer"),
    Finding("duplicate", [1, 6], "row 1 (id 'a') has the prompt and answer of row 0"),
    Finding("id used twice", [5], "row 5 (id 'p1') has the id of row 2"),
]


def test_every_bad_row_is_found_once() -> None:
    assert find_bad_rows(ROWS, STRUCTURE) == FOUND
    assert find_bad_rows(GOOD, STRUCTURE) == []


def test_bad_rows_are_left_out_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(ROWS, "my data", "drop", STRUCTURE) == [GOOD[0], GOOD[1]]
    assert capsys.readouterr().out == (
        "my data: 5 of 7 rows are left out (bad_rows: drop).\n"
        "  empty field: 2, e.g. row 3 (id 'b') has no prompt and no answer\n"
        "  duplicate: 2, e.g. row 1 (id 'a') has the prompt and answer of row 0\n"
        "  id used twice: 1, e.g. row 5 (id 'p1') has the id of row 2\n"
    )
    assert inspect(GOOD, "my data", "drop", STRUCTURE) == GOOD
    assert capsys.readouterr().out == ""


def test_loading_refuses_drops_or_keeps(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "answer": "1"}, {"prompt": "p", "answer": 1}, {"prompt": "q", "answer": None}]
    for load in (lambda **options: problems_from(rows, **options), _through_file(rows, tmp_path)):
        with pytest.raises(
            ValueError, match=r"2 of 3 rows cannot be used: empty field: 1, .*; duplicate: 1, e\.g\. row 1"
        ):
            load()
        assert [p.prompt for p in load(bad_rows="drop")] == ["p"]
        assert [p.prompt for p in load(bad_rows="keep")] == ["p", "p", "q"]
        with pytest.raises(ValueError, match="bad_rows is 'leave'; choose one of refuse, drop"):
            load(bad_rows="leave")


def _through_file(rows: list[dict[str, Any]], folder: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [{**row, "answer": row["answer"] and str(row["answer"])} for row in rows]
    pq.write_table(pa.Table.from_pylist(texts), folder / "d.parquet")
    return lambda **options: load_problems(folder / "d.parquet", **options)


def test_several_responses_to_a_problem_are_no_duplicates() -> None:
    rows = dict(enumerate([replace(GOOD[0], response=text) for text in ("a", "b", "a")]))
    assert duplicate_responses(rows) == {2: "has the prompt, answer and response of row 0"}


def test_lengths_at_the_limit() -> None:
    check = too_long(lambda problems: [len(p.prompt) for p in problems], 4, "the rest of 10")
    assert check(dict(enumerate(GOOD))) == {}
    assert check({7: replace(GOOD[0], prompt="12345")}) == {7: "has 5 tokens, the rest of 10 leaves 4"}


def test_golds_that_cannot_be_parsed() -> None:
    rows = {n: replace(GOOD[0], answer=answer) for n, answer in enumerate(["7", "}{", r"\frac{1}{2}", "}{"])}
    assert unparsed_golds(rows) == dict.fromkeys((1, 3), "has the answer '}{', which the verifier cannot parse")


def test_ten_thousand_numbers_need_no_worker() -> None:
    rows = {n: replace(GOOD[0], answer=str(n)) for n in range(10_000)}
    start = time.perf_counter()
    assert unparsed_golds(rows) == {}
    assert time.perf_counter() - start < 10


# --- fingerprint --------------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_all_content_in_order() -> None:
    base = fingerprint(GOOD)
    assert base == "2e327c62a3bcdeec"  # written out: runs of other versions must be recognised
    changed = [
        GOOD[::-1],
        GOOD[:3],
        *([replace(GOOD[0], **{name: "x"}), *GOOD[1:]] for name in ("id", "prompt", "answer", "response", "strategy")),
        [replace(GOOD[0], extra={"level": 9}), *GOOD[1:]],
        [replace(GOOD[0], extra={}), *GOOD[1:]],
    ]
    found = [fingerprint(problems) for problems in changed]
    assert base not in found
    assert len(set(found)) == len(found)


def test_the_fingerprint_does_not_depend_on_the_file_format(tmp_path: Path) -> None:
    problems = [replace(GOOD[0], strategy="s"), replace(GOOD[1], extra={"tags": ["a"]})]
    for suffix in (".jsonl", ".parquet"):
        save_problems(problems, tmp_path / f"data{suffix}")
        assert fingerprint(load_problems(tmp_path / f"data{suffix}")) == fingerprint(problems)
