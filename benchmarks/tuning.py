"""The tuning: for every method the same grid of learning rates and schedules.

    python benchmarks/tuning.py recipes runs/tuning/recipes [--rates 1e-4 2e-4 ...] [--schedules linear ...]
    python benchmarks/tuning.py table runs/tuning/*/results.jsonl
    python benchmarks/tuning.py explore runs/explored/recipes
    python benchmarks/tuning.py explored runs/explored/methods/results.jsonl

The first writes a recipe for each method, rate and schedule, which extends the method's own, and prints the commands
that compare them on the development problems with the base model of seed 103, which no test has. SFT on all responses
is a recipe of the whole comparison, so it has a command for each configuration. A best value on an edge of the grid
calls for more values, for all methods. The second prints the scores. The third is for the question what to set: it
writes recipes that change one option of SGPO or GRPO each, on the same development problems, and the fourth prints
their scores. All see every problem once.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean

import yaml
from miniworld_tables import mean_and_each

from sgpo.comparison.results import CellResult, read_results

RECIPES = Path(__file__).resolve().parents[1] / "src" / "sgpo" / "recipes" / "miniworld"
METHODS = ("grpo", "luffy", "hpt", "sgpo")
BASE_SEED, SEEDS = "103", ("1", "2")
EXPLORED: dict[str, dict[str, dict[str, object]]] = {
    "sgpo": {
        "problems-8": {"problems_per_rollout": 8, "max_steps": 200},
        "problems-32": {"problems_per_rollout": 32, "max_steps": 50},
        "updates-1": {"updates_per_rollout": 1, "max_steps": 50},
        "updates-4": {"updates_per_rollout": 4, "max_steps": 200},
        "alpha-max-0.4": {"alpha_max": 0.4},
        "alpha-max-1.6": {"alpha_max": 1.6},
        "delta-0.5": {"delta": 0.5},
        "delta-3": {"delta": 3.0},
        "delta-inf": {"delta": float("inf")},
        "reverse": {"distillation": "reverse_kl"},
        "guided-2": {"num_autonomous": 10, "num_guided": 2},
    },
    "grpo": {"grpo-updates-4": {"updates_per_rollout": 4, "max_steps": 200}},
}


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


def explorations(folder: Path) -> str:
    """Write the recipes; returns the command."""
    methods = []
    for method, changes in EXPLORED.items():
        own = RECIPES / f"{method}.yaml"
        changed = [write(folder / f"{name}.yaml", {"extends": str(own), **values}) for name, values in changes.items()]
        methods += [own, *changed]
    # Checkpoints stand between rollout batches, so after a multiple of 4 updates.
    saving = {"save_strategy": "steps", "save_steps": 20, "save_total_limit": 1}
    beside = {name: str(RECIPES / f"{name.replace('_', '-')}.yaml") for name in ("sft", "sft_all")}
    recipe = write(folder / "compare.yaml", {"extends": str(RECIPES / "compare.yaml"), **beside, "options": saving})
    chosen = f"--baseline sgpo --methods {' '.join(map(str, methods))}"
    return _command(str(recipe), folder.parent / "methods", chosen)


def _command(recipe: str, output: Path, chosen: str = "") -> str:
    """Each comparison has one recipe of SFT on all responses, so each has a folder of its own."""
    seeds = f"--base-seeds {BASE_SEED} --seeds {' '.join(SEEDS)}"
    return " ".join(f"sgpo compare --recipe {recipe} --sets dev {seeds} {chosen} --output {output}".split())


def configured(row: CellResult) -> tuple[str, float, str]:
    """Method, learning rate and schedule of a cell."""
    name = "sft-all" if row["method"].startswith("sft-all") else row["method"].split("-")[0]
    own = row["configuration"]["sft_all" if name == "sft-all" else "method"]
    return name, float(own["learning_rate"]), str(own["lr_scheduler_type"])


def table(rows: Sequence[CellResult]) -> Iterator[str]:
    """Markdown: a row for each configuration, with the score of each seed and their mean; a method's best in bold."""
    scores: dict[tuple[str, float, str], list[float]] = defaultdict(list)
    for row in rows:
        if row["seed"] is not None:
            scores[configured(row)].append(100 * row["sets"]["dev"]["score"])
    methods = list(dict.fromkeys(name for name, _, _ in scores))
    best = [max((own for own in scores if own[0] == name), key=lambda own: fmean(scores[own])) for name in methods]
    yield f"| | {' | '.join(f'`{name}`' for name in methods)} |"
    yield f"|---|{'---:|' * len(methods)}"
    for rate, schedule in sorted({(rate, schedule) for _, rate, schedule in scores}):
        own = [(name, rate, schedule) for name in methods]
        cells = [mean_and_each(scores[each], bold=each in best) if each in scores else "" for each in own]
        mantissa, exponent = f"{rate:e}".split("e")
        yield f"| {float(mantissa):g}e{int(exponent)} {schedule.split('_')[0]} | {' | '.join(cells)} |"


def explored_table(rows: Sequence[CellResult]) -> Iterator[str]:
    """Markdown: what was changed, and the score of each seed and their mean; the best first."""
    scores: dict[str, list[float]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["seed"] or 0):
        if row["seed"] is not None:
            scores[row["method"]].append(100 * row["sets"]["dev"]["score"])
    changed = {name: values for changes in EXPLORED.values() for name, values in changes.items()}
    yield "| | | dev |"
    yield "|---|---|---:|"
    for name in sorted(scores, key=lambda name: -fmean(scores[name])):
        changes = ", ".join(f"`{key}: {value}`" for key, value in changed.get(name, {}).items())
        yield f"| `{name}` | {changes} | {mean_and_each(scores[name])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    recipes = parts.add_parser("recipes")
    recipes.add_argument("folder", type=Path)
    recipes.add_argument("--rates", nargs="+", default=["1e-4", "2e-4"])
    recipes.add_argument("--schedules", nargs="+", default=["linear", "constant_with_warmup"])
    parts.add_parser("table").add_argument("results", type=Path, nargs="+")
    parts.add_parser("explore").add_argument("folder", type=Path)
    parts.add_parser("explored").add_argument("results", type=Path)
    options = parser.parse_args()
    if options.part == "recipes":
        print("\n".join(commands(options.folder.resolve(), options.rates, options.schedules)))
    elif options.part == "explore":
        print(explorations(options.folder.resolve()))
    elif options.part == "explored":
        print("\n".join(explored_table(read_results(options.results))))
    else:
        print("\n".join(table([row for path in options.results for row in read_results(path)])))


if __name__ == "__main__":
    main()
