"""Rows of a data set that cannot be used: counted, shown with an example each, and refused or left out, as asked.

    problems = inspect(problems, "training problems", "drop", STRUCTURE | {"gold not parsed": unparsed_golds})

A check gets the rows that earlier checks have left, so every bad row is counted once, under the first thing that is
wrong with it. The fingerprint of what remains tells whether two runs had the same data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sgpo.problems.record import Problem

ProblemsByRow = Mapping[int, Problem]
RowCheck = Callable[[ProblemsByRow], dict[int, str]]  # the bad ones among some rows, each with what is wrong with it

BAD_ROWS = ("refuse", "drop")


@dataclass(frozen=True)
class Finding:
    """Example: ``Finding("duplicate", rows=[17, 40], example="row 17 (id 'a') has the prompt and answer of row 3")``"""

    kind: str
    rows: list[int]
    example: str

    def __str__(self) -> str:
        return f"{self.kind}: {len(self.rows)}, e.g. {self.example}"


class BadRowsError(ValueError):
    """Rows that cannot be used, refused; `usable` are the problems that can be."""

    def __init__(self, message: str, usable: list[Problem]) -> None:
        super().__init__(message)
        self.usable = usable


def find_bad_rows(problems: Sequence[Problem], checks: Mapping[str, RowCheck]) -> list[Finding]:
    """What each check finds among the rows that those before it have left; rows count from 0."""
    rows = dict(enumerate(problems))
    findings = []
    for kind, check in checks.items():
        if bad := check(rows):
            first = min(bad)
            example = f"row {first} (id {rows[first].id!r}) {bad[first]}"
            findings.append(Finding(kind, sorted(bad), example))
            rows = {row: problem for row, problem in rows.items() if row not in bad}
    return findings


def inspect(problems: Sequence[Problem], name: str, bad_rows: str, checks: Mapping[str, RowCheck]) -> list[Problem]:
    """The problems that can be used; prints what is left out.

    Raises:
        BadRowsError: bad rows with ``bad_rows="refuse"``, or with ``"drop"`` no row that is left.
        ValueError: another word.
    """
    check_bad_rows_option(bad_rows)
    findings = find_bad_rows(problems, checks)
    if not findings:
        return list(problems)
    bad = {row for finding in findings for row in finding.rows}
    usable = [problem for row, problem in enumerate(problems) if row not in bad]
    count, shown = f"{name}: {len(bad)} of {len(problems)} rows", "; ".join(map(str, findings))
    if bad_rows == "refuse":
        remedy = "Mend them, or leave them out with bad_rows: drop"
        raise BadRowsError(f"{count} cannot be used: {shown}. {remedy}", usable)
    if not usable:
        raise BadRowsError(f"{count} cannot be used, so none is left: {shown}", usable)
    print(f"{count} are left out (bad_rows: drop).")
    for finding in findings:
        print(f"  {finding}")
    return usable


def check_bad_rows_option(bad_rows: str) -> None:
    if bad_rows not in BAD_ROWS:
        raise ValueError(f"bad_rows is {bad_rows!r}; choose one of {', '.join(BAD_ROWS)}")


# ---------------------------------------------------------------------- checks of the rows alone


def empty_fields(rows: ProblemsByRow) -> dict[int, str]:
    found = {}
    for row, problem in rows.items():
        if empty := [name for name in ("prompt", "answer") if not getattr(problem, name).strip()]:
            found[row] = f"has no {' and no '.join(empty)}"
    return found


def duplicates(rows: ProblemsByRow) -> dict[int, str]:
    """Rows with the prompt and the answer of an earlier one; solutions of one problem may differ, as SFT uses them."""
    return _repeated(rows, lambda p: (p.prompt, p.answer), "the prompt and answer")


def duplicate_responses(rows: ProblemsByRow) -> dict[int, str]:
    return _repeated(rows, lambda p: (p.prompt, p.answer, p.responses), "the prompt, answer and response")


def repeated_ids(rows: ProblemsByRow) -> dict[int, str]:
    return _repeated(rows, lambda p: p.id, "the id")


def missing_responses(rows: ProblemsByRow) -> dict[int, str]:
    return {row: "has no response" for row, problem in rows.items() if not problem.response}


def _repeated(rows: ProblemsByRow, key: Callable[[Problem], Any], what: str) -> dict[int, str]:
    first: dict[Any, int] = {}
    found = {}
    for row, problem in rows.items():
        earlier = first.setdefault(key(problem), row)
        if earlier != row:
            found[row] = f"has {what} of row {earlier}"
    return found


STRUCTURE: Mapping[str, RowCheck] = {
    "empty field": empty_fields,
    "duplicate": duplicates,
    "id used twice": repeated_ids,
}


# ---------------------------------------------------------------------- checks that need a verifier or a tokenizer


def unparsed_golds(rows: ProblemsByRow) -> dict[int, str]:
    """Rows whose answer the verifier could compare with nothing but its own text."""
    from sgpo.verification import check_golds

    parsed = check_golds(problem.answer for problem in rows.values())
    return {
        row: f"has the answer {_short(problem.answer)}, which the verifier cannot parse"
        for row, problem in rows.items()
        if not parsed[problem.answer]
    }


def too_long(lengths: Callable[[Sequence[Problem]], list[int]], room: int, asked: str) -> RowCheck:
    """Rows of more than `room` tokens; `asked` says what else has to fit, such as 'max_completion_length 512'."""

    def check(rows: ProblemsByRow) -> dict[int, str]:
        found = zip(rows, lengths(list(rows.values())), strict=True)
        return {row: f"has {length} tokens, {asked} leaves {room}" for row, length in found if length > room}

    return check


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")


# ---------------------------------------------------------------------- which data it was


def fingerprint(problems: Sequence[Problem]) -> str:
    """16 hexadecimal digits of a SHA-256 over all fields of all problems, in order.

    A field that is ``None`` counts as one that is not there: Parquet fills gaps that JSONL leaves.
    """
    digest = hashlib.sha256()
    for problem in problems:
        fields = [problem.id, problem.prompt, problem.answer, problem.response, problem.strategy]
        extra = {name: value for name, value in problem.extra.items() if value is not None}
        more = [problem.more_responses] if problem.more_responses else []
        digest.update(json.dumps([*fields, extra, *more], sort_keys=True, default=repr).encode() + b"\n")
    return digest.hexdigest()[:16]


def describe_problems(problems: Sequence[Problem], source: str | None = None) -> dict[str, Any]:
    """The entry of data.json. Example: ``{"source": "rl.jsonl", "problems": 800, "fingerprint": "3f..."}``"""
    return {"source": source, "problems": len(problems), "fingerprint": fingerprint(problems)}
