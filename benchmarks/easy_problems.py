"""Word problems of one or two small steps, for a model that solves none of GSM8K: docs/results-real.md.

    python benchmarks/easy_problems.py runs/easy [--sft 320] [--rl 400] [--eval 100] [--seed 0]

Writes sft.jsonl, rl.jsonl and eval.jsonl. Each problem has its answer, a response and a strategy, which is that of its
kind and names no number. No problem is in two files.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping
from pathlib import Path

from sgpo.problems import Problem, save_problems

NAMES = ("Anna", "Ben", "Carla", "David", "Ella", "Finn", "Grace", "Hugo", "Iris", "Jonas", "Kira", "Leo")
THINGS = ("apples", "pens", "books", "stickers", "marbles", "cookies", "shells", "cards")
KINDS = {
    "sum": (
        "{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?",
        "{a} + {b} = {sum}",
        ("Adding to an amount", "What comes in is added to what was there.", "Add both amounts."),
    ),
    "difference": (
        "{name} has {sum} {things} and gives {b} of them to a friend. How many {things} are left?",
        "{sum} - {b} = {a}",
        ("Taking from an amount", "What goes out is subtracted.", "Subtract what was given from the amount."),
    ),
    "product": (
        "A box holds {a} {things}. {name} has {c} boxes. How many {things} does {name} have?",
        "{a} * {c} = {product}",
        ("Equal groups", "Equal groups are multiplied.", "Multiply the content of one group by the number of groups."),
    ),
    "groups and more": (
        "A box holds {a} {things}. {name} has {c} boxes and {b} more {things}. How many {things} does {name} have?",
        "{a} * {c} = {product}. {product} + {b} = {all}",
        (
            "Equal groups and a rest",
            "First the groups, then the rest.",
            "Multiply the groups. (b) Add the rest.",
        ),
    ),
    "in and out": (
        "{name} has {a} {things}, buys {all} more, and loses {c}. How many {things} does {name} have now?",
        "{a} + {all} = {both}. {both} - {c} = {kept}",
        ("Changes one after another", "Follow the changes in order.", "Add what came in. (b) Subtract what went out."),
    ),
}


def problem(name: str, generator: random.Random) -> Problem:
    kind = generator.choice(list(KINDS))
    a, b, c = generator.randint(2, 20), generator.randint(2, 20), generator.randint(2, 6)
    values: dict[str, int | str] = {"a": a, "b": b, "c": c, "sum": a + b, "product": a * c, "all": a * c + b}
    values |= {"both": a + a * c + b, "kept": a + a * c + b - c}
    values |= {"name": generator.choice(NAMES), "things": generator.choice(THINGS)}
    text, work, (title, principle, steps) = KINDS[kind]
    solution = work.format(**values)
    answer = solution.rsplit(" ", 1)[1]
    return Problem(
        id=name,
        prompt=text.format(**values),
        answer=answer,
        response=f"{solution}.\n\nThe answer is \\boxed{{{answer}}}.",
        strategy=f"Problem type: {title}\nStrategy: {principle}\nSteps: (a) {steps}",
        extra={"kind": kind},
    )


def problem_sets(sizes: Mapping[str, int], generator: random.Random) -> dict[str, list[Problem]]:
    """Sets of those sizes, by name; a problem that is already in one is left out."""
    found: dict[str, list[Problem]] = {}
    seen = set()
    for name, size in sizes.items():
        found[name] = []
        while len(found[name]) < size:
            one = problem(f"{name}-{len(found[name])}", generator)
            if one.prompt not in seen:
                seen.add(one.prompt)
                found[name].append(one)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, count in {"sft": 320, "rl": 400, "eval": 100, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    options = parser.parse_args()
    sizes = {name: getattr(options, name) for name in ("sft", "rl", "eval")}
    for name, problems in problem_sets(sizes, random.Random(options.seed)).items():
        save_problems(problems, options.folder / f"{name}.jsonl")


if __name__ == "__main__":
    main()
