"""The mini-world with an expert who is easier to imitate: problems and a recipe for `sgpo compare`, and the scores.

    python benchmarks/miniworld_sensitivity.py write runs/sensitivity/0.5 --eagerness 0.5
    python benchmarks/miniworld_sensitivity.py table docs/data
    python benchmarks/miniworld_sensitivity.py reliability CELL/evaluation/samples/test.parquet ...

The world assumes that imitating the expert fails, because the expert makes several computations one. How well a tiny
model does that in its head cannot be set; what is set here is the *eagerness*, the share of such leaps that the expert
makes: 1 in the mini-world, 0 for an expert who writes every computation out. Problems, answers, strategies and the base
model are those of `miniworld/compare`; the expert's responses are written anew. The first prints the command that
compares the methods of the plan (docs/results-miniworld-tuning.md); the second makes the table of the results on
docs/results-miniworld-claims.md; the third prints how often computations in the expert's dialect are right, by how many
were made one.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import yaml
from miniworld_measures import computations_in, puzzle_of, work_in
from miniworld_tables import mean_and_each
from transformers import AutoTokenizer

from sgpo.comparison.recipe import read_recipe
from sgpo.comparison.results import CellResult, read_results
from sgpo.methods.records import response_ids
from sgpo.miniworld.documents import expert_solution
from sgpo.miniworld.families.arithmetic import equalities, is_true
from sgpo.miniworld.solutions import EXPERT_LONGEST, Solution, expert_dialect, is_expert_dialect
from sgpo.miniworld.world import BASE_MODEL, Sizes, problem_sets
from sgpo.problems import Problem, save_problems

RECIPES = Path(__file__).resolve().parents[1] / "src" / "sgpo" / "recipes" / "miniworld"
RL = ("grpo", "hpt", "sgpo")
COMPARED = ("sft-all", *RL)
LONGEST_COMPLETION = 192  # tokens, of the recipes
SETS = ("test", "test_unseen")
SIZES = {"sft": 400, "rl": 800, "dev": 240, "test": 600, "test_unseen": 150}  # of miniworld/compare


def rewritten(problem: Problem, eagerness: float, tokenizer: Any) -> Problem:
    """The problem with as many responses of the expert as it has, who makes this share of the leaps."""
    rng, puzzle = random.Random(f"{problem.id} {eagerness}"), puzzle_of(problem)
    solutions = [expert_solution(puzzle, rng) for _ in problem.responses]
    texts = [one_that_fits(puzzle.text, solution, rng, eagerness, tokenizer) for solution in solutions]
    return replace(problem, response=texts[0], more_responses=tuple(texts[1:]))


def one_that_fits(text: str, solution: Solution, rng: random.Random, eagerness: float, tokenizer: Any) -> str:
    """Of 3,200 responses without leaps one would be longer than the recipes' completions may be."""
    while True:
        written = expert_dialect(text, solution, rng, EXPERT_LONGEST, eagerness)
        if len(response_ids(written, tokenizer)) <= LONGEST_COMPLETION:
            return written


def write(folder: Path, eagerness: float) -> Path:
    """Problems and recipe; returns the recipe."""
    world = read_recipe("miniworld/compare").world
    assert world is not None
    tokenizer = AutoTokenizer.from_pretrained(BASE_MODEL)
    for name, problems in problem_sets(world.seed, Sizes.only(**SIZES)).items():
        if name in ("sft", "rl"):
            problems = [rewritten(each, eagerness, tokenizer) for each in problems]
        if problems:
            save_problems(problems, folder / f"{name}.jsonl")
    return write_recipe(folder, SETS, [RECIPES / f"{name}.yaml" for name in RL])


def write_recipe(folder: Path, sets: Sequence[str], methods: Sequence[Path], **options: object) -> Path:
    """A comparison of SFT and these methods on the shipped base model, with the problems in the folder.

    The options are those of every method.
    """
    values = {
        "sft_problems": str(folder / "sft.jsonl"),
        "problems": str(folder / "rl.jsonl"),
        "dev_problems": str(folder / "dev.jsonl"),
        "sets": {name: str(folder / f"{name}.jsonl") for name in sets},
        "base_models": [str(BASE_MODEL)],
        "sft": str(RECIPES / "sft.yaml"),
        "sft_all": str(RECIPES / "sft-all.yaml"),
        "methods": ["sft", "sft-all", *map(str, methods)],
        "baseline": "grpo",
        "evaluation": yaml.safe_load((RECIPES / "compare.yaml").read_text())["evaluation"],
        "options": options,
    }
    recipe = folder / "compare.yaml"
    recipe.write_text(yaml.safe_dump(values, sort_keys=False))
    return recipe


def reliability(samples: Sequence[str]) -> Iterator[str]:
    """Lines: computations made one, how many there are, the share that is right."""
    right = defaultdict[int, list[bool]](list)
    for file in samples:
        for row in pyarrow.parquet.read_table(file).to_pylist():
            if is_expert_dialect(row["completion"]) and "\n" in row["completion"]:
                for term, value in equalities(work_in(row["completion"])):
                    right[computations_in(term)].append(is_true(term, value))
    for number, found in sorted(right.items()):
        yield f"{number} in one: {len(found)}, of which right {sum(found) / len(found):.3f}"
    every = [each for found in right.values() for each in found]
    yield f"all: {len(every)}, of which right {sum(every) / len(every):.3f}"


def table(settings: Mapping[str, Sequence[CellResult]]) -> Iterator[str]:
    """Markdown: a row for each setting, test scores in %, the mean over seeds and each of them."""
    names = ("sft", *COMPARED)
    yield f"| eagerness | {' | '.join(f'`{name}`' for name in names)} |"
    yield f"|---|{'---:|' * len(names)}"
    for setting, rows in settings.items():
        scores = {name: [100 * r["sets"]["test"]["score"] for r in rows if r["method"] == name] for name in names}
        cells = [mean_and_each(sorted(found)) for found in scores.values()]
        yield f"| {setting} | {' | '.join(cells)} |"


def results(folder: Path) -> dict[str, list[CellResult]]:
    """Of each setting its cells; of the mini-world itself those of the same seeds on the same base model."""
    others = {
        eagerness: read_results(folder / f"miniworld-v2-eagerness-{eagerness}.jsonl") for eagerness in ("0.5", "0.0")
    }
    shipped = [
        row
        for row in read_results(folder / "miniworld-v2-methods.jsonl")
        if row["base"] == BASE_MODEL.name and row["seed"] in (None, 1, 2)
    ]
    return {"1": shipped, "0.5": others["0.5"], "0": others["0.0"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    writing = parts.add_parser("write")
    writing.add_argument("folder", type=Path)
    writing.add_argument("--eagerness", type=float, required=True, help="from 0 to 1")
    parts.add_parser("table").add_argument("folder", type=Path)
    parts.add_parser("reliability").add_argument("samples", nargs="+")
    options = parser.parse_args()
    if options.part == "table":
        print("\n".join(table(results(options.folder))))
    elif options.part == "reliability":
        print("\n".join(reliability(options.samples)))
    else:
        options.folder.mkdir(parents=True, exist_ok=True)
        recipe = write(options.folder.resolve(), options.eagerness)
        print(f"sgpo compare --recipe {recipe} --seeds 1 2 --output {options.folder}/comparison")


if __name__ == "__main__":
    main()
