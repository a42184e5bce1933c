"""Problems from files, the Hub or a data set in memory.

Columns are found by their canonical names (``id``, ``prompt``, ``answer``, ``response``, ``strategy``), then
by the aliases that published data sets use (``problem`` or ``question``; ``solution``, or veRL's
``reward_model.ground_truth``), unless ``columns`` says where a field is; a dot leads into a nested column. All
other columns travel in ``extra`` to the reward functions. Prompts and responses may be lists of chat messages; a
response may also be a list of several solutions.

Nothing is repaired or left out in silence. A value of the wrong type raises a ``ValueError`` with the source, the
row and what to write instead; rows with empty fields and rows that repeat others are ``sgpo.problems.inspection``'s.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgpo.files import replacing
from sgpo.problems.inspection import STRUCTURE, inspect
from sgpo.problems.reading import RawRow, rows_of
from sgpo.problems.record import Problem

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

FIELDS = ("id", "prompt", "answer", "response", "strategy")
REQUIRED = ("prompt", "answer")
ALIASES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("problem", "question"),
    "answer": ("reward_model.ground_truth", "solution"),
}


def load_problems(
    source: str | os.PathLike[str],
    *,
    split: str = "train",
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    bad_rows: str = "refuse",
) -> list[Problem]:
    """Return the problems of a .parquet, .jsonl or .json (a list) file, or of a data set on the Hub.

    ``split`` and ``revision`` (a branch, tag or commit) choose what is taken of a data set on the Hub; a file is
    one split. ``columns`` says where a field is, as ``{"prompt": "problem", "answer": "reward_model.ground_truth"}``.
    ``limit`` takes the first rows only. A row without an ``id`` gets a hash of its prompt and answer, so that
    its id does not depend on where it stands. ``bad_rows`` decides about rows with an empty field and rows
    that repeat an earlier one: "refuse", "drop", or "keep" for whoever inspects them later.

    Raises ``FileNotFoundError`` for a file that is not there and ``ValueError`` for a folder, a name that the Hub has
    not, and rows that are not problems.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1, or left out for all rows")
    rows = rows_of(source, split=split, revision=revision)
    problems = _problems(list(itertools.islice(rows, limit)), str(source), columns)
    return problems if bad_rows == "keep" else inspect(problems, str(source), bad_rows, STRUCTURE)


def problems_from(
    data: Sequence[Problem] | datasets.Dataset | Iterable[RawRow],
    *,
    columns: Mapping[str, str] | None = None,
    bad_rows: str = "refuse",
) -> list[Problem]:
    """Return the problems of a list of problems, a ``datasets.Dataset`` or a list of dicts.

    ``columns`` and ``bad_rows`` are as in ``load_problems``. Raises ``ValueError`` for rows that are not problems.
    """
    rows = list(data)
    name = "the data set"
    if rows and all(isinstance(row, Problem) for row in rows):
        name, problems = "the list of problems", rows
    elif all(isinstance(row, Mapping) for row in rows):
        problems = _problems(rows, name, columns)
    else:
        raise ValueError("problems must be all Problem records or all dicts (rows), not a mixture or something else")
    return problems if bad_rows == "keep" else inspect(problems, name, bad_rows, STRUCTURE)


def columns_from_pairs(pairs: Sequence[str]) -> dict[str, str]:
    """Columns as a command line gives them, ``["answer=solution"]``. Raises ``ValueError`` for anything else."""
    columns = {}
    for pair in pairs:
        canonical, equals, name = pair.partition("=")
        if not equals:
            raise ValueError(f"columns takes field=name, for example answer=solution, not {pair!r}")
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
    with replacing(target) as partial:
        if target.suffix == ".parquet":
            import pyarrow.parquet as pq

            pq.write_table(_to_table(problems), partial)
        else:
            with partial.open("w", encoding="utf-8") as file:
                for problem in problems:
                    file.write(json.dumps(_to_row(problem), ensure_ascii=False) + "\n")


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
            f"no {name}: name its column with --columns {name}=NAME (in Python columns={{{name!r}: 'NAME'}}); the data "
            f"has the columns {has}"
        )


class RowReader:
    """Problems from rows one by one. Example: ``RowReader(column_names_of(rows), "data.jsonl").problem(rows[0], 0)``

    Args:
        names: the columns that the data has, those within others with dots.
        source: for messages.
        columns: as in `load_problems`.

    Raises ValueError where a column is missing.
    """

    def __init__(self, names: Sequence[str], source: str, columns: Mapping[str, str] | None = None) -> None:
        self.names, self.source = names, source
        self.places = _find_columns(names, source, columns or {})

    def problem(self, row: RawRow, number: int) -> Problem:
        """Raises ValueError for a row that is none."""
        return _problem(row, self.places, _Place(self.source, number, self.names))


def column_names_of(rows: Iterable[RawRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in _column_names(row)))


def _problems(rows: Sequence[RawRow], source: str, columns: Mapping[str, str] | None) -> list[Problem]:
    if not rows:
        raise ValueError(f"{source} has no rows, so no problems")
    reader = RowReader(column_names_of(rows), source, columns)
    return [reader.problem(row, number) for number, row in enumerate(rows)]


def _column_names(row: RawRow, prefix: str = "") -> Iterator[str]:
    """The columns of a row, those within others with dots: ``reward_model``, ``reward_model.ground_truth``."""
    for name, value in row.items():
        yield prefix + name
        if isinstance(value, Mapping):
            yield from _column_names(value, f"{prefix}{name}.")


def _value(row: RawRow, column: str) -> Any:
    """The value under a name that may lead into nested columns; None where there is none."""
    if column in row:
        return row[column]
    first, _, rest = column.partition(".")
    inner = row.get(first)
    return _value(inner, rest) if rest and isinstance(inner, Mapping) else None


def _find_columns(names: Sequence[str], source: str, columns: Mapping[str, str]) -> dict[str, str]:
    """Return the column of each field that the data has."""
    has = ", ".join(names)
    for name, column in columns.items():
        if name not in FIELDS:
            raise ValueError(f"columns: {name!r} is none of the fields of a problem, which are {', '.join(FIELDS)}")
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


def _problem(row: RawRow, places: Mapping[str, str], place: _Place) -> Problem:
    values = {name: _value(row, column) for name, column in places.items()}
    used = {*places.values(), *places}  # a column with a field's name, while the field is elsewhere, would clash
    prompt, answer = _prompt(values["prompt"], place), _answer(values["answer"], place)
    responses = _responses(values.get("response"), place)
    return Problem(
        id=_identifier(values.get("id"), prompt, answer, place),
        prompt=prompt,
        answer=answer,
        response=responses[0] if responses else None,
        strategy=_text_or_none("strategy", values.get("strategy"), place),
        extra={name: value for name, value in row.items() if name not in used},
        more_responses=tuple(responses[1:]),
    )


def id_of(prompt: str, answer: str) -> str:
    """The id of a problem that has none of its own: 16 hexadecimal digits that follow from its content."""
    return hashlib.sha256(json.dumps([prompt, answer]).encode()).hexdigest()[:16]


def _identifier(value: Any, prompt: str, answer: str, place: _Place) -> str:
    if value is None:
        return id_of(prompt, answer)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise place.error(f"id must be a text or a whole number, not {_short(value)}")
    return str(value)


def _prompt(value: Any, place: _Place) -> str:
    """Return the text; of chat messages the user's, since ``system_prompt`` stands for the system's."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if _is_chat(value):
        turns = [message.get("content") for message in value if message.get("role") == "user"]
        if len(turns) == 1 and isinstance(turns[0], str):
            return turns[0]
        raise place.error(f"a prompt of chat messages needs exactly one user turn with text, not {_short(value)}")
    raise place.error(f"prompt must be a text or a list of chat messages, not {_short(value)}")


def _responses(value: Any, place: _Place) -> list[str]:
    """Return the texts: one, or those of a list, tuple or array of solutions, without empty ones."""
    if hasattr(value, "tolist"):  # of a pandas table, or of a data set in NumPy's format
        value = value.tolist()
    value = list(value) if isinstance(value, tuple) else value
    several = value if value == [] or (isinstance(value, list) and not _is_chat(value)) else [value]
    return [text for each in several if (text := _response(each, place)) is not None]


def _response(value: Any, place: _Place) -> str | None:
    """Return the text; of chat messages the last one of the assistant."""
    if not _is_chat(value):
        return _text_or_none("response", value, place)
    turns = [message.get("content") for message in value if message.get("role") == "assistant"]
    if not turns:
        raise place.error(f"a response of chat messages needs an assistant turn, not {_short(value)}")
    return _text_or_none("response", turns[-1], place)


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(message, Mapping) for message in value)


def _answer(value: Any, place: _Place) -> str:
    if value is None:
        return ""
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


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:120] + "..."


# ---------------------------------------------------------------------- problems to rows


def response_column(problems: Sequence[Problem]) -> list[Any]:
    """The texts; where a problem has several responses, lists of texts for all of them, of one type."""
    if any(problem.more_responses for problem in problems):
        return [list(problem.responses) for problem in problems]
    return [problem.response for problem in problems]


def _to_row(problem: Problem) -> dict[str, Any]:
    clashes = [name for name in problem.extra if name in FIELDS]
    if clashes:
        raise ValueError(f"problem {problem.id!r}: extra may not hold {', '.join(clashes)}, which are fields")
    fields = {name: getattr(problem, name) for name in FIELDS}
    return {**fields, "response": response_column([problem])[0], **problem.extra}


def _to_table(problems: Sequence[Problem]) -> pa.Table:
    import pyarrow as pa

    rows = [_to_row(problem) for problem in problems]
    extra_names = list(dict.fromkeys(name for problem in problems for name in problem.extra))
    # The fields are texts even where all of them are missing, so that such a table joins with others.
    columns = {name: [row[name] for row in rows] for name in FIELDS} | {"response": response_column(problems)}
    lists = {name for name, values in columns.items() if any(isinstance(each, list) for each in values)}
    fields = {
        name: pa.array(values, pa.list_(pa.string()) if name in lists else pa.string())
        for name, values in columns.items()
    }
    return pa.table({**fields, **{name: pa.array([row.get(name) for row in rows]) for name in extra_names}})
