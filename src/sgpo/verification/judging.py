"""Judging answers: what text decides, and what is asked of the worker processes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from sgpo.verification import pool
from sgpo.verification.answers import (
    after_thinking,
    depth,
    gold_text,
    last_boxed,
    normalise,
    number,
    readable,
    without_delimiters,
)
from sgpo.verification.counts import Status, add_verdicts
from sgpo.verification.notation import different_base, different_brackets, quantity, without_units

MAX_ANSWER_LENGTH = 500  # characters; longer extracted answers are 'unparsed'
MAX_DEPTH = 20  # nested brackets; deeper answers are 'unparsed'
TIMEOUT = 2.5  # seconds a comparison may take: with the end of its worker, an answer takes at most 5

# Golds that are known to parse: asking the workers for each takes milliseconds.
_VALUE = r"-?(?:[0-9]+(?:\.[0-9]+)?|\\d?frac\{[0-9]+\}\{[0-9]+\}|[0-9]+/[0-9]+|[0-9]*\\sqrt\{[0-9]+\}|[0-9]*\\pi)"
_SIMPLE = re.compile(rf"{_VALUE}|\({_VALUE}(?:, ?{_VALUE})+\)|[a-z] ?= ?{_VALUE}")

_BAD_GOLD = "bad gold"  # sgpo.verification.worker.BAD_GOLD, whose module loads SymPy and is not imported here


@dataclass(frozen=True)
class Verdict:
    r"""The judgement of one response.

    ``status`` is 'correct', 'wrong', 'unparsed' (no balanced box, an empty, overlong or too deeply nested one, or no
    mathematics in it) or 'timeout' (the comparison exceeded its time or memory). ``extracted`` is the text in the box.

    Example: ``Verdict(status="correct", extracted="\\frac{1}{2}")``
    """

    status: Status
    extracted: str | None

    @property
    def correct(self) -> bool:
        return self.status == "correct"


def verify(response: str, answer: str, *, timeout: float = TIMEOUT, after_think: bool = True) -> Verdict:
    """Judge one response against its gold answer; see ``verify_many``."""
    return verify_many([(response, answer)], timeout=timeout, after_think=after_think)[0]


def verify_many(
    pairs: Iterable[tuple[str, str]], *, timeout: float = TIMEOUT, after_think: bool = True
) -> list[Verdict]:
    """Judge (response, gold answer) pairs and return their verdicts in the same order.

    ``timeout`` is in seconds, for each comparison. With ``after_think``, only what follows the last ``</think>`` of a
    response is judged, where such a tag stands. Raises ``ValueError`` for an empty gold answer or one that Math-Verify
    cannot parse (unless a response equals it as text), ``RuntimeError`` if verification itself fails.
    """
    _require_positive(timeout)
    decided = [_decide(after_thinking(text) if after_think else text, answer) for text, answer in pairs]
    asked = {
        index: pool.ask("judge", (item.gold, item.answer), timeout)
        for index, item in enumerate(decided)
        if isinstance(item, _Comparison)
    }
    verdicts = [
        _verdict(item, asked[index]) if isinstance(item, _Comparison) else item for index, item in enumerate(decided)
    ]
    add_verdicts(verdict.status for verdict in verdicts)
    return verdicts


def check_gold(answer: str, *, timeout: float = TIMEOUT) -> bool:
    """Tell whether a gold answer is of use: not empty, and parsed by Math-Verify within the limits."""
    _require_positive(timeout)
    gold = gold_text(answer)
    if not gold or _too_large(gold):
        return False
    if number(normalise(gold)) is not None or _SIMPLE.fullmatch(gold):
        return True
    kind, value = pool.ask("parses", (readable(quantity(gold).value),), timeout).result()
    return kind == "done" and value


def check_golds(answers: Iterable[str]) -> dict[str, bool]:
    """`check_gold` of each answer, equal ones once."""
    distinct = list(dict.fromkeys(answers))
    with ThreadPoolExecutor(pool.MAX_WORKERS) as threads:  # that wait for the workers
        return dict(zip(distinct, threads.map(check_gold, distinct), strict=True))


@dataclass(frozen=True)
class _Comparison:
    """A pair that text and numbers do not decide, as it is put to Math-Verify."""

    gold: str
    answer: str
    extracted: str


def _decide(response: str, answer: str) -> Verdict | _Comparison:
    gold = gold_text(answer)
    if not gold:
        raise ValueError(f"the gold answer {answer!r} is empty: give every problem an answer, or leave it out")
    extracted = last_boxed(response)
    if extracted is None or len(extracted) > MAX_ANSWER_LENGTH:
        return Verdict("unparsed", None)
    if not normalise(extracted) or _too_large(extracted):
        return Verdict("unparsed", extracted)
    status = _same_text(gold, extracted)
    if status:
        return Verdict(status, extracted)
    values = without_units(gold, without_delimiters(extracted))
    if values is None:
        return Verdict("wrong", extracted)
    status = _same_text(*values)
    if status:
        return Verdict(status, extracted)
    return _Comparison(readable(values[0]), readable(values[1]), extracted)


def _too_large(answer: str) -> bool:
    return len(answer) > MAX_ANSWER_LENGTH or depth(answer) > MAX_DEPTH


def _same_text(gold: str, answer: str) -> Status | None:
    """What can be said without algebra, if anything."""
    left, right = normalise(answer), normalise(gold)
    if left == right:
        return "correct"
    left_number, right_number = number(left), number(right)
    if left_number is not None and right_number is not None:
        return "correct" if left_number == right_number else "wrong"
    if different_base(right, left) or different_brackets(right, left):
        return "wrong"
    return None


def _verdict(item: _Comparison, asked: Future[tuple[str, Any]]) -> Verdict:
    kind, value = asked.result()
    if kind == "limit":
        return Verdict("timeout", item.extracted)
    if kind == "error":
        raise RuntimeError(f"comparing {item.extracted!r} with the gold answer {item.gold!r} failed: {value}")
    if value == _BAD_GOLD:
        raise ValueError(
            f"the gold answer {item.gold!r} cannot be parsed by Math-Verify: correct it or leave the problem "
            "out; sgpo.verification.check_gold(answer) finds such answers beforehand"
        )
    return Verdict(value, item.extracted)


def _require_positive(timeout: float) -> None:
    if not timeout > 0:
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout}")
