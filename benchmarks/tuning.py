"""The recipes of the tuning: for every method the same grid of learning rates and schedules.

    python benchmarks/tuning.py runs/tuning/recipes [--rates 1e-4 2e-4] [--schedules linear constant_with_warmup]

Writes a recipe for each method, rate and schedule, which extends the method's own, and prints the commands that compare
them on the development problems with the base model of seed 103, which no test has. SFT on all responses is a recipe of
the whole comparison, so it has a command for each configuration. A best value on an edge of the grid calls for more
values, for all methods.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import yaml

RECIPES = Path(__file__).resolve().parents[1] / "src" / "sgpo" / "recipes" / "miniworld"
METHODS = ("grpo", "luffy", "hpt", "sgpo")
BASE_SEED, SEEDS = "103", ("1", "2")


def write(path: Path, values: dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def configuration(recipe: str, rate: str, schedule: str) -> dict[str, object]:
    return {
        "extends": str(RECIPES / f"{recipe}.yaml"),
        "learning_rate": float(rate),
        "lr_scheduler_type": schedule,
    }


def commands(folder: Path, rates: Sequence[str], schedules: Sequence[str]) -> list[str]:
    """Write the recipes; returns the commands."""
    grid = list(product(rates, schedules))
    methods = [
        write(folder / f"{name}-{rate}-{schedule}.yaml", configuration(name, rate, schedule))
        for name in METHODS
        for rate, schedule in grid
    ]
    chosen = f"--baseline {methods[0].stem} --methods {' '.join(map(str, methods))}"
    found = [_command("miniworld/compare", folder.parent / "methods", chosen)]
    for rate, schedule in grid:
        own = write(folder / f"sft-all-{rate}-{schedule}.yaml", configuration("sft-all", rate, schedule))
        values = {
            "sft": str(RECIPES / "sft.yaml"),
            "sft_all": str(own),
            "methods": ["sft", "sft-all"],
            "baseline": "sft",
        }
        recipe = write(folder / f"compare-{own.name}", {"extends": str(RECIPES / "compare.yaml"), **values})
        found.append(_command(str(recipe), folder.parent / own.stem))
    return found


def _command(recipe: str, output: Path, chosen: str = "") -> str:
    """Each comparison has one recipe of SFT on all responses, so each has a folder of its own."""
    seeds = f"--base-seeds {BASE_SEED} --seeds {' '.join(SEEDS)}"
    return " ".join(f"sgpo compare --recipe {recipe} --sets dev {seeds} {chosen} --output {output}".split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rates", nargs="+", default=["1e-4", "2e-4"])
    parser.add_argument("--schedules", nargs="+", default=["linear", "constant_with_warmup"])
    options = parser.parse_args()
    print("\n".join(commands(options.folder.resolve(), options.rates, options.schedules)))


if __name__ == "__main__":
    main()
