"""Differences of methods over base models, seeds and problems, as pure functions; docs/comparison.md describes them.

D[c, p] is the rate at which the second method solves problem p in cell c, a base model and a seed, minus that of the
first. The difference is the mean of D over problems, over the seeds of each base model, and over the base models. Its
interval holds for other seeds and other problems of the kind, and for these base models: two say too little of others.
With w_c the weight of a cell, seeds and problems are two crossed random effects:

    D[c, p] = effect of the base model + effect of the seed + effect of the problem + rest
    variance = S + P - R,  and at least the larger of S and P
    S = sum of w_c^2 times the variance of the cells' means within a base model     (effect of the seed, and rest)
    P = variance of the problems' means over cells, by their number                (effect of the problem, and rest)
    R = sum of w_c^2 times the variance of the rest, by the number of problems     (which S and P both hold)

The interval is Student's, with Satterthwaite's degrees of freedom. An average over sets gives each the same weight;
seeds are the same in all of them, problems are not. `benchmarks/coverage.py` simulates how often such intervals cover
the truth. With one seed a base model nothing is known of S, and the interval is over problems alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import mpmath
import numpy as np

from sgpo.evaluation.statistics import LEVEL

POWER = 0.8  # with which a difference counts as one that can be seen

CellKey = tuple[str, int]  # base model and seed
RatesByCell = Mapping[CellKey, Mapping[str, float]]  # of each problem, by its id


@dataclass(frozen=True)
class Component:
    """A variance of the difference and its degrees of freedom."""

    variance: float
    degrees: int


@dataclass(frozen=True)
class CrossedDifference:
    """Second minus first: its mean, and the components S, P and R of its variance."""

    mean: float
    of_seeds: Component
    of_problems: Component
    of_both: Component
    cells: int
    problems: int

    @property
    def standard_error(self) -> float:
        s, p, r = self.of_seeds.variance, self.of_problems.variance, self.of_both.variance
        return math.sqrt(max(s + p - r, s, p))

    @property
    def degrees(self) -> float:
        """Satterthwaite's, at least 1."""
        components = (self.of_seeds, self.of_problems, self.of_both)
        total = sum(each.variance**2 / each.degrees for each in components if each.degrees)
        return max(1.0, self.standard_error**4 / total) if total else math.inf

    @property
    def interval(self) -> tuple[float, float]:
        """95%"""
        half = student_quantile((1 + LEVEL) / 2, self.degrees) * self.standard_error
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float:
        """Two-sided."""
        if self.standard_error == 0:
            return float(self.mean == 0)
        return student_tails(self.mean / self.standard_error, self.degrees)

    @property
    def smallest_seen(self) -> float:
        """A true difference of this size is significant in `POWER` of such comparisons."""
        quantiles = student_quantile((1 + LEVEL) / 2, self.degrees) + student_quantile(POWER, self.degrees)
        return quantiles * self.standard_error

    def cells_needed(self, most: int = 1000) -> int | None:
        """With which a true difference of the size that was found would be seen, the problems being the same."""
        too_few, enough = self.cells - 1, most
        if self._with(enough).smallest_seen > abs(self.mean):
            return None
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            is_seen = self._with(middle).smallest_seen <= abs(self.mean)
            too_few, enough = (too_few, middle) if is_seen else (middle, enough)
        return enough

    def _with(self, cells: int) -> CrossedDifference:
        """Of more cells of the same base models."""
        times, more = self.cells / cells, cells - self.cells
        s, r = self.of_seeds, self.of_both
        rests = r.degrees // s.degrees if s.degrees else 0
        return replace(
            self,
            of_seeds=Component(times * s.variance, s.degrees + more),
            of_both=Component(times * r.variance, r.degrees + more * rests),
            cells=cells,
        )


def crossed_difference(sets: Sequence[tuple[RatesByCell, RatesByCell]]) -> CrossedDifference | None:
    """Of the cells that both have on every set, as an average over sets; None if there are none.

    Args:
        sets: the first and the second method's rates on each.

    Raises:
        ValueError: other problems in one cell than in another.
    """
    cells = [key for key in sets[0][1] if all(key in rates for pair in sets for rates in pair)]
    if not cells:
        return None
    bases = np.array([base for base, _ in cells])
    matrices = [difference_matrix(first, second, cells) for first, second in sets]
    weights, means = equal_weights(bases.tolist()), np.mean([matrix.mean(axis=1) for matrix in matrices], axis=0)
    free, squares = len(cells) - len(set(bases)), float(weights @ weights)
    deviations = _within_bases(means[:, None], bases)
    of_problems, of_both = _of_problems(matrices, weights), _of_both(matrices, bases, free)
    return CrossedDifference(
        float(weights @ means),
        Component(squares * float((deviations**2).sum()) / free if free else 0.0, free),
        of_problems,
        Component(squares * of_both.variance, of_both.degrees),
        len(cells),
        sum(matrix.shape[1] for matrix in matrices),
    )


def _of_problems(matrices: Sequence[np.ndarray], weights: np.ndarray) -> Component:
    """P, of the mean over sets."""
    variances = [np.var(weights @ m, ddof=1) / m.shape[1] if m.shape[1] > 1 else 0.0 for m in matrices]
    return Component(float(sum(variances)) / len(matrices) ** 2, sum(m.shape[1] - 1 for m in matrices))


def _of_both(matrices: Sequence[np.ndarray], bases: np.ndarray, free: int) -> Component:
    """R before the cells' weights: what is left within a base model without the means of seeds and of problems."""
    degrees = [free * (m.shape[1] - 1) for m in matrices]
    rests = [_within_bases(m, bases) for m in matrices]
    squares = [float(((rest - rest.mean(axis=1, keepdims=True)) ** 2).sum()) for rest in rests]
    variances = [s / d / m.shape[1] if d else 0.0 for s, d, m in zip(squares, degrees, matrices, strict=True)]
    return Component(sum(variances) / len(matrices) ** 2, sum(degrees))


def _within_bases(values: np.ndarray, bases: np.ndarray) -> np.ndarray:
    """[cells, problems] without the mean over the seeds of each base model."""
    found = values.copy()
    for base in set(bases.tolist()):
        found[bases == base] -= values[bases == base].mean(axis=0)
    return found


def difference_matrix(first: RatesByCell, second: RatesByCell, cells: Sequence[CellKey]) -> np.ndarray:
    """[cells, problems] second minus first. Raises ValueError for cells of other problems."""
    problems = list(first[cells[0]])
    for key in cells:
        for rates in (first[key], second[key]):
            if rates.keys() != set(problems):
                only = sorted(rates.keys() ^ set(problems))
                raise ValueError(f"cells of other problems cannot be compared: {only[0]!r} is in one of them only")
    return np.array([[second[key][name] - first[key][name] for name in problems] for key in cells])


def equal_weights(bases: Sequence[str]) -> np.ndarray:
    """[cells] Each base model weighs the same, and each of its seeds."""
    names = list(dict.fromkeys(bases))
    return np.array([1 / (len(names) * list(bases).count(base)) for base in bases])


def student_tails(t: float, degrees: float) -> float:
    """The chance of a Student's t of at least that size, on either side; of a normal one without end of degrees."""
    if math.isinf(degrees):
        return math.erfc(abs(t) / math.sqrt(2))
    return float(mpmath.betainc(degrees / 2, 0.5, 0, degrees / (degrees + t * t), regularized=True))


def student_quantile(probability: float, degrees: float) -> float:
    """Of Student's t, for a probability of at least a half: Newton's method from the normal one, which is smaller."""
    t = NormalDist().inv_cdf(probability)
    step = 0.0 if math.isinf(degrees) else 1.0
    while step > 1e-9 * t:
        step = (student_tails(t, degrees) - 2 * (1 - probability)) / (2 * _student_density(t, degrees))
        t += step
    return t


def _student_density(t: float, degrees: float) -> float:
    size = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(degrees * math.pi)
    return math.exp(size - (degrees + 1) / 2 * math.log1p(t * t / degrees))


def holm(values: Sequence[float]) -> list[float]:
    """p values adjusted for as many claims (Holm 1979), in the order given."""
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, (len(values) - rank) * values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def standard_deviation(values: Sequence[float]) -> float | None:
    """Standard deviation with n - 1; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
