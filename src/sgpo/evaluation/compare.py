"""Two evaluations of the same problems, compared problem by problem: sgpo eval compare A B.

The difference is that of the rates of each problem, B minus A, so what makes a problem hard for both cancels out. A
problem flipped if it is solved more often than not in one of the two and less often than not in the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sgpo.evaluation.output import SAMPLES, SUMMARY, flat
from sgpo.evaluation.report import console_for_tables
from sgpo.evaluation.statistics import Difference, difference_of_averages, paired_difference

RatesAndPrompts = dict[str, tuple[float, str]]  # by id
# What is expected to differ, or is shown elsewhere.
NOT_SETTINGS = ("engine.model", "engine.revision", "engine.base_url", "sampling.seed")


@dataclass(frozen=True)
class Flip:
    """A problem that one of the two solves more often than not, and the other less often."""

    id: str
    prompt: str
    first: float  # rate
    second: float


@dataclass(frozen=True)
class SetComparison:
    """Both evaluations of one set."""

    name: str
    averages: tuple[float, float]
    difference: Difference
    gained: list[Flip]  # solved by the second only, the largest change first
    lost: list[Flip]
    problems: tuple[int, int]  # of each; more than were compared where a guided one has left some out


@dataclass(frozen=True)
class Comparison:
    """Of two output folders."""

    names: tuple[str, str]
    models: tuple[str, str]
    sets: list[SetComparison]
    average: Difference | None  # over several sets
    settings: list[tuple[str, Any, Any]] = field(default_factory=list)  # that differ: name, first, second
    unshared: list[str] = field(default_factory=list)  # sets of one of the two


def compare_evaluations(first: str | Path, second: str | Path, *, seed: int = 0) -> Comparison:
    """Compare the sets that both evaluations have.

    Raises:
        ValueError: a folder without a complete evaluation, no set in common, or other problems under the same name.
    """
    summaries = (_summary(Path(first)), _summary(Path(second)))
    ours, theirs = (summary["benchmarks"] for summary in summaries)
    shared = [name for name in ours if name in theirs]
    if not shared:
        raise ValueError(f"{first} and {second} share no benchmark: {', '.join(ours)} there, {', '.join(theirs)} here")
    rows = {}
    for name in shared:
        if not _fingerprints(ours[name]) & _fingerprints(theirs[name]):
            raise ValueError(
                f"{name} is not the same set of problems in both: {ours[name]['problems']} problems with fingerprint "
                f"{ours[name]['fingerprint']} in {first}, {theirs[name]['problems']} with "
                f"{theirs[name]['fingerprint']} in {second}; evaluate both on the same data"
            )
        rows[name] = _in_both(_rates_and_prompts(Path(first), name), _rates_and_prompts(Path(second), name), name)
    pairs = [tuple({id: rate for id, (rate, _) in side.items()} for side in rows[name]) for name in shared]
    return Comparison(
        (str(first), str(second)),
        (summaries[0]["engine"]["model"], summaries[1]["engine"]["model"]),
        [_set(name, *rows[name], (ours[name]["problems"], theirs[name]["problems"]), seed) for name in shared],
        difference_of_averages(pairs, seed=seed) if len(shared) > 1 else None,  # type: ignore[arg-type]
        _differing(*summaries, shared),
        sorted(set(ours) ^ set(theirs)),
    )


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / SUMMARY
    if not path.is_file():
        raise ValueError(f"{folder} holds no complete evaluation ({SUMMARY}): give the --output of sgpo eval")
    summary = json.loads(path.read_text(encoding="utf-8"))
    if "benchmarks" not in summary:
        raise ValueError(f"{path} is not a summary of sgpo eval: it names no benchmarks")
    return summary


def pass_rates(folder: Path, name: str) -> dict[str, float]:
    """Share of correct answers to each problem, by its id. Raises ValueError for a folder without the set's samples."""
    return {id: rate for id, (rate, _) in _rates_and_prompts(folder, name).items()}


def _rates_and_prompts(folder: Path, name: str) -> RatesAndPrompts:
    import pyarrow.parquet as pq

    path = folder / SAMPLES / f"{name}.parquet"
    if not path.is_file():
        raise ValueError(f"{path} is not there: evaluate again")
    correct: dict[str, list[bool]] = {}
    prompts: dict[str, str] = {}
    if "correct" not in pq.read_schema(path).names:
        raise ValueError(f"{path} does not say which answers are correct: it was written before that, evaluate again")
    for row in pq.read_table(path, columns=["id", "prompt", "correct"]).to_pylist():
        correct.setdefault(row["id"], []).append(row["correct"])
        prompts[row["id"]] = row["prompt"]
    return {id: (sum(values) / len(values), prompts[id]) for id, values in correct.items()}


def _fingerprints(numbers: Mapping[str, Any]) -> set[str]:
    """Of the problems that were evaluated, and of all, where a guided evaluation took those with a strategy."""
    return {numbers["fingerprint"], numbers.get("of", numbers)["fingerprint"]}


def _in_both(first: RatesAndPrompts, second: RatesAndPrompts, name: str) -> tuple[RatesAndPrompts, RatesAndPrompts]:
    """The problems that both have, in the order of the first."""
    shared = [id for id in first if id in second]
    if not shared:
        raise ValueError(f"the two evaluations of {name} have no problem in common")
    return {id: first[id] for id in shared}, {id: second[id] for id in shared}


def _set(
    name: str, first: RatesAndPrompts, second: RatesAndPrompts, problems: tuple[int, int], seed: int
) -> SetComparison:
    rates = [{id: rate for id, (rate, _) in side.items()} for side in (first, second)]
    flips = [
        Flip(id, prompt, before, second[id][0])
        for id, (before, prompt) in first.items()
        if (before - 0.5) * (second[id][0] - 0.5) < 0
    ]
    flips.sort(key=lambda flip: -abs(flip.second - flip.first))
    averages = [sum(side.values()) / len(side) for side in rates]
    return SetComparison(
        name,
        (averages[0], averages[1]),
        paired_difference(rates[0], rates[1], seed=seed),
        gained=[flip for flip in flips if flip.second > flip.first],
        lost=[flip for flip in flips if flip.second < flip.first],
        problems=problems,
    )


def _differing(first: Mapping[str, Any], second: Mapping[str, Any], shared: list[str]) -> list[tuple[str, Any, Any]]:
    """The settings, beside the model, that are not the same."""
    sides = []
    for summary in (first, second):
        values = flat({name: summary[name] for name in ("engine", "prompt", "sampling", "versions")})
        for name in shared:
            for key in ("k", "max_completion_length"):
                values[f"{name}.{key}"] = summary["benchmarks"][name][key]
        sides.append(values)
    names = [name for name in sorted(sides[0].keys() | sides[1].keys()) if name not in NOT_SETTINGS]
    return [(n, sides[0].get(n), sides[1].get(n)) for n in names if sides[0].get(n) != sides[1].get(n)]


# ---------------------------------------------------------------------- what is printed


def print_comparison(comparison: Comparison, *, listed: int = 10) -> None:
    console = console_for_tables()
    for letter, name, model in zip("AB", comparison.names, comparison.models, strict=True):
        console.print(f"{letter}: {name} ({model})", markup=False)
    console.print(_table(comparison))
    console.print("95% interval: bootstrap over problems; it says nothing about other training seeds.", style="dim")
    for name, before, after in comparison.settings:
        console.print(f"WARNING: {name} differs: {before!r} in A, {after!r} in B", style="bold yellow", markup=False)
    if comparison.unshared:
        console.print(f"In one of the two only, so not compared: {', '.join(comparison.unshared)}.")
    for each in comparison.sets:
        if max(each.problems) > each.difference.problems:
            console.print(
                f"{each.name}: compared on {each.difference.problems} problems, those that both have; A has "
                f"{each.problems[0]}, B has {each.problems[1]}.",
                markup=False,
            )
    for each in comparison.sets:
        _print_flips(console, each, listed)


def _table(comparison: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("benchmark", overflow="fold")
    for name in ("N", "A", "B", "B - A", "95% interval", "gained", "lost"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in comparison.sets:
        scores = (f"{100 * average:.1f}" for average in each.averages)
        counts = (str(len(each.gained)), str(len(each.lost)))
        table.add_row(each.name, str(each.difference.problems), *scores, *_points(each.difference), *counts)
    if comparison.average is not None:
        means = [sum(each.averages[side] for each in comparison.sets) / len(comparison.sets) for side in (0, 1)]
        table.add_section()
        table.add_row("average", "", *(f"{100 * mean:.1f}" for mean in means), *_points(comparison.average), "", "")
    return table


def _points(difference: Difference) -> tuple[str, str]:
    low, high = difference.interval
    error = 100 * difference.standard_error
    return f"{100 * difference.mean:+.1f} ± {error:.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}"


def _print_flips(console: Console, each: SetComparison, listed: int) -> None:
    for title, flips in (("gained", each.gained), ("lost", each.lost)):
        if flips:
            shown = f", the first {listed}" if len(flips) > listed else ""
            console.print(f"\n{each.name}, {title} ({len(flips)}{shown}): rate in A > rate in B", style="bold")
        for flip in flips[:listed]:
            text = " ".join(flip.prompt.split())
            text = text if len(text) <= 80 else text[:77] + "..."
            console.print(f"  {flip.first:.2f} > {flip.second:.2f}  {flip.id}  {text}", markup=False)
