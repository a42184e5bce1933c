"""Where the rows come from, which layout they have, and what is taken of a row.

A source is a file, or a data set on the Hub: ``NAME``, ``NAME:SUBSET``, ``NAME:SUBSET:SPLIT``, each with ``@REVISION``.

| layout | columns | of which |
|---|---|---|
| luffy | prompt, target, reward_model | the user's turn; the assistant's turn; ground_truth |
| openr1 | problem, generations, answer | generations that correctness_math_verify marks as wrong are left out |
| solutions | problem, solution, answer | the solution is the response |
| gsm8k | question, answer | a worked solution that ends with ``#### 72`` |
| plain | those of a file of problems, or as --columns says | |
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sgpo.preparation.answers import gold_of, result_of, split_worked, worked_response
from sgpo.preparation.dropped import Dropped
from sgpo.preparation.spool import Spool, Stored
from sgpo.problems import Problem
from sgpo.problems.loading import RowReader, column_names_of
from sgpo.problems.reading import FILE_SUFFIXES, RawRow, is_file_of_problems, rows_of
from sgpo.verification import after_thinking, last_boxed

PEEKED = 1_000  # rows from which the columns are known
LAYOUTS: Mapping[str, tuple[frozenset[str], Mapping[str, str]]] = {  # needed columns; where fields are
    "luffy": (frozenset({"prompt", "target", "reward_model.ground_truth"}), {"response": "target"}),
    "openr1": (frozenset({"problem", "generations", "answer"}), {"response": "generations"}),
    "solutions": (frozenset({"problem", "solution", "answer"}), {"response": "solution"}),
}
MARKS = "correctness_math_verify"  # of OpenR1's generations, one truth value each


@dataclass(frozen=True)
class DataSource:
    """Example: ``DataSource("openai/gsm8k", "main", "train", None)`` of ``openai/gsm8k:main``; of a file, the name."""

    name: str
    subset: str | None = None
    split: str | None = None
    revision: str | None = None

    def rows(self, split: str) -> Iterable[RawRow]:
        """Raises FileNotFoundError or ValueError for what cannot be read."""
        return rows_of(self.name, split=self.split or split, revision=self.revision, subset=self.subset)

    def check(self) -> None:
        """Raises FileNotFoundError or ValueError for a file that is not there, or a folder."""
        is_file_of_problems(self.name)

    @property
    def shown(self) -> str:
        return Path(self.name).name if Path(self.name).suffix in FILE_SUFFIXES else self.name


def source_of_text(text: str) -> DataSource:
    """Raises ValueError for more than three parts."""
    if Path(text).suffix in FILE_SUFFIXES or Path(text).exists():
        return DataSource(text)
    name, _, revision = text.partition("@")
    parts = name.split(":")
    if len(parts) > 3 or not all(parts):
        raise ValueError(f"{text!r} is no source: write a file, or NAME, NAME:SUBSET or NAME:SUBSET:SPLIT of the Hub")
    subset, split = (*parts[1:], None, None)[:2]
    return DataSource(parts[0], subset, split, revision or None)


@dataclass(slots=True)
class Response:
    """One response, kept in the spool.

    Example: ``Response(Stored(0, 812), characters=800, own_answer="72")``, or None for one without an answer.
    """

    place: Stored
    characters: int
    own_answer: str | None


@dataclass(slots=True)
class Found:
    """A row that may become a problem. Example: ``Found("train.jsonl", 17, "id", "Compute ...", "72", [...])``"""

    source: str
    row: int
    id: str
    prompt: str
    gold: str
    responses: list[Response] = field(default_factory=list)
    strategy: str | None = None

    @property
    def where(self) -> str:
        return f"{self.source}, row {self.row}"


@dataclass
class Read:
    """What one source had. Example: ``Read("train.jsonl", "gsm8k", rows=7473)``"""

    source: str
    layout: str
    rows: int = 0


def layout_of(names: Sequence[str], columns: Mapping[str, str], row: RawRow) -> tuple[str, dict[str, str]]:
    """The layout's name and where its fields are; the user's columns go first. `row` is one of the data."""
    if columns:
        return "plain", dict(columns)
    for layout, (needed, places) in LAYOUTS.items():
        if needed <= set(names):
            return layout, dict(places)
    worked = split_worked(str(row.get("answer"))) is not None
    return "gsm8k" if worked and "question" in names else "plain", {}


class SourceReader:
    """The candidates of sources, with what cannot be read added to `rows_dropped` and `responses_dropped`."""

    def __init__(self, spool: Spool, columns: Mapping[str, str]) -> None:
        self.spool, self.columns = spool, columns
        self.read: list[Read] = []
        self.rows_dropped, self.responses_dropped = Dropped(), Dropped()

    def candidates(self, source: DataSource, split: str, limit: int | None = None) -> Iterator[Found]:
        """Raises ValueError for a source without rows, or without the columns of a problem."""
        rows = iter(itertools.islice(source.rows(split), limit))
        first = list(itertools.islice(rows, PEEKED))
        if not first:
            raise ValueError(f"{source.name} has no rows")
        names = column_names_of(first)
        layout, places = layout_of(names, self.columns, first[0])
        reader = RowReader(names, source.shown, places)
        read = Read(source.name, layout)
        self.read.append(read)
        for number, row in enumerate(itertools.chain(first, rows)):
            read.rows += 1
            candidate = self._candidate(row, number, reader, "id" in self.columns)
            if candidate is not None:
                yield candidate

    def _candidate(self, row: RawRow, number: int, reader: RowReader, own_id: bool) -> Found | None:
        try:
            problem = reader.problem(row, number)
        except ValueError as error:
            self.rows_dropped.add("row that cannot be read", str(error))
            return None
        where = f"{reader.source}, row {number}"
        if not problem.prompt.strip() or not problem.answer.strip():
            self.rows_dropped.add("no prompt or no answer", where)
            return None
        worked = split_worked(problem.answer)
        gold = worked[1] if worked else gold_of(problem.answer)
        candidate = Found(reader.source, number, problem.id if own_id else "", problem.prompt, gold)
        candidate.strategy = problem.strategy
        if worked and not problem.responses:
            candidate.responses.append(self._kept(worked_response(*worked), result_of(*worked)))
        marks = row.get(MARKS) if reader.places.get("response") == "generations" else None
        for text, mark in zip(problem.responses, _marks(marks, row, problem), strict=True):
            if mark is False:
                self.responses_dropped.add(f"marked wrong by the data set ({MARKS})", where)
                continue
            candidate.responses.append(self._kept(text, last_boxed(after_thinking(text))))
        return candidate

    def _kept(self, text: str, own_answer: str | None) -> Response:
        return Response(self.spool.add(text), len(text), own_answer)


def _marks(marks: Any, row: RawRow, problem: Problem) -> list[Any]:
    """A mark for each response; None where the data has none, or empty responses make it unclear which is whose."""
    generations = row.get("generations")
    if isinstance(marks, list) and isinstance(generations, list) and len(marks) == len(generations):
        kept = [mark for mark, text in zip(marks, generations, strict=True) if text]
        if len(kept) == len(problem.responses):
            return kept
    return [None] * len(problem.responses)
