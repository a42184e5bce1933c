"""One problem from all rows that have its text, with the responses of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sgpo.preparation.dropped import Dropped, on_one_line
from sgpo.preparation.sources import Found
from sgpo.preparation.spool import Spool
from sgpo.problems.texts import text_key
from sgpo.verification import verify_many


def merged(candidates: Sequence[Found], rows: Dropped, responses: Dropped, spool: Spool) -> list[Found]:
    """The first row of each text. Rows of one text with different golds are dropped, all of them: one is wrong."""
    of_text: dict[str, list[Found]] = {}
    for each in candidates:
        of_text.setdefault(text_key(each.prompt), []).append(each)
    kept = []
    for same in of_text.values():
        first, others = same[0], same[1:]
        other = next((each for each in others if not _same_gold(first.gold, each.gold)), None)
        if other is not None:
            golds = f"{on_one_line(first.gold, 60)!r} and {on_one_line(other.gold, 60)!r}"
            for _ in same:
                rows.add("golds that differ for one text", f"{first.where} and {other.where}: {golds}")
            continue
        for each in others:
            rows.add("problem that an earlier row has (responses are kept)", f"{each.where} repeats {first.where}")
            first.responses += each.responses
            first.strategy = first.strategy or each.strategy
        _without_repeated(first, responses, spool)
        kept.append(first)
    return kept


def _same_gold(gold: str, other: str) -> bool:
    return gold == other or verify_many([(f"\\boxed{{{other}}}", gold)])[0].correct


def _without_repeated(candidate: Found, dropped: Dropped, spool: Spool) -> None:
    if len(candidate.responses) < 2:
        return
    seen: set[str] = set()
    kept = []
    for response in candidate.responses:
        digest = hashlib.sha256(spool.text(response.place).encode()).hexdigest()
        if digest in seen:
            dropped.add("response that the problem has already", candidate.where)
        else:
            kept.append(response)
        seen.add(digest)
    candidate.responses = kept
