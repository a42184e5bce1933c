"""The answers that are taken apart: a given text, the strong model's, the model's own, or completions of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sgpo.problems import Problem
from sgpo.reports.run_folder import read_mapping
from sgpo.runs.folder import completions_in

GROUPS = ("target", "guided", "autonomous", "all")
NEEDED = ("problem", "prompt", "answer", "strategy", "group", "completion_ids", "target")


@dataclass(frozen=True)
class ChosenAnswer:
    """An answer before anything is measured of it.

    Example: ``ChosenAnswer(problem, [12, 4, 2], "17", ["guided", "correct"])``
    """

    problem: Problem  # with a strategy
    ids: list[int]
    label: str
    facts: list[str]


def chosen_problems(problems: Sequence[Problem], ids: Sequence[str], limit: int, strategy: str | None) -> list[Problem]:
    """Those of these ids, or the first ones; each with a strategy, its own or the given one.

    Raises:
        ValueError: an id that no problem has, or a problem without a strategy.
    """
    by_id = {problem.id: problem for problem in problems}
    if missing := [each for each in ids if each not in by_id]:
        raise ValueError(f"there is no problem with the id {', '.join(missing)}; the first ids are {_first(by_id)}")
    chosen = [by_id[each] for each in ids] or list(problems)[:limit]
    if strategy is not None:
        chosen = [replace(problem, strategy=strategy) for problem in chosen]
    if lacking := [problem.id for problem in chosen if not problem.strategy]:
        raise ValueError(f"problem {', '.join(lacking[:5])} has no strategy; give one with --strategy, or other ids")
    return chosen


def _first(ids: Any) -> str:
    return ", ".join(map(str, list(ids)[:5]))


# ---------------------------------------------------------------------- of a run


@dataclass(frozen=True)
class RunOptions:
    """What config.yaml of a run says that an inspection has to know."""

    model: str
    delta: float | None
    system_prompt: str | None
    chat_template_kwargs: dict[str, Any]


def options_of_run(folder: Path) -> RunOptions:
    """Raises FileNotFoundError for a folder without config.yaml, ValueError for one of something else."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: --run takes the folder of a run of sgpo train")
    values = read_mapping(path)
    if not isinstance(values.get("model"), str):
        raise ValueError(f"{path} names no model; give it with --model and --problems in place of --run")
    method = values.get("method_options") or {}
    delta = method.get("delta", values.get("delta"))
    kwargs = values.get("chat_template_kwargs") or {}
    return RunOptions(values["model"], delta, values.get("system_prompt"), kwargs)


def completions_file(folder: Path, step: int | None) -> Path:
    """The completions that a run sampled after some updates, by default the newest ones.

    Raises:
        FileNotFoundError: the run kept none, or none of this step.
    """
    files = completions_in(folder)
    if not files:
        raise FileNotFoundError(
            f"{folder} has no completions; train with completions_steps N, which keeps those of every N updates"
        )
    if step is None:
        return files[max(files)]
    if step not in files:
        raise FileNotFoundError(f"{folder} has no completions of step {step}; there are {_first(files)}")
    return files[step]


def read_completions(
    path: Path, *, group: str = "target", ids: Sequence[str] = (), limit: int = 8
) -> list[ChosenAnswer]:
    """Completions of problems with a strategy, in the order of the file.

    Args:
        group: "target" (what was distilled), "guided", "autonomous" or "all".
        ids: of problems; default: all.
        limit: how many at most.

    Raises:
        ValueError: another group, a file of an earlier version, or no such completion.
    """
    import pyarrow.parquet as pq

    if group not in GROUPS:
        raise ValueError(f"group is {group!r}; choose one of {', '.join(GROUPS)}")
    table = pq.read_table(path)
    if lacking := [name for name in NEEDED if name not in table.column_names]:
        raise ValueError(f"{path} has no column {', '.join(lacking)}: it was written by an earlier version of sgpo")
    known = [row for row in table.to_pylist() if row["strategy"] and row["completion_ids"]]
    known = [row for row in known if not ids or row["problem"] in ids]
    rows = [row for row in known if group == "all" or (row["target"] if group == "target" else row["group"] == group)]
    if not rows:
        of, what = f" of {', '.join(ids)}" if ids else "", "target" if group == "target" else f"{group} completion"
        others = ", ".join(dict.fromkeys(row["group"] for row in known))
        way = f"there are some of --group {others}" if others else "no problem there has a strategy"
        raise ValueError(f"{path} has no {what}{of} with a strategy; {way}")
    return [answer_of_row(row, f" {number}") for number, row in enumerate(rows[:limit], start=1)]


def answer_of_row(row: Mapping[str, Any], number: str = "") -> ChosenAnswer:
    """A row of a table of completions, as `sgpo.training.completions_table` makes it."""
    problem = Problem(row["problem"], row["prompt"], row["answer"], strategy=row["strategy"])
    facts = [f"{row['group']} completion after {row['step']} updates"]
    if row["target"]:
        facts.append("target" if row["alpha"] is None else f"target, α = {row['alpha']:.2f}")
    facts += ["correct" if row["correct"] else "wrong", f"reward {row['reward']:g}", f"reference {row['answer']}"]
    if row["truncated"]:
        facts.append("cut at the length limit")
    return ChosenAnswer(problem, list(row["completion_ids"]), f"{row['problem']}: {row['group']}{number}", facts)
