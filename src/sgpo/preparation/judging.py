"""Golds that the verifier cannot read, and responses whose own answer is not the gold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from sgpo.preparation.dropped import Dropped, on_one_line
from sgpo.preparation.sources import Found, Response
from sgpo.verification import Status, check_golds, verify_many

AT_ONCE = 500  # comparisons between two reports of progress
KINDS = {
    "wrong": "another answer than the gold",
    "unparsed": "no answer in a box",
    "timeout": "an answer that cannot be compared in time",
}

# What published sets write where there is no answer; the verifier reads it as a text.
PLACEHOLDERS = frozenset({"proof", "notfound", "not found", "n/a", "?", "...", "see solution"})

Done = Callable[[int], None]
Pair = tuple[str | None, str]  # a response's own answer, None without one, and the gold beside it
T = TypeVar("T")


def golds_of(candidates: Sequence[Found]) -> list[str]:
    """Each once."""
    return list(dict.fromkeys(each.gold for each in candidates))


def pairs_of(candidates: Sequence[Found]) -> list[Pair]:
    """Each once."""
    return list(dict.fromkeys((response.own_answer, each.gold) for each in candidates for response in each.responses))


def readable_golds(golds: Sequence[str], done: Done) -> dict[str, bool]:
    """Which golds can be compared with answers in another notation than their own."""
    found: dict[str, bool] = {}
    for some in _parts(golds):
        found |= check_golds(some)
        done(len(some))
    return found


def with_readable_gold(candidates: Sequence[Found], readable: Mapping[str, bool], dropped: Dropped) -> list[Found]:
    kept = []
    for each in candidates:
        if readable[each.gold] and each.gold.casefold().strip(" $") not in PLACEHOLDERS:
            kept.append(each)
        else:
            dropped.add("gold that cannot be read", f"{each.where}: {on_one_line(each.gold, 100)!r}")
    return kept


def compared(pairs: Sequence[Pair], done: Done) -> dict[Pair, Status]:
    """What the verifier says of each own answer beside its gold."""
    found: dict[Pair, Status] = {}
    for some in _parts(pairs):
        texts = [("" if own is None else f"\\boxed{{{own}}}", gold) for own, gold in some]
        verdicts = verify_many(texts, after_think=False)
        found.update((pair, verdict.status) for pair, verdict in zip(some, verdicts, strict=True))
        done(len(some))
    return found


def judge_responses(
    candidates: Sequence[Found],
    statuses: Mapping[Pair, Status],
    rows: Dropped,
    responses: Dropped,
    *,
    keep_unsolved: bool,
) -> list[Found]:
    """Leave the responses that reach the gold; candidates whose responses all reach other answers are dropped.

    Args:
        statuses: from `compared`.
        keep_unsolved: keep those too, without a response.
    """
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


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE))
