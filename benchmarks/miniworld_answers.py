"""What is right and wrong in the answers of a comparison on the mini-world, method by method.

    python benchmarks/miniworld_answers.py runs/comparison [--set test] [--output answers.json]

Of every answer in the cells' samples: whether it is correct; whether all its decisions are right, that is, each names
a valid option and they lead to the end; whether all its computations are true; whether it is in the expert's dialect;
and how many computations it makes one. Of every problem with several answers whose decisions are right: how many
sequences of decisions they are, of how many answers. Means over problems, cells and seeds, with the standard deviation
over cells. Composed problems are left out: two families decide in them.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pyarrow.parquet
from common import write_report
from miniworld_measures import computations_in, decisions_of, puzzle_of, work_in

from sgpo.miniworld.families.arithmetic import equalities, valid_computations
from sgpo.miniworld.families.puzzles import right_decisions
from sgpo.miniworld.solutions import is_expert_dialect
from sgpo.problems import Problem, load_problems


@dataclass(frozen=True)
class Answer:
    """One answer taken apart."""

    problem: str
    correct: bool
    decisions: tuple[str, ...]
    decides_right: bool
    computes_right: bool
    is_expert: bool
    fused: int  # computations that were made one with another


def taken_apart(problem: Problem, completion: str, correct: bool) -> Answer:
    """Raises ValueError for a composed problem, or one that is not of the mini-world."""
    start = puzzle_of(problem).start
    work = work_in(completion)
    decisions = decisions_of(completion)
    operators = [computations_in(term) for term, _ in equalities(work)]
    return Answer(
        problem.id,
        correct,
        decisions,
        right_decisions(start, decisions)[1],
        valid_computations(work),
        is_expert_dialect(completion),
        sum(number - 1 for number in operators),
    )


def answers_in(samples: Path, problems: Sequence[Problem]) -> Iterator[Answer]:
    known = {problem.id: problem for problem in problems}
    for row in pyarrow.parquet.read_table(samples).to_pylist():
        yield taken_apart(known[row["id"]], row["completion"], row["correct"])


def measures(answers: Iterable[Answer]) -> dict[str, float]:
    """Shares of answers; those of sequences are over problems with two or more answers that decide rightly."""
    some, routes = list(answers), defaultdict[str, list[tuple[str, ...]]](list)
    for answer in some:
        if answer.decides_right:
            routes[answer.problem].append(answer.decisions)
    several = [ways for ways in routes.values() if len(ways) > 1]
    return {
        "correct": fmean(a.correct for a in some),
        "decisions right": fmean(a.decides_right for a in some),
        "computations right": fmean(a.computes_right for a in some),
        "expert's dialect": fmean(a.is_expert for a in some),
        "fused an answer": fmean(a.fused for a in some),
        "sequences": fmean(len(set(ways)) for ways in several) if several else 1.0,
        "answers with right decisions": fmean(map(len, several)) if several else 0.0,
    }


def table(found: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    """Markdown, a row for each method."""
    names = list(next(iter(found.values()))[0])
    yield f"| method | cells | {' | '.join(names)} |"
    yield f"|---|---:|{'---:|' * len(names)}"
    for method, cells in found.items():
        yield f"| {method} | {len(cells)} | {' | '.join(_spread([cell[name] for cell in cells]) for name in names)} |"


def _spread(values: list[float]) -> str:
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--set", default="test")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    problems = load_problems(str(options.comparison / "world" / f"{options.set}.jsonl"))
    found = defaultdict[str, list[dict[str, float]]](list)
    for samples in sorted(options.comparison.glob(f"cells/**/evaluation/samples/{options.set}.parquet")):
        cell = samples.parents[2]
        found[cell.name].append(measures(answers_in(samples, problems)))
    if not found:
        parser.error(f"{options.comparison} has no finished cell with the set {options.set}")
    print("\n".join(table(found)))
    report: dict[str, Any] = {"set": options.set, "methods": found}
    write_report(options.output, report)


if __name__ == "__main__":
    main()
