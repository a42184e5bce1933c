"""Crossed differences by hand, by known variances, and Holm's correction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sgpo.comparison.statistics import (
    crossed_difference,
    difference_matrix,
    drawn_cells,
    drawn_problems,
    equal_weights,
    holm,
    resampled_means,
    standard_deviation,
    two_sided_p,
)


def rates(matrix: np.ndarray, base: str = "b") -> dict[tuple[str, int], dict[str, float]]:
    return {(base, seed): {str(p): float(v) for p, v in enumerate(row)} for seed, row in enumerate(matrix)}


def test_a_method_against_itself_is_zero_with_no_width() -> None:
    same = rates(np.random.default_rng(0).random((3, 40)))
    found = crossed_difference([(same, same)])
    assert found is not None
    assert (found.mean, found.interval, found.p, found.cells, found.problems) == (0.0, (0.0, 0.0), 1.0, 3, 40)


def test_a_constant_shift_has_no_width() -> None:
    first = np.random.default_rng(0).random((4, 30))
    found = crossed_difference([(rates(first), rates(first + 0.25))], resamples=999)
    assert found is not None
    assert found.mean == pytest.approx(0.25)
    assert found.interval == pytest.approx((0.25, 0.25))
    assert found.p == pytest.approx(2 / 1000)


def test_only_common_cells_count_and_problems_are_paired_by_id() -> None:
    first = {("b", 1): {"x": 0.0, "y": 1.0}, ("b", 2): {"x": 0.5, "y": 0.5}}
    second = {("b", 1): {"y": 1.0, "x": 1.0}, ("c", 1): {"x": 1.0, "y": 1.0}}
    assert difference_matrix(first, second, [("b", 1)]).tolist() == [[1.0, 0.0]]
    found = crossed_difference([(first, second)])
    assert found is not None
    assert (found.mean, found.cells, found.problems) == (0.5, 1, 2)
    assert crossed_difference([(first, {("c", 1): {"x": 1.0}})]) is None
    with pytest.raises(ValueError, match="cells of other problems cannot be compared: 'y' is in one of them only"):
        crossed_difference([(first, {("b", 1): {"x": 1.0}})])


def test_base_models_weigh_the_same_whatever_their_number_of_seeds() -> None:
    assert equal_weights(["a", "b", "b"]).tolist() == [0.5, 0.25, 0.25]
    first = {("a", 1): {"x": 0.0}, ("b", 1): {"x": 0.0}, ("b", 2): {"x": 0.0}}
    second = {("a", 1): {"x": 1.0}, ("b", 1): {"x": 0.0}, ("b", 2): {"x": 0.5}}
    found = crossed_difference([(first, second)])
    assert found is not None
    assert found.mean == pytest.approx((1.0 + 0.25) / 2)


def test_draws_are_shares_and_uniform_on_average() -> None:
    generator = np.random.default_rng(0)
    cells = drawn_cells(["a", "a", "a", "b", "c", "c"], generator, 20_000)
    assert np.allclose(cells.sum(axis=1), 1)
    assert np.allclose(cells.mean(axis=0), equal_weights(["a", "a", "a", "b", "c", "c"]), atol=0.005)
    # A base model that is drawn twice has twice as many draws of seeds, not the same seeds twice.
    assert set(np.round(6 * cells[:, :3].ravel() * 1.5).astype(int)) >= {0, 1, 2, 3}
    problems = drawn_problems(7, generator, 20_000)
    assert np.allclose(problems.sum(axis=1), 1)
    assert np.allclose(problems.mean(axis=0), 1 / 7, atol=0.005)
    assert problems[:, 0].var() == pytest.approx((1 / 7) * (6 / 7) / 7, rel=0.05)  # of a binomial share


def test_the_variance_is_that_of_the_two_ways() -> None:
    """For D[c, p] = a_c + b_p the bootstrap's variance is var(a) / C + var(b) / P, with the variances over n."""
    generator = np.random.default_rng(1)
    of_cells, of_problems = generator.normal(0, 0.1, 6), generator.normal(0, 0.4, 50)
    means = resampled_means([of_cells[:, None] + of_problems], ["b"] * 6, generator, 40_000)
    assert means.var() == pytest.approx(of_cells.var() / 6 + of_problems.var() / 50, rel=0.03)


def test_an_average_draws_cells_once_and_problems_in_each_set() -> None:
    generator = np.random.default_rng(1)
    of_cells, sets = generator.normal(0, 0.1, 6), [generator.normal(0, 0.4, 50), generator.normal(0, 0.2, 20)]
    means = resampled_means([of_cells[:, None] + each for each in sets], ["b"] * 6, generator, 40_000)
    within = sum(each.var() / len(each) for each in sets) / 4
    assert means.var() == pytest.approx(of_cells.var() / 6 + within, rel=0.03)
    first, second = {("b", 1): {"x": 0.0, "y": 0.0}}, {("b", 1): {"x": 1.0, "y": 0.0}}
    found = crossed_difference([(first, second), ({("b", 1): {"z": 0.0}}, {("b", 1): {"z": 0.25}})])
    assert found is not None
    assert (found.mean, found.cells, found.problems) == (0.375, 1, 3)


def test_intervals_cover_what_they_should() -> None:
    """Two-way random effects with mean 0.1: of 95% intervals, somewhat fewer than 95% cover it with 8 seeds."""
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        cells, problems = generator.normal(0, 0.05, (8, 1)), generator.normal(0, 0.3, (1, 60))
        values = 0.1 + cells + problems + generator.normal(0, 0.2, (8, 60))
        found = crossed_difference(
            [(rates(np.zeros((8, 60))), rates(values))], seed=int(generator.integers(1e9)), resamples=400
        )
        assert found is not None
        covered += found.interval[0] <= 0.1 <= found.interval[1]
    assert 0.88 <= covered / 300 <= 0.98


def test_p_values_by_hand() -> None:
    assert two_sided_p(np.array([0.1, 0.2, 0.3, -0.1])) == pytest.approx(2 * 2 / 5)
    assert two_sided_p(np.array([0.1] * 99)) == pytest.approx(2 / 100)
    assert two_sided_p(np.array([-0.1] * 99)) == pytest.approx(2 / 100)
    assert two_sided_p(np.zeros(10)) == 1.0


def test_holm_by_hand() -> None:
    # Sorted: .01 x 4, .02 x 3, .03 x 2 (raised to .06), .04 x 1 (raised to .06).
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_order_and_never_lowers() -> None:
    generator = np.random.default_rng(3)
    for _ in range(50):
        values = generator.random(9).round(3).tolist()
        adjusted = holm(values)
        assert all(a >= v or a == 1.0 for a, v in zip(adjusted, values, strict=True))
        order = sorted(range(9), key=lambda i: values[i])
        assert [adjusted[i] for i in order] == sorted(adjusted)


def test_spread_by_hand() -> None:
    assert standard_deviation([1.0, 3.0]) == pytest.approx(math.sqrt(2))
    assert standard_deviation([1.0]) is None
