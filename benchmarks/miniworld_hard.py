"""The mini-world's problems that its warm-up hardly ever solves: files and a recipe for `sgpo compare`.

    python benchmarks/miniworld_hard.py runs/hard --warm-up runs/comparison/base-101/sft

In `miniworld/compare` the warm-up solves three of ten training problems, so that exploration alone finds nearly
everything. Here RL trains on the problems of a larger pool of which it solves none in 16 samples: what a user has left
who drops what the model can do. The world, its base models, the warm-up and the tests are the same; one test is added,
`test_hard`, of test problems chosen in the same way. Prints how many were found, how often the warm-up answers them
with and without their strategy, in fresh samples, and the command that compares.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from miniworld_sensitivity import RECIPES, write_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer
from tuning import write

from sgpo.comparison.recipe import read_recipe
from sgpo.evaluation.evaluate import evaluate
from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.problems import Problem, save_problems
from sgpo.sampling.records import SamplingConfig
from sgpo.sampling.transformers import TransformersSampler

ROUNDS = (4, 4, 8)  # samples; what is solved in one is not asked again
POOLS = {"rl": 8000, "test_hard": 3600}
SIZES = {"rl": 720, "test_hard": 300}
OTHERS = {"sft": 400, "dev": 240, "test": 600, "test_unseen": 150}  # of miniworld/compare
SETS = ("test", "test_hard", "test_unseen")
METHODS = ("grpo", "grpo-8", "luffy", "hpt", "sgpo", "sgpo-no-autonomous")
UPDATES = 90  # each of the problems once
SAMPLING = SamplingConfig(192, temperature=1.0)  # as in training


def variants() -> dict[str, dict[str, object]]:
    """GRPO and SGPO at each other's rate, and both with groups of four samples at both rates."""
    found: dict[str, dict[str, object]] = {
        "grpo-2e-4": {"extends": "grpo", "learning_rate": 2e-4},
        "sgpo-4e-4": {"extends": "sgpo", "learning_rate": 4e-4},
    }
    for rate in ("2e-4", "4e-4"):
        for method, alone, guided in (("grpo", 4, 0), ("sgpo", 3, 1), ("sgpo", 2, 2)):
            sizes = f"{alone}-{guided}" if guided else f"{alone}"
            found[f"{method}-{sizes}-rate-{rate}"] = {
                "extends": method,
                "num_autonomous": alone,
                "num_guided": guided,
                "learning_rate": float(rate),
            }
    return found


class WarmUp:
    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.sampler = TransformersSampler.of(model, self.tokenizer)

    def rates(self, problems: Sequence[Problem], k: int, seed: int, *, guided: bool = False) -> list[float]:
        """Of each problem, the share of k answers that is correct."""
        found = evaluate(self.sampler, self.tokenizer, problems, SAMPLING, k=k, seed=seed, guided=guided)
        return found.rates

    def unsolved(self, problems: Sequence[Problem]) -> list[Problem]:
        """Those that it solves in none of the samples, unguided."""
        for seed, k in enumerate(ROUNDS):
            rates = self.rates(problems, k, seed)
            problems = [problem for problem, rate in zip(problems, rates, strict=True) if rate == 0]
        return list(problems)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--warm-up", type=Path, required=True, help="the checkpoint from which the methods start")
    options = parser.parse_args()
    folder, warm_up = options.folder.resolve(), WarmUp(options.warm_up)
    world = read_recipe("miniworld/compare").world
    assert world is not None
    tests = OTHERS["test"] + POOLS["test_hard"]
    sets = problem_sets(world.seed, Sizes.only(**{**OTHERS, "rl": POOLS["rl"], "test": tests}))
    pools = {"rl": sets["rl"], "test_hard": sets["test"][OTHERS["test"] :]}
    sets["test"] = sets["test"][: OTHERS["test"]]
    for name, pool in pools.items():
        found = warm_up.unsolved(pool)
        kept = sets[name] = found[: SIZES[name]]
        shares = [warm_up.rates(kept, 16, 99, guided=guided) for guided in (False, True)]
        alone, guided = (100 * sum(rates) / len(rates) for rates in shares)
        print(f"{name}: {len(found)} of {len(pool)} unsolved, {len(kept)} kept; fresh samples: ", end="")
        print(f"{alone:.1f} % correct, with the strategy {guided:.1f} %", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("sft", "rl", "dev", *SETS):
        save_problems(sets[name], folder / f"{name}.jsonl")
    changed = [
        write(folder / f"{name}.yaml", {**values, "extends": str(RECIPES / f"{values['extends']}.yaml")})
        for name, values in variants().items()
    ]
    recipe = write_recipe(folder, SETS, [*(RECIPES / f"{name}.yaml" for name in METHODS), *changed], max_steps=UPDATES)
    print(f"sgpo compare --recipe {recipe} --seeds 1 2 3 --output {folder}/comparison")


if __name__ == "__main__":
    main()
