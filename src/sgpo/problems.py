"""The problem record, and problems from files, the Hub or a data set in memory.

Columns are found by their canonical names (``id``, ``prompt``, ``answer``, ``response``, ``strategy``), then
by the aliases that published data sets use (``problem`` or ``question``, ``solution``), unless ``columns``
says where a field is. All other columns travel in ``extra`` to the reward functions. Nothing is repaired or
left out in silence: the first row that is not a problem raises a ``ValueError`` with the source, the row and
what to write instead.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

FIELDS = ("id", "prompt", "answer", "response", "strategy")
REQUIRED = ("prompt", "answer")
ALIASES: Mapping[str, tuple[str, ...]] = {"prompt": ("problem", "question"), "answer": ("solution",)}
FILE_SUFFIXES = (".parquet", ".jsonl", ".json")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Problem:
    """One problem with a checkable answer.

    Example: ``Problem(id="17", prompt="Compute 1+2*3", answer="7", response="... \\\\boxed{7}",
    strategy="Problem type: ...")``
    """

    id: str
    prompt: str
    answer: str
    response: str | None = None  # a strong model's full solution
    strategy: str | None = None  # three parts: problem type, strategy, steps
    extra: Mapping[str, Any] = field(default_factory=dict)  # further columns, handed to reward functions


def load_problems(
    source: str | os.PathLike[str],
    *,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> list[Problem]:
    """Return the problems of a .parquet, .jsonl or .json (a list) file, or of a data set on the Hub.

    ``split`` chooses a split of a Hub data set; a file is one split. ``columns`` says where a field is, as
    ``{"prompt": "problem"}``. ``limit`` takes the first rows only. Rows without an ``id`` get their row
    number. Raises ``FileNotFoundError`` for a file that is not there and ``ValueError`` for rows that are not
    problems.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, or None for all rows; it is {limit}")
    path = Path(source)
    if path.suffix in FILE_SUFFIXES:
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path} with problems (looked in {Path.cwd()})")
        rows: Iterable[Row] = _read_file(path)
    elif path.is_file():
        raise ValueError(f"{path}: problems are read from {', '.join(FILE_SUFFIXES)} files, not {path.suffix!r}")
    else:
        import datasets

        rows = datasets.load_dataset(str(source), split=split)
    return _problems(list(itertools.islice(rows, limit)), str(source), columns)


def problems_from(
    data: Sequence[Problem] | datasets.Dataset | Iterable[Row], *, columns: Mapping[str, str] | None = None
) -> list[Problem]:
    """Return the problems of a list of problems, a ``datasets.Dataset`` or a list of dicts.

    ``columns`` is as in ``load_problems``. Raises ``ValueError`` for rows that are not problems.
    """
    rows = list(data)
    if rows and all(isinstance(row, Problem) for row in rows):
        for row_number, problem in enumerate(rows):
            _validate(problem, _Place("the list of problems", row_number, FIELDS))
        _refuse_duplicates(rows, "the list of problems")
        return rows
    if not all(isinstance(row, Mapping) for row in rows):
        raise ValueError("problems must be all Problem records or all dicts (rows), not a mixture or something else")
    return _problems(rows, "the data set", columns)


def columns_from_pairs(pairs: Sequence[str]) -> dict[str, str]:
    """Columns as a command line gives them, ``["answer=solution"]``. Raises ``ValueError`` for anything else."""
    columns = {}
    for pair in pairs:
        canonical, equals, name = pair.partition("=")
        if not equals:
            raise ValueError(f"columns takes canonical=name, for example answer=solution, not {pair!r}")
        columns[canonical] = name
    return columns


def problems_to_dataset(problems: Sequence[Problem]) -> datasets.Dataset:
    """Return a data set with the fields as columns, and each key of ``extra`` as one more."""
    import datasets

    table = _to_table(problems)
    return datasets.Dataset.from_dict(
        {name: table.column(name).to_pylist() for name in table.column_names},
        features=datasets.Features.from_arrow_schema(table.schema),
    )


def save_problems(problems: Sequence[Problem], path: str | os.PathLike[str]) -> None:
    """Write the problems to a .jsonl or .parquet file that ``load_problems`` reads back.

    An existing file is replaced, only once the new one is complete. Raises ``ValueError`` for other suffixes.
    """
    target = Path(path)
    if target.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"{target}: problems are saved as .jsonl or .parquet, not {target.suffix!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    if target.suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(_to_table(problems), partial)
    else:
        with partial.open("w", encoding="utf-8") as file:
            for problem in problems:
                file.write(json.dumps(_to_row(problem), ensure_ascii=False) + "\n")
    partial.replace(target)


# ---------------------------------------------------------------------------------------------- reading rows


def _read_file(path: Path) -> Iterator[Row]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _json_object(line, f"{path}, line {number}")
    else:
        rows = _parse_json(path.read_text(encoding="utf-8"), str(path))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{path}: a .json file of problems is one list of objects; use .jsonl for lines")
        yield from rows


def _json_object(text: str, where: str) -> Row:
    row = _parse_json(text, where)
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected one JSON object with the columns of a problem, not {_short(row)}")
    return row


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not valid JSON ({error})") from error


# ---------------------------------------------------------------------- rows to problems


@dataclass(frozen=True)
class _Place:
    """Where a row is, for messages: ``data.jsonl, row 3``, and the columns that the data has."""

    source: str
    row: int
    columns: Sequence[str]

    def error(self, message: str) -> ValueError:
        return ValueError(f"{self.source}, row {self.row}: {message}")

    def missing(self, name: str) -> ValueError:
        has = ", ".join(self.columns) or "none"
        return self.error(
            f"no {name}: pass columns={{{name!r}: '...'}} with the name of its column; the data has the columns {has}"
        )


def _problems(rows: Sequence[Row], source: str, columns: Mapping[str, str] | None) -> list[Problem]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        raise ValueError(f"{source} has no rows, so no problems")
    places = _find_columns(names, source, columns or {})
    problems = [_problem(row, places, _Place(source, number, names)) for number, row in enumerate(rows)]
    _refuse_duplicates(problems, source)
    return problems


def _find_columns(names: Sequence[str], source: str, columns: Mapping[str, str]) -> dict[str, str]:
    """Return the column of each field that the data has."""
    has = ", ".join(names)
    for name, column in columns.items():
        if name not in FIELDS:
            raise ValueError(f"columns={{{name!r}: {column!r}}}: the fields of a problem are {', '.join(FIELDS)}")
        if column not in names:
            raise ValueError(f"{source}: there is no column {column!r} for {name!r}; the data has the columns {has}")
    found = dict(columns)
    for name in FIELDS:
        for candidate in (name, *ALIASES.get(name, ())):
            if name not in found and candidate in names:
                found[name] = candidate
    for name in REQUIRED:
        if name not in found:
            raise _Place(source, 0, names).missing(name)
    return found


def _problem(row: Row, places: Mapping[str, str], place: _Place) -> Problem:
    values = {name: row.get(column) for name, column in places.items()}
    used = {
        *places.values(),
        *places,
    }  # a column with a field's name, while the field is elsewhere, would clash
    problem = Problem(
        id=_identifier(values.get("id"), place),
        prompt=_prompt(values["prompt"], place),
        answer=_answer(values["answer"], place),
        response=_text_or_none("response", values.get("response"), place),
        strategy=_text_or_none("strategy", values.get("strategy"), place),
        extra={name: value for name, value in row.items() if name not in used},
    )
    _validate(problem, place)
    return problem


def _identifier(value: Any, place: _Place) -> str:
    if value is None:
        return str(place.row)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise place.error(f"id must be a text or a whole number, not {_short(value)}")
    return str(value)


def _prompt(value: Any, place: _Place) -> str:
    """Return the text; of chat messages the user's, since the templates add a system message themselves."""
    if value is None:
        raise place.missing("prompt")
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(message, Mapping) for message in value):
        turns = [message.get("content") for message in value if message.get("role") == "user"]
        if len(turns) == 1 and isinstance(turns[0], str):
            return turns[0]
        raise place.error(f"a prompt of chat messages needs exactly one user turn with text, not {_short(value)}")
    raise place.error(f"prompt must be a text or a list of chat messages, not {_short(value)}")


def _answer(value: Any, place: _Place) -> str:
    if value is None:
        raise place.missing("answer")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        # A float has lost what was written: 0.1 may stand for 1/10 or for a rounded number.
        raise place.error(f"answer must be a text or a whole number, not {_short(value)}: write it as a text")
    return value


def _text_or_none(name: str, value: Any, place: _Place) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise place.error(f"{name} must be a text or nothing, not {_short(value)}")
    return value


def _validate(problem: Problem, place: _Place) -> None:
    for name in REQUIRED:
        if not getattr(problem, name).strip():
            raise place.error(
                f"the {name} is empty: remove the row, or pass columns={{{name!r}: '...'}} if another column "
                f"holds it; the data has the columns {', '.join(place.columns)}"
            )


def _refuse_duplicates(problems: Sequence[Problem], source: str) -> None:
    first: dict[str, int] = {}
    for row, problem in enumerate(problems):
        if problem.id in first:
            raise ValueError(
                f"{source}, row {row}: the id {problem.id!r} is already that of row {first[problem.id]}; "
                "make ids different, or pass columns={'id': '...'} with a column of unique ones"
            )
        first[problem.id] = row


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:120] + "..."


# ---------------------------------------------------------------------- problems to rows


def _to_row(problem: Problem) -> dict[str, Any]:
    clashes = [name for name in problem.extra if name in FIELDS]
    if clashes:
        raise ValueError(f"problem {problem.id!r}: extra may not hold {', '.join(clashes)}, which are fields")
    return {**{name: getattr(problem, name) for name in FIELDS}, **problem.extra}


def _to_table(problems: Sequence[Problem]) -> pa.Table:
    import pyarrow as pa

    rows = [_to_row(problem) for problem in problems]
    extra_names = list(dict.fromkeys(name for problem in problems for name in problem.extra))
    # The fields are texts even where all of them are missing, so that such a table joins with others.
    fields = {name: pa.array([row[name] for row in rows], pa.string()) for name in FIELDS}
    return pa.table({**fields, **{name: pa.array([row.get(name) for row in rows]) for name in extra_names}})
