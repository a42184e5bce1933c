"""The families of puzzles, checked by Python's own arithmetic; their solutions and strategies."""

from __future__ import annotations

import random
import re
from fractions import Fraction
from itertools import islice

import pytest
from family_checks import CHECKS, evaluated, parsed

from sgpo import verify
from sgpo.miniworld.documents import (
    instance_strategy,
    pretraining_documents,
    teacher_solution,
    type_strategy,
)
from sgpo.miniworld.families import (
    FAMILIES,
    TRAINED_FAMILIES,
    UNSEEN_FAMILY,
    Puzzle,
    valid_computations,
)
from sgpo.miniworld.tokenizer import build_tokenizer
from sgpo.miniworld.world import Sizes, problem_sets

METHODS = ("add", "subtract", "multiply", "divide")


# --- solutions ----------------------------------------------------------------------------------------------


def some_puzzles(family: str, depth: int, count: int = 25) -> list[Puzzle]:
    rng = random.Random(f"{family} {depth}")
    return [FAMILIES[family].sample(rng, depth) for _ in range(count)]


def test_every_family_is_checked() -> None:
    assert set(CHECKS) == set(FAMILIES)
    assert UNSEEN_FAMILY not in TRAINED_FAMILIES
    assert len(TRAINED_FAMILIES) >= 6


@pytest.mark.parametrize("depth", [3, 4, 5, 6])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_teacher_is_right(family: str, depth: int) -> None:
    for puzzle in some_puzzles(family, depth):
        solution = teacher_solution(puzzle)
        assert CHECKS[family](puzzle.text, Fraction(solution.answer)), puzzle
        assert not CHECKS[family](puzzle.text, Fraction(solution.answer) + 1), puzzle
        assert len(solution.methods) == depth
        assert valid_computations(solution.text)
        assert verify(solution.text, solution.answer).correct


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "order"])
def test_computations_lead_to_the_answer(family: str) -> None:
    """Each computation starts where the one before ended, and the last one ends at the answer."""
    for puzzle in some_puzzles(family, 5):
        solution = teacher_solution(puzzle)
        value = None
        for method, computation in zip(solution.methods, solution.computations, strict=True):
            left, sign, right, result = parsed(r"(-?\d+)([-+*/])(\d+)=(-?\d+)", computation)
            assert METHODS["+-*/".index(sign)] == method
            assert value is None or value == left
            assert evaluated(f"{left}{sign}{right}") == int(result)
            value = result
        assert value == solution.answer


def test_order_is_rewritten_step_by_step() -> None:
    for puzzle in some_puzzles("order", 4):
        solution = teacher_solution(puzzle)
        assert solution.computations[-1] == solution.answer
        for computation in solution.computations:
            assert evaluated(computation) == int(solution.answer)


def test_text_of_a_solution() -> None:
    puzzle = next(p for p in some_puzzles("equation", 3) if p.text)
    solution = teacher_solution(puzzle)
    (first, second, third), computations = solution.methods, solution.computations
    assert solution.text == (
        f"(a) {first}: {computations[0]} (b) {second}: {computations[1]} (c) {third}: {computations[2]} "
        f"\\boxed{{{solution.answer}}}"
    )


def test_valid_computations() -> None:
    assert valid_computations("(a) add: 3+4=7 (b) divide: -8/2=-4 \\boxed{-4}")
    assert not valid_computations("(a) add: 3+4=8")
    assert not valid_computations("(a) divide: 7/2=3")
    assert not valid_computations("(a) add: 3+4=7 (b) subtract: 7-2=9")


# --- strategies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_strategies_have_three_parts_and_no_number(family: str) -> None:
    types = set()
    for depth in (3, 5, 6):
        for puzzle in some_puzzles(family, depth):
            solution = teacher_solution(puzzle)
            strategy = instance_strategy(puzzle, solution.methods)
            for text in (strategy, type_strategy(puzzle)):
                assert not re.search(r"\d", text)
                assert solution.answer not in text
                kind, principle, steps = text.split("\n")
                assert kind == f"Problem type: {FAMILIES[family].problem_type}"
                assert principle == f"Strategy: {FAMILIES[family].principle}"
                assert steps.startswith("Steps: (a) ")
            assert re.findall(r"\([a-z]\) (\w+)", strategy.split("\n")[2]) == list(solution.methods)
            types.add(type_strategy(puzzle))
    assert len(types) == 1  # the rule alone: nothing of an instance


def test_which_strategies_the_base_model_can_read() -> None:
    """`type_strategy` is no control of vagueness: much of it is spelt in pieces that pretraining never shows."""
    tokenizer = build_tokenizer()
    read: set[int] = set()
    for prompt, response in islice(pretraining_documents(102), 3_000):
        for message in (*prompt, *response):
            read.update(tokenizer(message["content"], add_special_tokens=False)["input_ids"])
    problems = problem_sets(401, Sizes(sft=1, rl=60, dev=1, test=1, test_deeper=1, test_unseen=1))["rl"]

    def unknown(texts: list[str]) -> float:
        ids = [i for each in tokenizer(texts, add_special_tokens=False)["input_ids"] for i in each]
        return sum(i not in read for i in ids) / len(ids)

    assert unknown([str(problem.strategy) for problem in problems]) == 0.0
    assert unknown([problem.extra["shuffled_strategy"] for problem in problems]) == 0.0
    assert unknown([problem.extra["type_strategy"] for problem in problems]) == pytest.approx(0.43, abs=0.01)
