"""The data of sft-all: every response that any method may see, once."""

from __future__ import annotations

from sgpo.comparison.plan import every_response
from sgpo.problems import Problem


def test_every_response_once() -> None:
    rows = [
        Problem("a", "1+1?", "2", "one", more_responses=("two", "two")),
        Problem("b", "1+2?", "3"),
        Problem("c", "1+1?", "2", "two"),
        Problem("d", "1+1?", "2", "two", more_responses=("three",)),
        Problem("e", "1+1?", "2", "one", more_responses=("four",)),
    ]
    assert [(each.id, each.responses) for each in every_response(rows)] == [
        ("a", ("one", "two")),
        ("d", ("three",)),
        ("e", ("four",)),
    ]
