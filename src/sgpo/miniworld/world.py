"""Writing the mini-world as a user's own data would lie there: `sgpo miniworld create`.

    base/                    the shipped base model, in the Hugging Face format
    sft.jsonl  rl.jsonl      problems with responses (for the warm-up), problems with strategies (for RL)
    dev.jsonl  test.jsonl    held-out problems of the trained families
    test_deeper.jsonl        longer chains than any trained
    test_unseen.jsonl        a family without SFT or RL problems

Held-out problems are told apart by a hash of their text (`documents.split_of`), so no seed can mix them with training
or pretraining problems. Every row has the columns family, depth, shuffled_strategy (that of another problem, a
control) and type_strategy (the rule alone, much of which the base model cannot read: docs/miniworld.md, "Problems").
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from sgpo.miniworld.documents import instance_strategy, puzzles, teacher_solution, type_strategy
from sgpo.miniworld.families import TRAINED_FAMILIES, UNSEEN_FAMILY, Puzzle
from sgpo.problems import Problem, save_problems

VERSION = 1
BASE_MODEL = Path(__file__).parent / "base"
DEPTHS, DEEPER_DEPTHS = (3, 4, 5), (6,)
EVALUATION_SPLITS = ("dev", "test", "test_deeper", "test_unseen")


@dataclass(frozen=True)
class Sizes:
    """How many problems each set has."""

    sft: int = 400
    rl: int = 800
    dev: int = 240
    test: int = 600
    test_deeper: int = 300
    test_unseen: int = 300


def create_world(output_dir: str | Path, *, seed: int = 0, sizes: Sizes | None = None, base: Path = BASE_MODEL) -> Path:
    """Write the base model and the problem sets; returns the folder. The same seed gives the same problems."""
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    shutil.copytree(base, output / "base", dirs_exist_ok=True)
    for name, problems in problem_sets(seed, sizes or Sizes()).items():
        save_problems(problems, output / f"{name}.jsonl")
    return output


def problem_sets(seed: int, sizes: Sizes) -> dict[str, list[Problem]]:
    """The six sets of the module's docstring. SFT and RL problems are disjoint: they come from one stream."""
    training = _take("train", seed, sizes.sft + sizes.rl)
    sets = {
        "sft": training[: sizes.sft],
        "rl": training[sizes.sft :],
        "dev": _take("dev", seed, sizes.dev),
        "test": _take("test", seed, sizes.test),
        "test_deeper": _take("test", seed, sizes.test_deeper, depths=DEEPER_DEPTHS),
        "test_unseen": _take("test", seed, sizes.test_unseen, families=(UNSEEN_FAMILY,)),
    }
    return {name: _with_shuffled_strategies(problems, seed) for name, problems in sets.items()}


def evaluation_sets() -> dict[str, Callable[[], list[Problem]]]:
    """The sets of seed 0 that `sgpo eval --benchmarks` knows by name, such as ``miniworld/test``."""
    return {f"miniworld/{split}": partial(_evaluation_set, split) for split in EVALUATION_SPLITS}


def _evaluation_set(split: str) -> list[Problem]:
    return problem_sets(0, Sizes())[split]


def _take(
    split: str,
    seed: int,
    count: int,
    families: Sequence[str] = TRAINED_FAMILIES,
    depths: Sequence[int] = DEPTHS,
) -> list[Problem]:
    stream = puzzles(f"{split} {seed} {depths}", split, families, depths)
    return [_problem(puzzle, f"{split}-{seed}-{number}") for number, puzzle in enumerate(islice(stream, count))]


def _problem(puzzle: Puzzle, identifier: str) -> Problem:
    solution = teacher_solution(puzzle)
    return Problem(
        id=identifier,
        prompt=puzzle.text,
        answer=solution.answer,
        response=solution.text,
        strategy=instance_strategy(puzzle, solution.methods),
        extra={
            "family": puzzle.family,
            "depth": len(solution.methods),
            "type_strategy": type_strategy(puzzle),
        },
    )


def _with_shuffled_strategies(problems: list[Problem], seed: int) -> list[Problem]:
    strategies = [problem.strategy for problem in problems]
    random.Random(seed).shuffle(strategies)
    return [
        replace(problem, extra={**problem.extra, "shuffled_strategy": strategy})
        for problem, strategy in zip(problems, strategies, strict=True)
    ]
