"""Outcomes as a data set: Parquet or JSONL, which `datasets` loads and `sgpo train` takes as it is.

The column ``strategy`` holds the whole text, since that is what `load_problems` reads as a problem's strategy; the part
of a strategy that has the same name in `Strategy` is the column ``principle``. Problems without a strategy stay in the
file: training gives them autonomous samples only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgpo.files import check_file_writable, replacing
from sgpo.problems.loading import response_column
from sgpo.strategies.extract import Candidate, Outcome

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".jsonl")


def strategy_rows(outcomes: Sequence[Outcome], models: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row a problem. ``models`` are the columns that are the same in all rows: model, judge_model, versions."""
    responses = response_column([outcome.problem for outcome in outcomes])
    return [
        {**_own_columns(outcome), "response": response, **models, **_further_columns(outcome, models)}
        for outcome, response in zip(outcomes, responses, strict=True)
    ]


def _own_columns(outcome: Outcome) -> dict[str, Any]:
    problem, strategy = outcome.problem, outcome.strategy
    return {
        "id": problem.id,
        "prompt": problem.prompt,
        "answer": problem.answer,
        "response": problem.response,
        "strategy": strategy.text if strategy else None,
        "text": strategy.text if strategy else None,
        "problem_type": strategy.problem_type if strategy else None,
        "principle": strategy.strategy if strategy else None,
        "steps": list(strategy.steps) if strategy else None,
        "score": outcome.score,
        "status": outcome.status,
        "reason": outcome.reason,
        "detail": outcome.detail,
        "candidates": [_candidate_row(candidate) for candidate in outcome.candidates],
    }


def _candidate_row(candidate: Candidate) -> dict[str, Any]:
    return {
        "text": candidate.strategy.text if candidate.strategy else candidate.text,
        "score": candidate.score,
        "flags": list(candidate.flags),
        "repaired": candidate.repaired,
    }


def _further_columns(outcome: Outcome, models: Mapping[str, str]) -> dict[str, Any]:
    """The input's other columns; those of an earlier extraction have been replaced."""
    own = {*_own_columns(outcome), *models}
    return {name: value for name, value in outcome.problem.extra.items() if name not in own}


def check_outputs(paths: Sequence[Path], source: str) -> None:
    """Raise ``ValueError`` where the results could not be written later."""
    for path in paths:
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{path}: results are written as {' or '.join(SUFFIXES)}, not {path.suffix!r}")
        if path.resolve() == Path(source).resolve():
            raise ValueError(f"{path} is the file of the problems: give the results another name")
        check_file_writable(path, "--output")


def save_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the rows; an existing file is replaced only once the new one is complete and on the disk."""
    with replacing(path) as partial:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            pq.write_table(_table(rows), partial)
        else:
            with partial.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in map(_without_surrogates, rows))


def _without_surrogates(value: Any) -> Any:
    """Halves of surrogate pairs, which models write now and then, as question marks: no file format takes them."""
    if isinstance(value, str):
        return value.encode("utf-8", errors="replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {name: _without_surrogates(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(inner) for inner in value]
    return value


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    names = list(dict.fromkeys(name for row in rows for name in row))
    clean = [_without_surrogates(row) for row in rows]
    types = _types()
    if any(isinstance(row.get("response"), list) for row in clean):
        types["response"] = pa.list_(pa.string())
    return pa.table({name: pa.array([row.get(name) for row in clean], types.get(name)) for name in names})


def _types() -> dict[str, pa.DataType]:
    """The types of our columns, also where all values are missing, so that such a file joins with others."""
    import pyarrow as pa

    texts = "id prompt answer response strategy text problem_type principle status reason detail model judge_model"
    candidate = {"text": pa.string(), "score": pa.float64(), "flags": pa.list_(pa.string()), "repaired": pa.bool_()}
    return {
        **dict.fromkeys([*texts.split(), "prompt_version", "reasoning"], pa.string()),
        "steps": pa.list_(pa.string()),
        "score": pa.float64(),
        "attempts": pa.int64(),
        "candidates": pa.list_(pa.struct(list(candidate.items()))),
    }
