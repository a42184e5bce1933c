"""What was sampled in a run, read from its tables of completions: which problems guidance unlocked, and texts to read.

All problems of all tables are counted. Texts are kept by a rule (`RULE`), so that a page of a long run stays small.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from sgpo.reports.page import script_json, shown_text
from sgpo.reports.run_folder import NORMAL_95

BUDGET = 3_000_000  # bytes of JSON of all texts of a page
LONGEST, HEAD = 4_000, 3_000  # characters of a text; of a longer one, those kept from its beginning
RULE = (
    "The first and the last table come first, then the others, one problem of each in turn: unlocked ones, then by "
    "p_guide - p_auto. Of each group the targets, and the first correct and the first wrong completion are kept, of "
    f"texts above {LONGEST} characters the first {HEAD} and the last {LONGEST - HEAD}, until the texts fill "
    f"{BUDGET / 1e6:.0f} MB."
)
TYPE = re.compile(r"^\s*Problem type:\s*(.+)$", re.MULTILINE)
COLUMNS = (
    *("step", "problem", "prompt", "answer", "strategy", "group", "completion"),
    *("tokens", "correct", "truncated", "target", "alpha", "reason"),
)


@dataclass
class SampledProblem:
    """A problem of a rollout batch. Example: ``SampledProblem(0, 50, {"problem": "rl-7", ...}, {"autonomous": [...]})``

    `row` has the columns of the problem, `groups` the rows of its completions, whose `completion` is cut.
    """

    run: int
    step: int
    row: Mapping[str, Any]
    groups: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def pass_rate(self, group: str) -> float | None:
        """None for a problem without such a group."""
        rows = self.groups.get(group)
        return fmean(bool(row["correct"]) for row in rows) if rows else None

    @property
    def gain(self) -> float | None:
        """p_guide - p_auto; None for a problem that was not sampled both ways."""
        alone, guided = self.pass_rate("autonomous"), self.pass_rate("guided")
        return None if alone is None or guided is None else guided - alone

    @property
    def is_unlocked(self) -> bool:
        """Never correct alone, and at least once with the strategy."""
        return self.pass_rate("autonomous") == 0 and (self.pass_rate("guided") or 0) > 0

    @property
    def problem_type(self) -> str:
        found = TYPE.search(self.row.get("strategy") or "")
        return found[1].strip() if found else ""


def read_sampled(path: Path, run: int) -> list[SampledProblem]:
    """The problems of a table. Raises ValueError for a file that is no table of completions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        known = set(pq.read_schema(path).names)
        if not {"step", "problem", "group", "completion", "correct"} <= known:
            raise ValueError("it lacks columns")
        rows = pq.read_table(path, columns=[name for name in COLUMNS if name in known]).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path} is no table of completions: {error}; delete it, or name another run") from error
    found: dict[str, SampledProblem] = {}
    for row in rows:
        row["completion"] = cut(row["completion"] or "")
        problem = found.setdefault(row["problem"], SampledProblem(run, row["step"], row))
        problem.groups.setdefault(row["group"], []).append(row)
    return list(found.values())


def cut(text: str) -> str:
    """The text with invisible characters made visible; without its middle if it is longer than `LONGEST`."""
    if len(text) > LONGEST:
        left_out = len(text) - LONGEST
        text = f"{text[:HEAD]}\n[… {left_out:,} characters left out …]\n{text[HEAD - LONGEST :]}"
    return shown_text(text)


def problem_data(problem: SampledProblem) -> dict[str, Any]:
    """What a page shows of a problem: its texts, pass rates, and the completions that the rule keeps."""
    row = problem.row
    return {
        "run": problem.run,
        "step": problem.step,
        "id": cut(str(row["problem"])),
        "prompt": cut(row.get("prompt") or ""),
        "answer": cut(row.get("answer") or ""),
        "strategy": cut(row.get("strategy") or ""),
        "type": cut(problem.problem_type),
        "auto": problem.pass_rate("autonomous"),
        "guided": problem.pass_rate("guided"),
        "gain": problem.gain,
        "unlocked": problem.is_unlocked,
        "reason": cut(row.get("reason") or ""),
        "completions": [_completion_data(name, each) for name, rows in problem.groups.items() for each in _kept(rows)],
    }


def _kept(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    chosen = [row for row in rows if row.get("target")]
    for correct in (True, False):
        if not any(bool(row["correct"]) is correct for row in chosen):
            chosen += [row for row in rows if bool(row["correct"]) is correct][:1]
    return [row for row in rows if any(row is one for one in chosen)]


def _completion_data(group: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "group": cut(group),
        "text": row["completion"],
        "correct": bool(row["correct"]),
        "truncated": bool(row.get("truncated")),
        "target": bool(row.get("target")),
        "alpha": row.get("alpha"),
        "tokens": row.get("tokens"),
    }


def kept_problems(tables: Sequence[Sequence[SampledProblem]], budget: int = BUDGET) -> list[dict[str, Any]]:
    """What `RULE` keeps of the tables of a run, in the order of their steps.

    Args:
        budget: bytes of the JSON of all that is kept.
    """
    ends = [*tables[:1], *tables[1:][-1:]]
    ordered = (
        sorted(table, key=lambda each: (not each.is_unlocked, -(each.gain if each.gain is not None else -2.0)))
        for table in [*ends, *tables[1:-1]]
    )
    kept, size = [], 0
    for problem in _in_turn(list(ordered)):
        data = problem_data(problem)
        size += len(script_json(data)) + 1
        if size > budget:
            break
        kept.append(data)
    return kept


def _in_turn(lists: Sequence[Sequence[SampledProblem]]) -> Iterator[SampledProblem]:
    for layer in itertools.zip_longest(*lists):
        yield from (each for each in layer if each is not None)


def gains_by_type(problems: Sequence[SampledProblem]) -> list[dict[str, Any]]:
    """For each type of problem the mean of p_guide - p_auto, the largest first.

    The interval (95 %, normal, over problems) is None for a single problem.
    """
    by_type: dict[str, list[SampledProblem]] = {}
    for problem in problems:
        if problem.gain is not None:
            by_type.setdefault(problem.problem_type or "no type named", []).append(problem)
    rows = [_type_row(name, some) for name, some in by_type.items()]
    return sorted(rows, key=lambda row: (-row["gain"], -row["problems"]))


def _type_row(name: str, problems: Sequence[SampledProblem]) -> dict[str, Any]:
    gains = [problem.gain or 0.0 for problem in problems]
    mean = fmean(gains)
    half = NORMAL_95 * stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else None
    return {
        "type": cut(name),
        "problems": len(problems),
        "auto": fmean(problem.pass_rate("autonomous") or 0.0 for problem in problems),
        "guided": fmean(problem.pass_rate("guided") or 0.0 for problem in problems),
        "gain": mean,
        "interval": None if half is None else [max(-1.0, mean - half), min(1.0, mean + half)],
        "unlocked": sum(problem.is_unlocked for problem in problems),
    }
