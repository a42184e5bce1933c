"""Means and standard deviations that can be joined: of several updates, or of several processes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Means:
    """Sum and number of the values under each name; of spreads also their squared distances from the mean.

    Example: ``means = Means(); means.add("length", [3, 5]); means.values() == {"length": 4.0}``
    """

    totals: dict[str, tuple[float, int]] = field(default_factory=dict)
    spreads: dict[str, tuple[int, float, float]] = field(default_factory=dict)  # number, mean, sum of squared distances

    def add(self, name: str, values: Tensor | Iterable[float]) -> None:
        if isinstance(values, Tensor):
            total, number = float(values.sum()), values.numel()
        else:
            numbers = list(values)
            total, number = float(sum(numbers)), len(numbers)
        before = self.totals.get(name, (0.0, 0))
        self.totals[name] = (before[0] + total, before[1] + number)

    def add_spread(self, name: str, values: Sequence[float]) -> None:
        """For NAME/mean and NAME/std."""
        if values:
            mean = math.fsum(values) / len(values)
            self._join(name, (len(values), mean, math.fsum((value - mean) ** 2 for value in values)))

    def _join(self, name: str, more: tuple[int, float, float]) -> None:
        """Two parts as one (Chan, Golub and LeVeque, 1979)."""
        (n, mean, squares), (m, other, more_squares) = self.spreads.get(name, (0, 0.0, 0.0)), more
        distance = other - mean
        joined = squares + more_squares + distance**2 * n * m / (n + m)
        self.spreads[name] = (n + m, mean + distance * m / (n + m), joined)

    def values(self) -> dict[str, float]:
        """Means, and of spreads unbiased standard deviations too; what is over nothing is left out."""
        found = {name: total / number for name, (total, number) in self.totals.items() if number}
        for name, (number, mean, squares) in self.spreads.items():
            found[f"{name}/mean"] = mean
            if number > 1:
                found[f"{name}/std"] = math.sqrt(squares / (number - 1))
        return found

    @classmethod
    def of(cls, values: Mapping[str, float]) -> Means:
        """Numbers that are alike in all processes."""
        return cls({name: (value, 1) for name, value in values.items()})

    @classmethod
    def joined(cls, parts: Sequence[Means]) -> Means:
        found = cls()
        for part in parts:
            for name, (total, number) in part.totals.items():
                before = found.totals.get(name, (0.0, 0))
                found.totals[name] = (before[0] + total, before[1] + number)
            for name, spread in part.spreads.items():
                found._join(name, spread)
        return found
