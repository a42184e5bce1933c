"""The mini-world's results: tuning on development problems, and the final comparison on fresh seeds.

    python benchmarks/miniworld_results.py tune     --base BASE            --output runs/tuning --seeds 1
    python benchmarks/miniworld_results.py final    --base BASE1 BASE2 ... --output runs/final --seeds 101 102 ...
    python benchmarks/miniworld_results.py controls --base BASE1           --output runs/final --seeds 101
    python benchmarks/miniworld_results.py table runs/final/results.jsonl

Every cell is (seed, method and options): problems of that seed, one SFT checkpoint a seed shared by all methods, RL,
evaluation without strategies. Two cells run at a time with a thread each; a finished cell is never run again. The seed
decides problems, data order and sampling; seed i uses base model i modulo their number.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.evaluation.evaluate import evaluate
from sgpo.miniworld.world import Sizes, create_world
from sgpo.problems import load_problems
from sgpo.training.sampling import SamplingConfig, TransformersSampler

RECIPES = Path(__file__).parents[1] / "src/sgpo/recipes/miniworld"
# Two-sided 95% quantiles of the t distribution by degrees of freedom.
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
TEST_SETS = ("test", "test_deeper", "test_unseen")

# The same number of configurations and seeds for each method.
CONSTANT = ["--lr_scheduler_type", "constant", "--warmup_steps", "0"]
ONE_UPDATE = ["--updates_per_rollout", "1", "--max_steps", "75"]
TUNING = {
    "grpo lr=1e-4": ["grpo", "--learning_rate", "1e-4", *CONSTANT],
    "grpo lr=2e-4": ["grpo", "--learning_rate", "2e-4", *CONSTANT],
    "grpo lr=3e-4": ["grpo", "--learning_rate", "3e-4", *CONSTANT],
    "grpo lr=2e-4 linear": ["grpo", "--learning_rate", "2e-4"],
    "grpo lr=3e-4 linear": ["grpo", "--learning_rate", "3e-4"],
    "grpo lr=2e-4 one update": ["grpo", "--learning_rate", "2e-4", *ONE_UPDATE, *CONSTANT],
    "sgpo lr=2e-4 delta=1": ["sgpo", "--learning_rate", "2e-4", "--delta", "1.0", *CONSTANT],
    "sgpo lr=1e-4 delta=3": ["sgpo", "--learning_rate", "1e-4", "--delta", "3.0", *CONSTANT],
    "sgpo lr=2e-4 delta=3": ["sgpo", "--learning_rate", "2e-4", "--delta", "3.0", *CONSTANT],
    "sgpo lr=3e-4 delta=3": ["sgpo", "--learning_rate", "3e-4", "--delta", "3.0", *CONSTANT],
    "sgpo lr=2e-4 delta=3 linear": ["sgpo", "--learning_rate", "2e-4", "--delta", "3.0"],
    "sgpo lr=2e-4 delta=3 one update": ["sgpo", "--learning_rate", "2e-4", "--delta", "3.0", *ONE_UPDATE, *CONSTANT],
}
FINAL = {"grpo": ["grpo"], "sgpo": ["sgpo"]}
CONTROLS = {
    "sgpo delta=1": ["sgpo", "--delta", "1.0"],
    "sgpo type-level": ["sgpo", "--columns", "strategy=type_strategy"],
    "sgpo shuffled": ["sgpo", "--columns", "strategy=shuffled_strategy"],
}
CELLS = {"tune": TUNING, "final": FINAL, "controls": CONTROLS}


def run_logged(log: Path, *command: str) -> None:
    """Run one command on one thread, its output in a log file."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        subprocess.run([sys.executable, *command], stdout=file, stderr=subprocess.STDOUT, env=environment, check=True)


def score(model: Path, world: Path, sets: Sequence[str], output: Path) -> dict[str, Any]:
    """Scores of a checkpoint on some sets, in a process of its own."""
    paths = ["--model", str(model), "--world", str(world), "--output", str(output)]
    run_logged(output.with_suffix(".log"), __file__, "score", *paths, "--sets", *sets)
    return json.loads(output.read_text())


def score_here(model: Path, world: Path, sets: Sequence[str]) -> dict[str, Any]:
    """avg@4 as `sgpo eval` has it, by family, and greedy; without strategies."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    sampler = TransformersSampler.of(policy, tokenizer)
    scores = {}
    for name in sets:
        problems = load_problems(str(world / f"{name}.jsonl"))
        found = evaluate(sampler, tokenizer, problems, SamplingConfig(96, 0.6, 0.95), k=4)
        greedy = evaluate(sampler, tokenizer, problems, SamplingConfig(96, 0.0), k=1)
        scores[name] = {
            **found.metrics(),
            "by": found.by("family"),
            "greedy": greedy.average,
            "greedy_by": greedy.by("family"),
            "rates": found.rates,
        }
    return scores


def prepare(seed: int, base: Path, output: Path, sets: tuple[str, ...]) -> Path:
    """The world and the SFT checkpoint of one seed."""
    world = output / f"world-{seed}"
    if not (world / "prepared.json").exists():
        create_world(world, seed=seed, sizes=Sizes(), base=base)
        paths = ["--model", str(world / "base"), "--problems", str(world / "sft.jsonl")]
        recipe = ["--config", str(RECIPES / "sft.yaml"), *paths, "--output_dir", str(world / "sft")]
        run_logged(world / "sft.log", "-m", "sgpo", "sft", *recipe, "--seed", str(seed), "--overwrite", "true")
        models = {name: score(world / name, world, sets, world / f"scores-{name}.json") for name in ("base", "sft")}
        (world / "prepared.json").write_text(json.dumps(models))
    return world


def run_cell(seed: int, name: str, options: list[str], output: Path, sets: tuple[str, ...]) -> dict[str, Any]:
    world = output / f"world-{seed}"
    folder = output / f"seed-{seed}" / name.replace(" ", "_").replace("=", "")
    arguments = ["--config", str(RECIPES / f"{options[0]}.yaml"), "--model", str(world / "sft")]
    arguments += ["--problems", str(world / "rl.jsonl"), "--eval_problems", str(world / "dev.jsonl")]
    # A cell that was cut off is run again from its beginning.
    arguments += ["--output_dir", str(folder), "--seed", str(seed), "--overwrite", "true"]
    run_logged(folder / "log.txt", "-m", "sgpo", "train", *arguments, "--disable_tqdm", "true", *options[1:])
    return {"seed": seed, "cell": name, "scores": score(folder, world, sets, folder / "scores.json")}


def run(cells: dict[str, list[str]], seeds: list[int], bases: list[Path], output: Path, sets: tuple[str, ...]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    results = output / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    finished = {(row["seed"], row["cell"]) for row in rows}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda s: prepare(s, bases[s % len(bases)], output, sets), seeds))
        todo = [(seed, name) for seed in seeds for name in cells if (seed, name) not in finished]
        for row in pool.map(lambda cell: run_cell(*cell, cells[cell[1]], output, sets), todo):
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            shown = {key: round(100 * value["avg_at_4"], 1) for key, value in row["scores"].items()}
            print(row["seed"], row["cell"], shown, flush=True)
        with results.open("a") as file:
            for seed in seeds:
                for name, found in json.loads((output / f"world-{seed}" / "prepared.json").read_text()).items():
                    if (seed, name) not in finished:
                        file.write(json.dumps({"seed": seed, "cell": name, "scores": found}) + "\n")


def table(path: Path) -> None:
    """Markdown: mean and standard deviation over seeds, and the paired difference to GRPO with a 95% t interval."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    by_cell: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_cell.setdefault(row["cell"], {})[row["seed"]] = row["scores"]
    names = sorted(by_cell, key=lambda name: (name not in ("base", "sft", "grpo"), name != "sgpo", name))
    for set_name in next(iter(by_cell.values()))[rows[0]["seed"]]:
        families = list(rows[0]["scores"][set_name]["by"])
        print(f"\n### {set_name}\n\n| | seeds | avg@4 | greedy | {' | '.join(families)} | minus GRPO |")
        print("|" + "---|" * (len(families) + 5))
        for name in names:
            found = {seed: scores[set_name] for seed, scores in by_cell[name].items()}
            cells = [mean_and_spread([f["avg_at_4"] for f in found.values()])]
            cells += [mean_and_spread([f["greedy"] for f in found.values()])]
            cells += [f"{statistics.mean(100 * f['by'][family] for f in found.values()):.1f}" for family in families]
            other = {seed: scores[set_name] for seed, scores in by_cell.get("grpo", {}).items()}
            pairs = [f["avg_at_4"] - other[seed]["avg_at_4"] for seed, f in found.items() if seed in other]
            cells.append("" if name == "grpo" else difference(pairs))
            print(f"| {name} | {len(found)} | " + " | ".join(cells) + " |")


def mean_and_spread(values: list[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def difference(pairs: list[float]) -> str:
    """Mean of paired differences over seeds, with its 95% t interval."""
    if len(pairs) < 2:
        return f"{100 * pairs[0]:+.1f}" if pairs else ""
    reach = T_95[len(pairs) - 1] * statistics.stdev(pairs) / len(pairs) ** 0.5
    middle = statistics.mean(pairs)
    return f"{100 * middle:+.1f} [{100 * (middle - reach):+.1f}, {100 * (middle + reach):+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    for name in CELLS:
        action = actions.add_parser(name)
        action.add_argument("--base", type=Path, nargs="+", required=True, help="base models")
        action.add_argument("--output", type=Path, required=True)
        action.add_argument("--seeds", type=int, nargs="+", required=True)
        action.add_argument("--cells", nargs="+", choices=list(CELLS[name]), default=list(CELLS[name]))
    actions.add_parser("table", help="print a results file").add_argument("results", type=Path)
    action = actions.add_parser("score", help="what every cell runs in a process of its own")
    for name in ("--model", "--world", "--output"):
        action.add_argument(name, type=Path, required=True)
    action.add_argument("--sets", nargs="+", required=True)
    options = parser.parse_args()
    if options.action == "table":
        table(options.results)
    elif options.action == "score":
        options.output.write_text(json.dumps(score_here(options.model, options.world, options.sets)))
    else:
        sets = ("dev",) if options.action == "tune" else TEST_SETS
        cells = {name: CELLS[options.action][name] for name in options.cells}
        run(cells, options.seeds, options.base, options.output, sets)


if __name__ == "__main__":
    main()
