"""Answers to the same problems before and after training, from what `sgpo eval --output` wrote into several folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgpo.reports.page import script_json
from sgpo.reports.run_completions import cut

GREEDY = ".greedy"  # at the end of a file's name
ANSWERS_BUDGET = 1_000_000  # bytes of JSON of all texts of a page
ANSWERS_RULE = (
    "Shown is the first sample of each problem. Problems whose share of correct samples changed most between the first "
    f"and the last evaluation come first, until the texts fill {ANSWERS_BUDGET / 1e6:.0f} MB."
)
COLUMNS_OF_SAMPLES = ("id", "prompt", "answer", "completion", "correct", "truncated", "length")


@dataclass
class AnsweredProblem:
    """A problem of an evaluation, with the row of its first sample. Example: ``AnsweredProblem({...}, [True])``"""

    first: Mapping[str, Any]
    outcomes: list[bool]

    @property
    def share(self) -> float:
        return sum(self.outcomes) / len(self.outcomes)


def read_answers(folder: Path) -> dict[tuple[str, str], AnsweredProblem]:
    """By the name of the set and of the problem; greedy answers count only where there are no sampled ones.

    Raises ValueError for samples that cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: dict[tuple[str, str], AnsweredProblem] = {}
    paths = set(folder.glob("samples/*.parquet"))
    greedy = {path for path in paths if path.stem.endswith(GREEDY)}
    sampled = {path for path in greedy if path.with_stem(path.stem.removesuffix(GREEDY)) in paths}
    for path in sorted(paths - sampled):
        try:
            rows = pq.read_table(path, columns=list(COLUMNS_OF_SAMPLES)).to_pylist()
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise ValueError(f"{path} holds no samples of sgpo eval: {error}; evaluate again") from error
        for row in rows:
            found.setdefault((path.stem, row["id"]), AnsweredProblem(row, [])).outcomes.append(bool(row["correct"]))
    return found


def compared_answers(folders: Sequence[Path], budget: int = ANSWERS_BUDGET) -> tuple[list[dict[str, Any]], int]:
    """What `ANSWERS_RULE` keeps of the problems that all evaluations have, and the number of these problems.

    Args:
        folders: of at least two evaluations; the first is before, the last after.
        budget: bytes of the JSON of all that is kept.
    """
    answers = [read_answers(folder) for folder in folders]
    common = [key for key in answers[0] if all(key in other for other in answers[1:])]

    def change(key: tuple[str, str]) -> float:
        return answers[-1][key].share - answers[0][key].share

    kept, size = [], 0
    for key in sorted(common, key=lambda key: -abs(change(key))):
        data = _problem_of(key, [each[key] for each in answers])
        size += len(script_json(data)) + 1
        if size > budget:
            break
        kept.append(data)
    return kept, len(common)


def _problem_of(key: tuple[str, str], answered: Sequence[AnsweredProblem]) -> dict[str, Any]:
    row = answered[0].first
    return {
        "set": cut(key[0]),
        "id": cut(key[1]),
        "prompt": cut(row["prompt"] or ""),
        "answer": cut(row["answer"] or ""),
        "answers": [
            {
                "share": each.share,
                "text": cut(each.first["completion"] or ""),
                "correct": bool(each.first["correct"]),
                "truncated": bool(each.first["truncated"]),
                "tokens": each.first["length"],
            }
            for each in answered
        ],
    }
