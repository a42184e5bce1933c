"""Crossed differences by hand, by known variances, and Holm's correction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sgpo.comparison.statistics import (
    Component,
    crossed_difference,
    difference_matrix,
    equal_weights,
    holm,
    standard_deviation,
    student_quantile,
    student_tails,
)


def rates(matrix: np.ndarray, base: str = "b") -> dict[tuple[str, int], dict[str, float]]:
    return {(base, seed): {str(p): float(v) for p, v in enumerate(row)} for seed, row in enumerate(matrix)}


def component(variance: float, degrees: int) -> Component:
    return Component(pytest.approx(variance), degrees)


def normal(generator: np.random.Generator, *shape: int, deviation: float) -> np.ndarray:
    return generator.normal(0, deviation, shape)


def test_a_method_against_itself_is_zero_with_no_width() -> None:
    same = rates(np.random.default_rng(0).random((3, 40)))
    found = crossed_difference([(same, same)])
    assert found is not None
    assert (found.mean, found.interval, found.p, found.cells, found.problems) == (0.0, (0.0, 0.0), 1.0, 3, 40)
    assert found.smallest_seen == 0.0


def test_a_constant_shift_has_no_width() -> None:
    first = np.random.default_rng(0).integers(0, 4, (4, 30)) / 4
    found = crossed_difference([(rates(first), rates(first + 0.25))])
    assert found is not None
    assert found.mean == pytest.approx(0.25)
    assert found.interval == pytest.approx((0.25, 0.25))
    assert found.p == 0.0


def test_components_by_hand() -> None:
    """D = [[0, 1, 2], [2, 3, 1]]: cells' means 1 and 2, problems' means 1, 2, 1.5, rests +-.5, +-.5, +-1."""
    values = np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 1.0]])
    found = crossed_difference([(rates(np.zeros((2, 3))), rates(values))])
    assert found is not None
    assert found.mean == pytest.approx(1.5)
    assert found.of_seeds == component(0.5 / 2, 1)
    assert found.of_problems == component(0.25 / 3, 2)
    # Without the means of cells: [-1, 0, 1] and [0, 1, -1]; of problems too: [-.5, -.5, 1] and [.5, .5, -1].
    assert found.of_both == component(0.5 * (3.0 / 2) / 3, 2)
    error = math.sqrt(0.25 + 0.25 / 3 - 0.25)  # less than S alone, which is then taken
    assert error < math.sqrt(0.25)
    assert found.standard_error == pytest.approx(0.5)
    degrees = 0.25**2 / (0.25**2 / 1 + (0.25 / 3) ** 2 / 2 + 0.25**2 / 2)
    assert degrees < 1
    assert found.degrees == 1.0
    assert found.interval == pytest.approx((1.5 - 12.7062 * 0.5, 1.5 + 12.7062 * 0.5), rel=1e-5)
    assert found.p == pytest.approx(1 - 2 / math.pi * math.atan(3.0))  # Student's t of one degree is Cauchy's
    assert found.smallest_seen == pytest.approx((12.7062 + math.tan(0.3 * math.pi)) * 0.5, rel=1e-5)


def test_of_one_seed_only_problems_are_known() -> None:
    found = crossed_difference([(rates(np.zeros((1, 4))), rates(np.array([[0.0, 1.0, 1.0, 0.0]])))])
    assert found is not None
    assert (found.of_seeds.variance, found.of_both.variance) == (0.0, 0.0)
    assert found.standard_error == pytest.approx(math.sqrt(1 / 3 / 4))
    assert found.degrees == pytest.approx(3)
    assert found.interval[1] - found.mean == pytest.approx(3.182446 * math.sqrt(1 / 12), rel=1e-6)


def test_differences_between_base_models_are_no_chance() -> None:
    """Base models may differ as they like; only seeds of the same one are spread."""
    a, b = np.array([[0.1, 0.3], [0.1, 0.3]]), np.array([[0.8, 1.0], [0.8, 1.0]])
    zeros = rates(np.zeros((2, 2)), "a") | rates(np.zeros((2, 2)), "b")
    found = crossed_difference([(zeros, rates(a, "a") | rates(b, "b"))])
    assert found is not None
    assert found.mean == pytest.approx(0.55)
    assert found.of_seeds.variance == pytest.approx(0.0)
    assert found.standard_error == pytest.approx(math.sqrt(0.02 / 2))


def test_cells_that_would_be_needed() -> None:
    """An effect of one standard deviation takes ten pairs, as tables of power say: t + t is at most sqrt(n)."""
    values = np.repeat(0.1 + 0.1 * np.array([-1.0, 0.0, 1.0])[:, None], 2, axis=1)
    found = crossed_difference([(rates(np.zeros((3, 2))), rates(values))])
    assert found is not None
    assert found.of_seeds.variance == pytest.approx(0.01 / 3)
    assert found.cells_needed() == 10
    problems = crossed_difference([(rates(np.zeros((3, 2))), rates(np.array([[0.0, 1.0]] * 3)))])
    assert problems is not None
    assert problems.cells_needed() is None


def test_students_distribution() -> None:
    for degrees, quantile in ((1, 12.7062047), (2, 4.3026527), (4, 2.7764451), (9, 2.2621572), (math.inf, 1.9599640)):
        assert student_quantile(0.975, degrees) == pytest.approx(quantile, rel=1e-7)
        assert student_tails(quantile, degrees) == pytest.approx(0.05, rel=1e-6)
        assert student_tails(-quantile, degrees) == pytest.approx(0.05, rel=1e-6)
    assert student_quantile(0.8, 1) == pytest.approx(math.tan(0.3 * math.pi), rel=1e-8)
    assert student_quantile(0.5, 3) == pytest.approx(0.0, abs=1e-12)


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


def test_the_variance_of_two_crossed_effects_is_found() -> None:
    """On average S + P - R is the true variance of the mean, which here is known."""
    generator = np.random.default_rng(1)
    found, truth = [], 0.05**2 / 6 + 0.3**2 / 40 + 0.2**2 / (6 * 40)
    for _ in range(400):
        values = normal(generator, 6, 1, deviation=0.05) + normal(generator, 1, 40, deviation=0.3)
        values = values + normal(generator, 6, 40, deviation=0.2)
        each = crossed_difference([(rates(np.zeros((6, 40))), rates(values))])
        assert each is not None
        found.append(each.of_seeds.variance + each.of_problems.variance - each.of_both.variance)
    assert np.mean(found) == pytest.approx(truth, rel=0.05)


def test_an_average_has_the_same_seeds_and_other_problems_in_each_set() -> None:
    generator = np.random.default_rng(1)
    of_cells, sets = normal(generator, 6, 1, deviation=0.1), [normal(generator, 50, deviation=0.4), np.zeros(20)]
    pairs = [(rates(np.zeros((6, len(each)))), rates(of_cells + each)) for each in sets]
    found = crossed_difference(pairs)
    assert found is not None
    assert found.of_seeds.variance == pytest.approx(of_cells.var(ddof=1) / 6)
    assert found.of_problems.variance == pytest.approx(sets[0].var(ddof=1) / 50 / 4)
    assert found.of_both.variance == pytest.approx(0.0, abs=1e-12)
    assert (found.cells, found.problems) == (6, 70)
    assert found.mean == pytest.approx(of_cells.mean() + sets[0].mean() / 2)


@pytest.mark.parametrize("seeds", [2, 5])
def test_intervals_cover_what_they_should(seeds: int) -> None:
    """Two base models of their own effects, seeds and problems by chance: 95% intervals, with 2 seeds and with 5."""
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        problems = normal(generator, 1, 60, deviation=0.3)
        matrices = [effect + normal(generator, seeds, 1, deviation=0.05) + problems for effect in (0.0, 0.2)]
        matrices = [each + normal(generator, seeds, 60, deviation=0.2) for each in matrices]
        zeros = np.zeros((seeds, 60))
        first, second = rates(zeros, "a") | rates(zeros, "b"), rates(matrices[0], "a") | rates(matrices[1], "b")
        found = crossed_difference([(first, second)])
        assert found is not None
        low, high = found.interval
        covered += low <= 0.1 <= high
    assert 0.9 <= covered / 200 <= 0.99


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
