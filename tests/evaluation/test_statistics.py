from __future__ import annotations

import itertools
import math

import pytest

from sgpo.evaluation.statistics import (
    difference_of_averages,
    draws_of_pass,
    majority,
    paired_difference,
    pass_at,
    standard_error,
)


def test_pass_at_by_hand() -> None:
    # 2 of 4 correct: of the 6 pairs, one has no correct sample
    assert [pass_at(j, 2, 4) for j in (1, 2, 3, 4)] == pytest.approx([1 / 2, 5 / 6, 1.0, 1.0])
    assert pass_at(4, 1, 32) == pytest.approx(4 / 32)  # with one correct sample: the chance to draw it
    assert [pass_at(j, 0, 4) for j in (1, 4)] == [0.0, 0.0]
    assert pass_at(1, 4, 4) == 1.0


@pytest.mark.parametrize("correct", range(6))
@pytest.mark.parametrize("j", range(1, 6))
def test_pass_at_counts_all_choices_of_samples(j: int, correct: int) -> None:
    samples = [True] * correct + [False] * (5 - correct)
    choices = [any(chosen) for chosen in itertools.combinations(samples, j)]
    assert pass_at(j, correct, 5) == pytest.approx(sum(choices) / len(choices), abs=1e-15)


def test_pass_at_refuses_more_draws_than_samples() -> None:
    for j in (0, 5):
        with pytest.raises(ValueError, match=f"pass@{j} needs at least {j} samples and j of at least 1, not 4 samples"):
            pass_at(j, 2, 4)


def test_draws_of_pass() -> None:
    assert [draws_of_pass(k) for k in (1, 2, 4, 6, 32)] == [[1], [1, 2], [1, 2, 4], [1, 2, 4, 6], [1, 2, 4, 8, 16, 32]]


@pytest.mark.parametrize(
    ("votes", "value"),
    [
        ([("7", True), ("7", True), ("8", False)], 1.0),
        ([("7", True), ("8", False), ("8", False)], 0.0),
        ([("7", True), ("8", False)], 0.5),  # a tie: one of two at random
        ([("7", True), ("8", False), ("9", False)], 1 / 3),
        ([("1/2", True), ("0.5", True), ("8", False), ("8", False), ("9", False)], 0.5),  # written twice, one answer
        ([("7", True), (None, False), (None, False)], 1.0),  # no answer is no vote
        ([(None, False), (None, False)], 0.0),
        ([("8", False), ("8", False), ("9", False)], 0.0),
    ],
)
def test_majority_by_hand(votes: list[tuple[str | None, bool]], value: float) -> None:
    assert majority(votes) == pytest.approx(value)


def test_standard_error_by_hand() -> None:
    assert standard_error([0.5, 0.0, 0.75]) == pytest.approx(math.sqrt(42 / 144 / 2 / 3), rel=1e-12)
    assert standard_error([0.3]) == 0.0


def test_a_paired_difference_has_no_spread_where_all_problems_gain_the_same() -> None:
    found = paired_difference({"a": 0.75, "b": 0.0, "c": 0.25}, {"c": 0.5, "b": 0.25, "a": 1.0})
    assert (found.mean, found.standard_error, found.interval, found.problems) == (0.25, 0.0, (0.25, 0.25), 3)


def test_the_interval_is_that_of_a_mean() -> None:
    """1.96 standard errors to each side: differences of -1 and 1 in equal parts over 400 problems, 0.098."""
    first = {str(i): 1.0 - i % 2 for i in range(400)}
    second = {str(i): float(i % 2) for i in range(400)}
    found = paired_difference(first, second)
    assert found.interval == pytest.approx((-0.098, 0.098), abs=0.005)
    assert found.standard_error == pytest.approx(1 / math.sqrt(399))
    assert paired_difference(first, second) == found


def test_the_average_weighs_sets_equally_and_resamples_within_them() -> None:
    small = ({"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 1.0})
    large = ({str(i): 0.0 for i in range(100)}, {str(i): float(i % 2) for i in range(100)})
    found = difference_of_averages([small, large])
    assert found.mean == 0.75
    error = 0.5 / math.sqrt(99)
    assert found.standard_error == pytest.approx(error / 2)
    assert found.interval == pytest.approx((0.75 - 1.96 * error / 2, 0.75 + 1.96 * error / 2), abs=0.005)
    assert found.problems == 102


def test_other_problems_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match=r"1 and 2 problems cannot be paired, e\.g\. 'b' is in one of them only"):
        paired_difference({"a": 0.0}, {"a": 0.0, "b": 1.0})
    with pytest.raises(ValueError, match="0 and 0 problems cannot be paired"):
        paired_difference({}, {})
