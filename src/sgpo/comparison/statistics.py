"""Differences of methods over base models, seeds and problems, as pure functions; docs/comparison.md describes them.

D[c, p] is the rate at which the second method solves problem p in cell c, a base model and a seed, minus that of the
first. The difference is the mean of D over problems, over the seeds of each base model, and over the base models. Its
interval is a bootstrap crossed over cells and problems: each resample draws base models, within each of them seeds, and
problems, all with replacement, and the same ones for both methods:

    d* = sum over c and p of u*_c v*_p D[c, p]

with u* and v* the shares of the draws. An average over sets gives each the same weight; problems are drawn within each
set, and cells once for all of them. So it holds for other seeds, other problems of that kind and, where there are
several, other base models. With few seeds it is somewhat narrow: a percentile interval over n seeds has about
sqrt((n - 1) / n) of the width that it should have, and no knowledge of the tails.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sgpo.evaluation.statistics import LEVEL, RESAMPLES

BLOCK = 2_000_000  # numbers of a resampled matrix at once

CellKey = tuple[str, int]  # base model and seed
RatesByCell = Mapping[CellKey, Mapping[str, float]]  # of each problem, by its id


@dataclass(frozen=True)
class CrossedDifference:
    """Second minus first. Example: ``CrossedDifference(0.031, (0.008, 0.054), p=0.012, cells=10, problems=600)``"""

    mean: float
    interval: tuple[float, float]  # 95%, percentile bootstrap
    p: float  # two-sided
    cells: int
    problems: int


def crossed_difference(
    sets: Sequence[tuple[RatesByCell, RatesByCell]], *, seed: int = 0, resamples: int = RESAMPLES
) -> CrossedDifference | None:
    """Of the cells that both have on every set, as an average over sets; None if there are none.

    Args:
        sets: the first and the second method's rates on each.

    Raises:
        ValueError: other problems in one cell than in another.
    """
    cells = [key for key in sets[0][1] if all(key in rates for pair in sets for rates in pair)]
    if not cells:
        return None
    bases = [base for base, _ in cells]
    matrices = [difference_matrix(first, second, cells) for first, second in sets]
    means = resampled_means(matrices, bases, np.random.default_rng(seed), resamples)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    mean = float(np.mean([equal_weights(bases) @ matrix.mean(axis=1) for matrix in matrices]))
    problems = sum(matrix.shape[1] for matrix in matrices)
    return CrossedDifference(mean, (float(low), float(high)), two_sided_p(means), len(cells), problems)


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


def resampled_means(
    matrices: Sequence[np.ndarray], bases: Sequence[str], generator: np.random.Generator, resamples: int
) -> np.ndarray:
    """[resamples] values of d*, means over the matrices of the sets; in blocks, so that memory stays small."""
    block = max(1, BLOCK // max(matrix.shape[1] for matrix in matrices))
    parts = []
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        of_cells = drawn_cells(bases, generator, count)
        of_sets = [
            ((of_cells @ matrix) * drawn_problems(matrix.shape[1], generator, count)).sum(axis=1) for matrix in matrices
        ]
        parts.append(np.mean(of_sets, axis=0))
    return np.concatenate(parts)


def drawn_problems(problems: int, generator: np.random.Generator, count: int) -> np.ndarray:
    """[count, problems] v*: as many problems as there are are drawn."""
    draws = generator.integers(problems, size=(count, problems)) + problems * np.arange(count)[:, None]
    counts = np.bincount(draws.ravel(), minlength=count * problems)  # faster than a multinomial distribution
    return counts.reshape(count, problems) / problems


def drawn_cells(bases: Sequence[str], generator: np.random.Generator, count: int) -> np.ndarray:
    """[count, cells] u*: base models are drawn, and for each time that one is, as many seeds as it has."""
    names = list(dict.fromkeys(bases))
    columns = [np.flatnonzero(np.array(bases) == name) for name in names]
    times = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count)  # [count, bases]
    weights = np.zeros((count, len(bases)))
    for base, own in enumerate(columns):
        draws = generator.multinomial(times[:, base] * len(own), np.full(len(own), 1 / len(own)))  # [count, seeds]
        weights[:, own] = draws / (len(names) * len(own))
    return weights


def two_sided_p(means: np.ndarray) -> float:
    """Twice the share of resamples on the rarer side of zero; one is added to each count, so it is never 0."""
    below, above = (int((means <= 0).sum()) + 1, int((means >= 0).sum()) + 1)
    return min(1.0, 2 * min(below, above) / (len(means) + 1))


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
