"""Rows of files and of data sets on the Hub, as they are: one at a time, so that a large file needs little memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sgpo.errors import first_line
from sgpo.hub import hub_or_cache

FILE_SUFFIXES = (".parquet", ".jsonl", ".json")
OTHER_SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx", ".arrow", ".gz", ".zip", ".pkl", ".yaml", ".yml", ".py")

ROWS_AT_ONCE = 1_000  # of a Parquet file: with long responses, 10 MB or so

RawRow = Mapping[str, Any]


def rows_of(
    source: str | os.PathLike[str], *, split: str = "train", revision: str | None = None, subset: str | None = None
) -> Iterable[RawRow]:
    """The rows of a file, or of a data set on the Hub, of which `split`, `revision` and `subset` choose a part.

    Raises ``FileNotFoundError`` for a file that is not there and ``ValueError`` for a folder, a name that the Hub has
    not, and, while they are read, rows that are none.
    """
    path = Path(source)
    if not is_file_of_problems(source):
        return _hub_rows(str(source), split, revision, subset)
    if revision is not None:
        raise ValueError(f"{path} is a file, which has no revision: leave out revision {revision!r}")
    return read_rows(path)


def _hub_rows(name: str, split: str, revision: str | None, subset: str | None) -> Iterable[RawRow]:
    import datasets

    try:
        with hub_or_cache():
            named = {} if subset is None else {"name": subset}
            return datasets.load_dataset(name, split=split, revision=revision, **named)
    except OSError as error:
        reason = first_line(error)
        raise ValueError(f"{name!r} is no file here, and cannot be read from the Hub: {reason}") from error


def is_file_of_problems(source: str | os.PathLike[str]) -> bool:
    """Whether a source is a file, and no data set on the Hub.

    Raises ``FileNotFoundError`` for a file that is not there and ``ValueError`` for one of another kind, or a folder.
    """
    path = Path(source)
    if path.is_dir():
        raise ValueError(f"{path} is a folder{_files_in(path)}")
    if path.suffix in FILE_SUFFIXES:
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path} with problems (looked in {Path.cwd()})")
        return True
    if path.is_file() or path.suffix in OTHER_SUFFIXES:
        raise ValueError(f"{path}: problems are read from {', '.join(FILE_SUFFIXES)} files, not {path.suffix!r}")
    return False


def _files_in(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir() if path.suffix in FILE_SUFFIXES and path.is_file())
    if not names:
        return f", in which no {', '.join(FILE_SUFFIXES)} file lies"
    return f": name one of its files, {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"


def read_rows(path: Path) -> Iterator[RawRow]:
    """The rows of a .parquet, .jsonl or .json file, as they are. Raises ``ValueError`` for what cannot be read."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(ROWS_AT_ONCE):
                    yield from batch.to_pylist()
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path}: not a readable Parquet file ({error})") from error
    elif path.suffix == ".jsonl":
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _json_object(line, f"{path}, line {number}")
    else:
        rows = _parse_json(path.read_bytes(), str(path))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{path}: a .json file of problems is one list of objects; use .jsonl for lines")
        yield from rows


def _json_object(text: bytes, where: str) -> RawRow:
    row = _parse_json(text, where)
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected one JSON object with the columns of a problem, not {_short(row)}")
    return row


def _parse_json(text: bytes, where: str) -> Any:
    try:
        return json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not text in UTF-8 ({error})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not valid JSON ({error})") from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:120] + "..."
