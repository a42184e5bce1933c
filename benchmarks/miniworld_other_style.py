"""A teacher that writes otherwise than the base model was pretrained to: is SFT on its responses still far ahead?

    python benchmarks/miniworld_other_style.py runs/other-style
    sgpo compare --recipe runs/other-style/compare.yaml --base-models BASE --seeds 1 2 --output runs/other-style/results

The mini-world's teacher writes each step as the base model does: the method's name, then the arithmetic. This one does
the arithmetic first and names the method afterwards, so that the response shows no decision before it is carried out.
Problems, answers and strategies are those of any world.

    (a) subtract: 17-16=1 (b) multiply: 1*7=7 \\boxed{7}     ->     (a) 17-16=1 subtract (b) 1*7=7 multiply \\boxed{7}
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

import yaml

from sgpo.configuration import RECIPES, read_config
from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.problems import Problem, save_problems

SEED = 402  # of problems that no other comparison has
STEP = re.compile(r"(\([a-z]\)) ([a-z]+): (.*?) (?=\([a-z]\) |\\boxed)")


def arithmetic_first(problem: Problem) -> Problem:
    """Raises ValueError for a response that is not made of such steps."""
    response = problem.response or ""
    restyled, steps = STEP.subn(r"\1 \3 \2 ", response)
    if steps != response.count(": ") or not steps:
        raise ValueError(f"problem {problem.id}: this is no list of steps: {response}")
    return replace(problem, response=restyled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    for name, problems in problem_sets(SEED, Sizes()).items():
        rows = [arithmetic_first(problem) for problem in problems] if name in ("sft", "rl") else problems
        save_problems(rows, output / f"{name}.jsonl")

    recipes = RECIPES / "miniworld"
    values = read_config(recipes / "compare-ablations.yaml")
    del values["world"], values["baseline"]
    recipe = {
        **values,
        "sft": str(recipes / "sft.yaml"),
        "sft_all": str(recipes / "sft-all.yaml"),
        "methods": ["sft", "sft-all", *(str(recipes / f"{name}.yaml") for name in ("grpo", "sgpo"))],
        "sft_problems": str(output / "sft.jsonl"),
        "problems": str(output / "rl.jsonl"),
        "dev_problems": str(output / "dev.jsonl"),
        "sets": {"test": str(output / "test.jsonl")},
    }
    (output / "compare.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    print(f"{output / 'compare.yaml'}")


if __name__ == "__main__":
    main()
