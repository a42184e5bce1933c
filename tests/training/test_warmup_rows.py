"""What the warm-up learns from problems with one solution and with several."""

from __future__ import annotations

import pytest

from sgpo.problems import Problem
from sgpo.training.sft import one_response_each, warmup_rows

PROBLEMS = [
    Problem("a", "1+1?", "2", "one", more_responses=("two", "three")),
    Problem("b", "1+2?", "3", "four"),
]


def test_every_solution_is_a_row() -> None:
    each = one_response_each(PROBLEMS)
    assert [(p.id, p.response, p.more_responses) for p in each] == [
        ("a", "one", ()),
        ("a", "two", ()),
        ("a", "three", ()),
        ("b", "four", ()),
    ]
    rows = warmup_rows(each, "")
    assert [row["completion"][0]["content"] for row in rows] == ["one", "two", "three", "four"]
    assert [row["prompt"][-1]["content"] for row in rows] == ["1+1?"] * 3 + ["1+2?"]


def test_a_problem_without_a_solution_stays_to_be_refused() -> None:
    (bare,) = one_response_each([Problem("c", "1+3?", "4")])
    with pytest.raises(ValueError, match="1 of 1 problems have none, for example 'c'"):
        warmup_rows([bare], "")
