"""The families of puzzles, checked by Python's own arithmetic; their routes, mistakes and cards."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import product

import pytest
from family_checks import CHECKS, composed_holds, evaluated

from sgpo.miniworld.cards import card, foreign_card, is_held_out, mistaken_card, right_card, ways_of
from sgpo.miniworld.documents import part_at, right_policy, right_solution, worked_out
from sgpo.miniworld.families import FAMILIES, TRAINED_FAMILIES, UNSEEN_FAMILIES
from sgpo.miniworld.families.arithmetic import equalities, fused, is_true, valid_computations
from sgpo.miniworld.families.composed import sample_composed
from sgpo.miniworld.families.puzzles import (
    BLOCKED,
    CHOICE,
    Puzzle,
    Rule,
    State,
    has_choice,
    is_blocked,
)
from sgpo.miniworld.solutions import (
    FALSE_START,
    OPTION_OF,
    SPELLINGS,
    Policy,
    Solution,
    expert_dialect,
    is_expert_dialect,
    own_dialect,
    work_out,
)
from sgpo.strategies.record import Strategy
from sgpo.verification import verify

CONDITIONED = ("equation", "story", "powers", "ages")  # made by the conditions of puzzles.py


@lru_cache
def some_puzzles(family: str, count: int = 150) -> list[Puzzle]:
    rng = random.Random(family)
    return [FAMILIES[family].sample(rng, depth) for _ in range(count // 3) for depth in (2, 3, 4)]


def binomial_error(rate: float, count: int) -> float:
    return math.sqrt(rate * (1 - rate) / count)


# --- puzzles ------------------------------------------------------------------------------------------------


def test_every_family_is_checked() -> None:
    assert set(CHECKS) == set(FAMILIES) == {*TRAINED_FAMILIES, *UNSEEN_FAMILIES}
    assert (len(TRAINED_FAMILIES), len(UNSEEN_FAMILIES)) == (8, 2)
    assert all(len(family.routes) == 2 and len(family.mistakes) in (2, 3) for family in FAMILIES.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_read_back_and_say_what_the_state_says(family: str) -> None:
    for puzzle in some_puzzles(family):
        assert FAMILIES[family].read(puzzle.text) == puzzle.start
        assert [name for name, other in FAMILIES.items() if other.read(puzzle.text) is not None] == [family]
        truth = puzzle.start.truth()
        assert truth is not None
        assert CHECKS[family](puzzle.text, truth), puzzle
        assert not CHECKS[family](puzzle.text, truth + 1), puzzle


def test_composed_puzzles_are_two_in_a_row() -> None:
    rng = random.Random(3)
    for _ in range(12):
        puzzle = sample_composed(rng, (2, 2))
        truth = puzzle.start.truth()
        assert truth is not None
        assert composed_holds(puzzle.text, truth)
        assert not composed_holds(puzzle.text, truth + 1)
        solution = worked_out(puzzle, lambda puzzle=puzzle: right_policy(puzzle, rng, 0))
        assert solution.answer == str(truth)
        assert {part_at(puzzle, state)[0].name for state in states_of(puzzle, solution)} == {puzzle.family, puzzle.then}


def states_of(puzzle: Puzzle, solution: Solution) -> Iterator[State]:
    state = puzzle.start
    for option in solution.options:
        yield state
        state = state.moves()[option].state


@pytest.mark.parametrize("route", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_right_decisions_lead_to_the_answer(family: str, route: int) -> None:
    rng = random.Random(f"{family} {route}")
    for puzzle in some_puzzles(family):
        solution = worked_out(puzzle, lambda puzzle=puzzle: right_policy(puzzle, rng, route))
        assert solution.answer == str(puzzle.start.truth())
        computations = [computation for step in solution.steps for computation in step.computations]
        assert all(is_true(*found) for text in computations for found in equalities(text))
        for term, value in (computation.split("=") for computation in computations):
            assert evaluated(term) == int(value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_route_is_right_wherever_it_is_not_blocked(family: str) -> None:
    followed = 0
    for puzzle, way in product(some_puzzles(family), FAMILIES[family].routes):
        solution = work_out(puzzle.start, followed_by(way.rule))
        is_right = solution is not None and solution.answer == str(puzzle.start.truth())
        followed += is_right
        assert is_right or is_blocked(puzzle.start, way.rule), (puzzle, way.name)
    assert followed > 0.7 * 2 * len(some_puzzles(family))


# A sum that begins with a product, and the first change of a price, are taken rightly.
OFTEN_RIGHT = {("order", "left"): 0.55, ("percent", "original"): 0.3}


@pytest.mark.parametrize("family", FAMILIES)
def test_mistakes_are_wrong(family: str) -> None:
    puzzles = some_puzzles(family, 300)
    for way in FAMILIES[family].mistakes:
        solutions = [work_out(puzzle.start, followed_by(way.rule)) for puzzle in puzzles]
        right = [s is not None and s.answer == str(p.start.truth()) for p, s in zip(puzzles, solutions, strict=True)]
        assert sum(right) / len(right) < OFTEN_RIGHT.get((family, way.name), 0.2), way.name


def followed_by(rule: Rule) -> Policy:
    """A rule to the end; where it names what does not work out, the first option that does."""

    def choose(state: State) -> str:
        option = rule(state)
        return option if option is not None and option in state.moves() else next(iter(state.moves()))

    return choose


@pytest.mark.parametrize("family", CONDITIONED)
def test_shares_of_blocked_puzzles_and_of_those_with_a_choice(family: str) -> None:
    """A fifth has its first route blocked, three fifths several routes, and the rest may have."""
    puzzles = some_puzzles(family, 600)
    blocked = [is_blocked(puzzle.start, FAMILIES[family].routes[0].rule) for puzzle in puzzles]
    choice = [has_choice(puzzle.start) for puzzle in puzzles]
    assert abs(sum(blocked) / 600 - BLOCKED) < 4 * binomial_error(BLOCKED, 600)
    assert CHOICE - 4 * binomial_error(CHOICE, 600) < sum(choice) / 600 < 0.9


def test_valid_computations() -> None:
    assert valid_computations("(a) add: 3+4=7 (b) divide: -8/2=-4 \\boxed{-4}")
    assert valid_computations("so add: (3+4)*2=14. so minus: 14-(-2)=16.")
    for wrong in ("(a) add: 3+4=8", "7/2=3", "3+4=7 7-2=9", "(3+4)*2=11", "3+4*2=14", "5-(-2)=3"):
        assert not valid_computations(wrong), wrong


def test_fused_computations_are_true() -> None:
    assert fused("24/4=6", "6-3=3") == "24/4-3=3"
    assert fused("3+4=7", "7*2=14") == "(3+4)*2=14"
    assert fused("3-5=-2", "-2+9=7") == "3-5+9=7"
    assert fused("24/4=6", "5-3=2") is None
    assert fused("24/4=6", "63-3=60") is None
    assert fused("(3+4)*2=14", "14-5=9") == "(3+4)*2-5=9"
    assert fused("(3+4)*2-5=9", "9/3=3") == "((3+4)*2-5)/3=3"
    assert fused("6-(-2)=8", "8*2=16") == "(6-(-2))*2=16"
    assert fused("2*(-3)=-6", "-6/3=-2") == "2*(-3)/3=-2"


@pytest.mark.parametrize(
    ("term", "value", "truth"),
    [
        ("((3+4)*2-5)/3", 3, True),
        ("(3+4)*2-5", 8, False),
        ("3+4*2", 11, True),
        ("3+4*2", 14, False),
        ("-6/3-(-2)", 0, True),
        ("7/2*2", 7, True),
        ("7/0", 0, False),
        ("(3+4", 7, False),
    ],
)
def test_the_truth_of_a_term(term: str, value: int, truth: bool) -> None:
    assert is_true(term, value) == truth


def test_equalities_are_found_in_a_text() -> None:
    text = "Form says now, so plus and split: ((12+6)/3-1)*2=10 10-(-4)=14. x+3=5 and 2*x=4 and a^2*3=9. 14 fits."
    assert equalities(text) == [("((12+6)/3-1)*2", 10), ("10-(-4)", 14)]


# --- how solutions are written --------------------------------------------------------------------------------


def test_own_dialect() -> None:
    puzzle = Puzzle("equation", "Solve for x: (x+4)*2=12", FAMILIES["equation"].read("Solve for x: (x+4)*2=12"))  # type: ignore[arg-type]
    solution = work_out(puzzle.start, followed_by(FAMILIES["equation"].routes[0].rule))
    assert solution is not None
    texts = {own_dialect(solution, random.Random(seed)) for seed in range(40)}
    written = r"\(a\) (divide|split): 12/2=6 \(b\) (subtract|minus): 6-4=2 \\boxed\{2\}"
    assert all(re.fullmatch(written, text) for text in texts)
    assert len(texts) == 4
    assert not any(is_expert_dialect(text) for text in texts)


def test_spellings_belong_to_one_option() -> None:
    assert len(OPTION_OF) == sum(len(words) for words in SPELLINGS.values()) == 2 * len(SPELLINGS)


def operators(term: str) -> int:
    return len(re.findall(r"(?<=[\d)])[-+*/]", term))


@pytest.mark.parametrize("longest", [1, 2, 3])
def test_the_expert_makes_as_many_computations_one_as_it_may(longest: int) -> None:
    rng = random.Random(9)
    lengths = Counter[int]()
    for puzzle in (puzzle for family in TRAINED_FAMILIES for puzzle in some_puzzles(family)):
        text = expert_dialect(puzzle.text, right_solution(puzzle, rng), rng, longest)
        lengths.update(operators(term) for term, _ in equalities(text.split("\n")[1]))
    assert set(lengths) == set(range(1, longest + 1))
    assert lengths[longest] > 0.15 * lengths.total()


def test_an_expert_that_is_not_eager_fuses_less() -> None:
    rng = random.Random(10)
    counts = dict.fromkeys((0.0, 0.5, 1.0), 0)
    for puzzle in (puzzle for family in TRAINED_FAMILIES for puzzle in some_puzzles(family)):
        solution = right_solution(puzzle, rng)
        for eagerness in counts:
            text = expert_dialect(puzzle.text, solution, rng, 2, eagerness)
            counts[eagerness] += sum(operators(term) == 2 for term, _ in equalities(text.split("\n")[1]))
    assert counts[0.0] == 0
    assert 0.4 * counts[1.0] < counts[0.5] < 0.7 * counts[1.0]  # one that is left out frees the next pair


def test_the_expert_leaps_starts_falsely_and_is_longer() -> None:
    rng = random.Random(8)
    puzzles = [puzzle for family in TRAINED_FAMILIES for puzzle in some_puzzles(family)]
    counts = dict.fromkeys(("decisions", "false starts", "written", "leaps", "own", "expert"), 0)
    for puzzle in puzzles:
        solution = right_solution(puzzle, rng)
        plain, leaping = (expert_dialect(puzzle.text, solution, rng, longest) for longest in (1, 3))
        assert plain.startswith(f"Given: {puzzle.text}\n")
        assert f": {puzzle.text}\n{solution.answer} fits. " in plain
        for text in (plain, leaping):
            assert is_expert_dialect(text)
            assert valid_computations(text)
            assert verify(text, solution.answer).correct
        computed = sum(len(step.computations) for step in solution.steps)
        assert len(equalities(plain.split("\n")[1])) == computed
        counts["written"] += len(equalities(leaping.split("\n")[1]))
        counts["leaps"] += computed - len(equalities(leaping.split("\n")[1]))
        counts["decisions"] += sum(bool(step.others) for step in solution.steps)
        counts["false starts"] += plain.count(", wait, ")
        counts["own"] += len(own_dialect(solution, rng).split())
        counts["expert"] += len(plain.split())
    found = counts["false starts"] / counts["decisions"]
    assert abs(found - FALSE_START) < 4 * binomial_error(FALSE_START, counts["decisions"])
    assert 0.4 < counts["leaps"] / counts["written"] < 1.0
    assert counts["expert"] > 2 * counts["own"]


# --- cards ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_cards_are_recognised_in_every_wording_and_hold_no_number(family: str) -> None:
    rng, own = random.Random(family), FAMILIES[family]
    routes, mistakes = [(way,) for way in own.routes], [(way,) for way in own.mistakes]
    worded: set[str] = set()
    for ways, held_out in [*product([*routes, own.routes], (False, True)), *product(mistakes, (False,))]:
        for _ in range(40):
            made = card(own, ways, rng, held_out=held_out)
            assert is_held_out(made.strategy) == held_out
            assert ways_of(own, made.strategy) == ways, made.text
            assert not any(ways_of(other, made.strategy) for name, other in FAMILIES.items() if name != family)
            assert not re.search(r"\d", made.text)
            worded.add(made.text)
    assert len(worded) > 50


def test_other_strategies_are_no_cards() -> None:
    family, rng = FAMILIES["equation"], random.Random(0)
    undo, expand = (card(family, (way,), rng).strategy for way in family.routes)
    for other in (
        Strategy(undo.problem_type, undo.strategy, expand.steps),
        Strategy(undo.problem_type, f"{undo.strategy} and more", undo.steps),
        Strategy(undo.problem_type, undo.strategy, undo.steps[:1]),
        Strategy("algebra", undo.strategy, undo.steps),
    ):
        assert ways_of(family, other) == ()


def test_right_mistaken_and_foreign_cards() -> None:
    rng = random.Random(1)
    for family in FAMILIES.values():
        for _ in range(20):
            assert set(ways_of(family, right_card(family, rng, 0.5).strategy)) <= set(family.routes)
            assert set(ways_of(family, mistaken_card(family, rng).strategy)) <= set(family.mistakes)
            foreign = foreign_card(family, rng, 0.5)
            assert foreign.family != family.name
            assert ways_of(FAMILIES[foreign.family], foreign.strategy) == foreign.ways
    open_ones = sum(len(right_card(FAMILIES["story"], rng, 0.3).ways) == 2 for _ in range(600))
    assert abs(open_ones / 600 - 0.3) < 4 * binomial_error(0.3, 600)
