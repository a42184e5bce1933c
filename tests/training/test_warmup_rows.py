"""What the warm-up learns from problems with one solution and with several."""

from __future__ import annotations

import pytest

from sgpo.problems import Problem
from sgpo.training.sft import one_response_each, split_by_problem, warmup_rows

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


def test_solutions_of_one_problem_are_on_one_side_of_the_split() -> None:
    """Or the checkpoint would be chosen by problems that were trained on."""
    problems = [
        Problem(f"{n}-{kind}", f"{n}+1?", str(n + 1), f"{n}, {kind}") for kind in ("short", "long") for n in range(20)
    ]
    split = split_by_problem(warmup_rows(problems, ""), problems, 0.25, seed=3)
    sides = [{row["prompt"][-1]["content"] for row in split[name]} for name in ("train", "test")]
    assert [len(split[name]) for name in ("train", "test")] == [30, 10]
    assert sides[0].isdisjoint(sides[1])


def test_problems_with_one_solution_are_split_as_rows_are() -> None:
    problems = [Problem(str(n), f"{n}+1?", str(n + 1), f"solution {n}") for n in range(20)]
    rows = warmup_rows(problems, "")
    ours, plain = split_by_problem(rows, problems, 0.1, seed=7), rows.train_test_split(test_size=0.1, seed=7)
    assert {name: ours[name].to_list() for name in ours} == {name: plain[name].to_list() for name in plain}
