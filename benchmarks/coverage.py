"""How often the 95% intervals of `sgpo compare` cover the true difference, by simulation.

    python benchmarks/coverage.py [--repetitions 1000]

Two methods solve 600 problems, k = 4 samples each, in some cells. The log-odds of a sample are those of the problem
(standard deviation 2), for the second method with an effect of the problem (0.3 +- 0.7), and for both with an effect of
the seed. The truth is the mean difference over all problems and seeds. Beside coverage: the median half-width, the
smallest difference that is seen with a power of 80%, and how often two equal methods differ significantly. Beside our
intervals stands the percentile bootstrap over cells and problems.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import write_report

from sgpo.comparison.statistics import crossed_difference

PROBLEMS, SAMPLES, RESAMPLES = 600, 4, 400
DESIGNS = {"1 base, 2 seeds": (1, 2), "1 base, 3 seeds": (1, 3), "1 base, 5 seeds": (1, 5), "2 bases, 5 seeds": (2, 5)}
SEED_EFFECTS = (0.03, 0.1, 0.3)  # of log-odds: about 0.4, 1.3 and 4 points between seeds


def odds(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


@dataclass(frozen=True)
class Setting:
    bases: int
    seeds: int
    of_seeds: float
    effect: float = 0.3
    spread: float = 0.7

    def probabilities(self, rng: np.random.Generator, cells: int, problems: int) -> tuple[np.ndarray, np.ndarray]:
        """[cells, problems] of both methods, of fresh problems and seeds."""
        problem = rng.normal(-0.5, 2.0, problems)
        change = rng.normal(self.effect, self.spread, problems)
        first, second = rng.normal(0, self.of_seeds, (2, cells, 1))
        return odds(problem + first), odds(problem + change + second)

    def truth(self) -> float:
        rng = np.random.default_rng(0)
        first, second = self.probabilities(rng, 4000, 4000)
        return float((second - first).mean())

    def rates(self, rng: np.random.Generator) -> np.ndarray:
        """[2, cells, problems] measured."""
        both = self.probabilities(rng, self.bases * self.seeds, PROBLEMS)
        return np.stack([rng.binomial(SAMPLES, each) / SAMPLES for each in both])


def ours(rates: np.ndarray, setting: Setting) -> tuple[float, float, float]:
    """The interval, and the smallest difference that is seen."""
    names = [(f"base-{cell // setting.seeds}", cell) for cell in range(rates.shape[1])]
    pair = tuple({name: dict(enumerate(row)) for name, row in zip(names, each, strict=True)} for each in rates)
    found = crossed_difference([pair])
    return *found.interval, found.smallest_seen


def bootstrap(rates: np.ndarray, setting: Setting, rng: np.random.Generator) -> tuple[float, float]:
    values = rates[1] - rates[0]
    cells = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), RESAMPLES) / len(values)
    problems = rng.multinomial(PROBLEMS, np.full(PROBLEMS, 1 / PROBLEMS), RESAMPLES) / PROBLEMS
    low, high = np.quantile(((cells @ values) * problems).sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


def row(name: str, setting: Setting, repetitions: int) -> dict[str, float | str]:
    rng, truth = np.random.default_rng(1), setting.truth()
    drawn = [setting.rates(rng) for _ in range(repetitions)]
    intervals = [ours(rates, setting) for rates in drawn]
    simple = [bootstrap(rates, setting, rng) for rates in drawn]
    equal = Setting(setting.bases, setting.seeds, setting.of_seeds, effect=0.0, spread=0.0)
    wrong = [ours(equal.rates(rng), equal) for _ in range(repetitions)]
    return {
        "cells": name,
        "between seeds": between_seeds(setting),
        "covered": float(np.mean([low <= truth <= high for low, high, _ in intervals])),
        "half-width": float(np.median([(high - low) / 2 for low, high, _ in intervals])),
        "seen": float(np.median([seen for *_, seen in intervals])),
        "equal, but significant": float(np.mean([not low <= 0 <= high for low, high, _ in wrong])),
        "bootstrap covered": float(np.mean([low <= truth <= high for low, high in simple])),
    }


def between_seeds(setting: Setting) -> float:
    """Standard deviation of one method's score over seeds, the problems being the same."""
    first, _ = setting.probabilities(np.random.default_rng(2), 2000, 2000)
    return float(first.mean(axis=1).std())


def markdown(rows: list[dict[str, float | str]]) -> str:
    lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
    lines += [" | ".join(v if isinstance(v, str) else f"{100 * v:.1f}" for v in each.values()) for each in rows]
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = [
        row(name, Setting(*design, effect), options.repetitions)
        for name, design in DESIGNS.items()
        for effect in SEED_EFFECTS
    ]
    print(markdown(rows))
    write_report(options.output, {"repetitions": options.repetitions, "rows": rows})


if __name__ == "__main__":
    main()
