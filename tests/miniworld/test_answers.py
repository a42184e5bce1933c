"""Answers of the mini-world taken apart: decisions, computations, dialect, leaps."""

from __future__ import annotations

import sys

import pytest
from places import ROOT

from sgpo.problems import Problem

sys.path.insert(0, str(ROOT / "benchmarks"))
from miniworld_answers import measures, taken_apart

EQUATION = Problem("p", "Solve for x: (x+4)*3-6=12", "2", extra={"family": "equation"})
OPENING = "Given: Solve for x: (x+4)*3-6=12\n"


@pytest.mark.parametrize(
    ("completion", "decisions", "decides_right", "computes_right", "is_expert", "fused"),
    [
        (
            "(a) plus: 12+6=18 (b) split: 18/3=6 (c) minus: 6-4=2 \\boxed{2}",
            "add divide subtract",
            True,
            True,
            False,
            0,
        ),
        (
            "(a) add: 12+6=17 (b) divide: 18/3=6 (c) minus: 6-4=2 \\boxed{2}",
            "add divide subtract",
            True,
            False,
            False,
            0,
        ),
        ("(a) minus: 12-6=6 (b) divide: 6/3=2 (c) minus: 2-4=-2 \\boxed{-2}", "subtract divide subtract", 0, 1, 0, 0),
        ("(a) add: 12+6=18 (b) divide: 18/3=6 \\boxed{6}", "add divide", False, True, False, 0),
        (
            f"{OPENING}Form says now, so minus, wait, plus and split and minus: (12+6)/3-4=2. Form says now: "
            f"{EQUATION.prompt}\n2 fits. \\boxed{{2}}",
            *("add divide subtract", True, True, True, 2),
        ),
        (
            f"{OPENING}Form says now, so plus: 12+6=18. Form says now, so split and minus: 18/3-4=3. Form says now: "
            f"{EQUATION.prompt}\n3 fits. \\boxed{{3}}",
            *("add divide subtract", True, False, True, 1),
        ),
    ],
)
def test_an_answer_is_taken_apart(
    completion: str, decisions: str, decides_right: bool, computes_right: bool, is_expert: bool, fused: int
) -> None:
    found = taken_apart(EQUATION, completion, False)
    assert found.decisions == tuple(decisions.split())
    assert (found.decides_right, found.computes_right) == (decides_right, computes_right)
    assert (found.is_expert, found.fused) == (is_expert, fused)


def test_what_is_no_problem_of_the_family_is_refused() -> None:
    with pytest.raises(ValueError, match="is no problem of the family equation"):
        taken_apart(Problem("q", "1+1?", "2", extra={"family": "equation"}), "2", True)


def test_shares_and_sequences() -> None:
    story = Problem("s", "My number, less 8, fold 2, more 20, makes 26. My number?", "11", extra={"family": "story"})
    right = "(a) plus: 12+6=18 (b) split: 18/3=6 (c) minus: 6-4=2 \\boxed{2}"
    answers = [taken_apart(EQUATION, right, True), taken_apart(EQUATION, right.replace("18", "17"), False)]
    answers += [taken_apart(EQUATION, "\\boxed{2}", True), taken_apart(story, "\\boxed{2}", False)]
    found = measures(answers)
    assert (found["correct"], found["decisions right"], found["computations right"]) == (0.5, 0.5, 0.75)
    assert (found["sequences"], found["answers with right decisions"]) == (1.0, 2.0)
