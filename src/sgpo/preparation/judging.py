"""Golds that the verifier cannot read, and responses whose own answer is not the gold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sgpo.preparation.dropped import Dropped, on_one_line
from sgpo.preparation.sources import Found, Response
from sgpo.problems.inspection import GOLD_THREADS
from sgpo.verification import Status, check_gold, verify_many

AT_ONCE = 500  # comparisons between two reports of progress
KINDS = {
    "wrong": "another answer than the gold",
    "unparsed": "no answer in a box",
    "timeout": "an answer that cannot be compared in time",
}

# What published sets write where there is no answer; the verifier reads it as a text.
PLACEHOLDERS = frozenset({"proof", "notfound", "not found", "n/a", "?", "...", "see solution"})

# Golds that are known to be readable: asking the verifier's workers for each takes milliseconds.
_VALUE = r"-?(?:[0-9]+(?:\.[0-9]+)?|\\d?frac\{[0-9]+\}\{[0-9]+\}|[0-9]+/[0-9]+|[0-9]*\\sqrt\{[0-9]+\}|[0-9]*\\pi)"
_SIMPLE = re.compile(rf"{_VALUE}|\({_VALUE}(?:, ?{_VALUE})+\)|[a-z] ?= ?{_VALUE}")

Done = Callable[[int], None]
T = TypeVar("T")


def with_readable_gold(candidates: Sequence[Found], dropped: Dropped, done: Done) -> list[Found]:
    """The candidates whose gold can be compared with answers in another notation than its own."""
    golds = list(dict.fromkeys(each.gold for each in candidates))
    readable: dict[str, bool] = {}
    with ThreadPoolExecutor(GOLD_THREADS) as threads:
        for some in _parts(golds):
            readable.update(zip(some, threads.map(is_readable, some), strict=True))
            done(len(some))
    kept = []
    for each in candidates:
        if readable[each.gold] and each.gold.casefold().strip(" $") not in PLACEHOLDERS:
            kept.append(each)
        else:
            dropped.add("gold that cannot be read", f"{each.where}: {on_one_line(each.gold, 100)!r}")
    return kept


def is_readable(gold: str) -> bool:
    return _SIMPLE.fullmatch(gold) is not None or check_gold(gold)


def judge_responses(
    candidates: Sequence[Found], rows: Dropped, responses: Dropped, done: Done, *, keep_unsolved: bool
) -> list[Found]:
    """Leave the responses that reach the gold; candidates whose responses all reach other answers are dropped.

    Args:
        keep_unsolved: keep those too, without a response.
    """
    statuses = _statuses(candidates, done)
    kept = []
    for each in candidates:
        found = [(response, statuses[response.own_answer, each.gold]) for response in each.responses]
        for response, status in found:
            if status != "correct":
                said = "" if response.own_answer is None else f" {on_one_line(response.own_answer, 100)!r}"
                responses.add(KINDS[status], f"{each.where}:{said} for the gold {on_one_line(each.gold, 100)!r}")
        each.responses = [response for response, status in found if status == "correct"]
        wrong = next((response for response, status in found if status == "wrong"), None)
        if wrong is not None and not each.responses and not keep_unsolved:
            rows.add("gold that no response reaches", _unreached(each, wrong))
            continue
        kept.append(each)
    return kept


def _unreached(candidate: Found, wrong: Response) -> str:
    own = on_one_line(wrong.own_answer or "", 100)
    return f"{candidate.where}: gold {on_one_line(candidate.gold, 100)!r}, response {own!r}"


def _statuses(candidates: Sequence[Found], done: Done) -> dict[tuple[str | None, str], Status]:
    """Of each own answer beside each gold that it stands with; equal pairs are compared once."""
    pairs = list(dict.fromkeys((own, gold) for own, gold in _pairs(candidates)))
    found: dict[tuple[str | None, str], Status] = {}
    for some in _parts(pairs):
        texts = [("" if own is None else f"\\boxed{{{own}}}", gold) for own, gold in some]
        verdicts = verify_many(texts, after_think=False)
        found.update((pair, verdict.status) for pair, verdict in zip(some, verdicts, strict=True))
        done(len(some))
    return found


def _pairs(candidates: Sequence[Found]) -> Iterator[tuple[str | None, str]]:
    for each in candidates:
        yield from ((response.own_answer, each.gold) for response in each.responses)


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE))
