"""From one strong-model response to the best of several candidate strategies.

    extract prompt, 5 samples -> three parts? (else one repair) -> structure and leak checks -> scores -> the best

A candidate that a check flags is never kept, whatever a judge would say of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sgpo.chat.client import Answer, ChatClient, FailedError, Question, all_of, check_extra_body
from sgpo.chat.costs import Usage
from sgpo.domains.mathematics.leaks import find_leaks
from sgpo.problems import Problem
from sgpo.prompts import Messages
from sgpo.strategies.prompts import StrategyPrompts, repair_messages
from sgpo.strategies.record import Limits, Strategy, StrategyFormatError, parse_strategy, structure_flaw


@dataclass(frozen=True)
class Extraction:
    """How strategies are extracted.

    ``parameters`` are further fields of every request, as the API names them (``{"reasoning_effort": "low"}``), none of
    which has another option here. A temperature of None is not sent.

    Example: ``Extraction(model="deepseek-chat", judge_model="deepseek-chat", candidates=5)``

    Raises ``ValueError`` for values that make no sense.
    """

    model: str
    judge_model: str | None = None  # the model itself
    candidates: int = 5
    temperature: float | None = 1.0
    judge_temperature: float | None = 0.0
    max_tokens: int = 4096
    min_score: float = 0.0
    limits: Limits = field(default_factory=Limits)
    prompts: StrategyPrompts = field(default_factory=StrategyPrompts)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("candidates", 1), ("max_tokens", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; it is {getattr(self, name)}")
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score is a score from 0 to 1, not {self.min_score}")
        unsent = self.temperature is None and self.judge_temperature is None
        check_extra_body(self.parameters, [] if unsent else ["temperature"])

    @property
    def judge(self) -> str:
        return self.judge_model or self.model

    @property
    def columns(self) -> dict[str, str]:
        """The columns of the output that are the same in all rows."""
        return {"model": self.model, "judge_model": self.judge, "prompt_version": self.prompts.version}


# Why a problem was rejected; with several reasons among its candidates, the one that got furthest counts.
REASONS = {
    "empty": "no text in any candidate",
    "truncated": "candidates cut off at the length limit",
    "format": "no candidate has the three parts",
    "structure": "candidates too long or with too many steps",
    "computation": "candidates compute",
    "intermediate": "candidates tell an intermediate result",
    "answer": "candidates tell the answer",
}
NO_RESPONSE = "no response to extract from"
NO_SCORES = "the judge gave no usable scores"
LOW_SCORE = "best score below the minimum"


async def extract_one(problem: Problem, client: ChatClient, how: Extraction) -> Outcome:
    """Extract the strategy of one problem. Raises ``StoppedError`` if the run is ending."""
    if not problem.response:
        return Outcome(problem, "rejected", NO_RESPONSE)
    run = _Asking(client)
    try:
        candidates = await _candidates(problem, run, how)
        survivors = [candidate for candidate in candidates if not candidate.flags]
        if not survivors:
            reason, detail = _why(candidates)
            return Outcome(problem, "rejected", reason, detail, candidates=candidates, usage=run.usage)
        texts = list(dict.fromkeys(candidate.strategy.text for candidate in survivors if candidate.strategy))
        try:
            scores = await _scores(problem, texts, run, how)
        except ScoreFormatError as error:
            return Outcome(problem, "rejected", NO_SCORES, str(error), candidates=candidates, usage=run.usage)
    except FailedError as error:
        return Outcome(problem, "failed", detail=str(error), usage=run.usage)
    return _best(problem, candidates, dict(zip(texts, scores, strict=True)), run.usage, how)


@dataclass
class _Asking:
    """The client, and what one problem has used of it."""

    client: ChatClient
    usage: Usage = field(default_factory=Usage)

    async def __call__(self, question: Question, samples: int = 1) -> list[Answer]:
        answers = await self.client.ask(question, samples)
        self.usage = sum((answer.usage for answer in answers), self.usage)
        return answers


async def _candidates(problem: Problem, ask: _Asking, how: Extraction) -> tuple[Candidate, ...]:
    messages = how.prompts.extract_messages(problem.prompt, problem.response or "")
    answers = await ask(_question(messages, how), how.candidates)
    read = [_read(answer) for answer in answers]
    wrong = [(answer.text, error) for answer, (_, error) in zip(answers, read, strict=True) if error]
    repairs = [_repaired(text, error, messages, ask, how) for text, error in wrong]
    mended = iter(await all_of(*repairs))
    candidates = [next(mended) if error else candidate for candidate, error in read]
    return tuple(_checked(candidate, problem, how.limits) for candidate in candidates)


async def _repaired(text: str, error: str, messages: Messages, ask: _Asking, how: Extraction) -> Candidate:
    """Give the author of what is not in three parts one chance to mend it."""
    (mended,) = await ask(_question(repair_messages(messages, text, error), how))
    return replace(_read(mended)[0], repaired=True)


def _read(answer: Answer) -> tuple[Candidate, str | None]:
    """The candidate, and what its author should be told, if telling can help."""
    if answer.truncated:  # it would be cut off again
        return Candidate(answer.text, flags=("truncated: at the length limit",)), None
    if not answer.text:
        return Candidate("", flags=(f"empty: finish reason {answer.finish_reason}",)), None
    try:
        return Candidate(answer.text, parse_strategy(answer.text)), None
    except StrategyFormatError as error:
        return Candidate(answer.text, flags=(f"format: {error}",)), str(error)


def _checked(candidate: Candidate, problem: Problem, limits: Limits) -> Candidate:
    if candidate.strategy is None:
        return candidate
    if flaw := structure_flaw(candidate.strategy, limits):
        return replace(candidate, flags=(f"structure: {flaw}",))
    leaks = find_leaks(candidate.strategy.text, problem.prompt, problem.answer, problem.response or "")
    return replace(candidate, flags=tuple(f"{leak.kind}: {leak.written}" for leak in leaks)) if leaks else candidate


async def _scores(problem: Problem, texts: Sequence[str], ask: _Asking, how: Extraction) -> list[float]:
    messages = how.prompts.score_messages(problem.prompt, problem.response or "", texts)
    (answer,) = await ask(_question(messages, how, judging=True))
    try:
        return parse_scores(answer.text, len(texts))
    except ScoreFormatError as error:
        if answer.truncated:
            raise
        (mended,) = await ask(_question(repair_messages(messages, answer.text, str(error)), how, judging=True))
        return parse_scores(mended.text, len(texts))


def _question(messages: Messages, how: Extraction, *, judging: bool = False) -> Question:
    temperature = how.judge_temperature if judging else how.temperature
    parameters = dict(how.parameters) | ({} if temperature is None else {"temperature": temperature})
    name = f"{'score' if judging else 'extract'} {how.prompts.version}"
    return Question(how.judge if judging else how.model, messages, parameters, how.max_tokens, name)


def _best(
    problem: Problem, candidates: Sequence[Candidate], scores: Mapping[str, float], usage: Usage, how: Extraction
) -> Outcome:
    scored = tuple(
        replace(candidate, score=scores[candidate.strategy.text])
        if candidate.strategy and not candidate.flags
        else candidate
        for candidate in candidates
    )
    best = max((c for c in scored if c.score is not None), key=lambda candidate: candidate.score or 0.0)
    if (best.score or 0.0) < how.min_score:
        detail = f"{best.score:g} is below {how.min_score:g}"
        return Outcome(problem, "rejected", LOW_SCORE, detail, candidates=scored, usage=usage)
    return Outcome(problem, "kept", strategy=best.strategy, score=best.score, candidates=scored, usage=usage)


def _why(candidates: Sequence[Candidate]) -> tuple[str, str]:
    flags = [flag for candidate in candidates for flag in candidate.flags]
    kinds = list(REASONS)
    furthest = max(flags, key=lambda flag: kinds.index(flag.partition(":")[0]))
    return REASONS[furthest.partition(":")[0]], furthest


OutcomeStatus = Literal["kept", "rejected", "failed"]


@dataclass(frozen=True)
class Candidate:
    """One sample of the extract prompt.

    ``flags`` says what is wrong with it, as ``kind: detail``; without flags it may be kept. ``score`` is the judge's,
    0 to 1. ``text`` is what the model wrote, the repaired text if it was ``repaired``.

    Example: ``Candidate("Problem type: ...", Strategy(...), flags=("answer: 12",), repaired=False, score=None)``
    """

    text: str
    strategy: Strategy | None = None
    flags: tuple[str, ...] = ()
    repaired: bool = False
    score: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one problem, and what it cost, earlier runs included.

    ``reason`` is one of a few fixed texts, so that reasons can be counted; ``detail`` is the last error.

    Example: ``Outcome(problem, "kept", strategy=Strategy(...), score=0.9, candidates=(...), usage=Usage(2, ...))``
    """

    problem: Problem
    status: OutcomeStatus
    reason: str | None = None
    detail: str | None = None
    strategy: Strategy | None = None
    score: float | None = None
    candidates: tuple[Candidate, ...] = ()
    usage: Usage = field(default_factory=Usage)


class ScoreFormatError(ValueError):
    """An answer without usable scores; the message says what is wrong, for the one who wrote it."""


_SCORES = re.compile(r"\[[^\[\]]*\]")


def parse_scores(text: str, count: int, of: str = "candidates") -> list[float]:
    """Return ``count`` scores, each from 0 to 1: of the last list of numbers in the text. Raises ``ScoreFormatError``.

    ``of`` says what is scored, for the message of the error.

    The list may stand in JSON, in a code fence or after an explanation.
    """
    lists = [numbers for found in _SCORES.findall(text) if (numbers := _numbers(found)) is not None]
    if not lists:
        raise ScoreFormatError('there is no list of scores; write one line like {"scores": [0.85, 0.4]}')
    scores = lists[-1]
    if len(scores) != count:
        raise ScoreFormatError(f"there are {len(scores)} scores for {count} {of}")
    for score in scores:
        if not 0 <= score <= 1:
            raise ScoreFormatError(f"the score {score:g} is not between 0 and 1")
    return scores


def _numbers(text: str) -> list[float] | None:
    try:
        values: Any = json.loads(text)
    except ValueError:
        return None
    if not values or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    ):
        return None
    return [float(value) for value in values]
