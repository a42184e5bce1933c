"""How good strategies are, by a judge: four criteria from 0 to 1 each, their mean binned as in Table 8 of the paper.

    problem type    correct and specific
    strategy        the appropriate principle, specific and not trivial
    steps           correct, in order, at the right level of abstraction
    nothing told    no answer, intermediate result or computation

High is a mean of at least 0.8, Medium at least 0.5, Low below (docs/strategies.md, "How good they are"). The judge
rates one strategy at a time, so a rating does not depend on what else is in the sample.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sgpo.chat.client import Answer, ChatClient, FailedError, Question, check_extra_body
from sgpo.chat.costs import Usage
from sgpo.problems import Problem
from sgpo.prompts import Messages
from sgpo.strategies.extract import ScoreFormatError, parse_scores
from sgpo.strategies.prompts import QUALITY_VERSION, quality_messages, repair_messages

CRITERIA = ("problem_type", "strategy", "steps", "nothing_told")
GRADES = ("High", "Medium", "Low")
HIGH, MEDIUM = 0.8, 0.5


@dataclass(frozen=True)
class Judging:
    """How strategies are judged; ``parameters`` are further fields of every request. A temperature of None is not sent.

    Example: ``Judging(model="deepseek-chat", temperature=0.0)``
    """

    model: str
    temperature: float | None = 0.0
    max_tokens: int = 4096
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1; it is {self.max_tokens}")
        check_extra_body(self.parameters, [] if self.temperature is None else ["temperature"])


@dataclass(frozen=True)
class Rated:
    """What the judge said of one strategy: ``ratings`` in the order of `CRITERIA`, each 0 to 1.

    Example: ``Rated(problem, "kept", ratings=(0.9, 1.0, 0.8, 1.0), usage=Usage(1, ...))``
    """

    problem: Problem
    status: Literal["kept", "rejected", "failed"]
    reason: str | None = None
    detail: str | None = None
    ratings: tuple[float, ...] = ()
    usage: Usage = field(default_factory=Usage)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.ratings)


def grade(mean: float) -> str:
    """High, Medium or Low. The mean of four ratings in hundredths is told from a threshold to a billionth."""
    return "High" if mean >= HIGH - 1e-9 else "Medium" if mean >= MEDIUM - 1e-9 else "Low"


def sample_of(problems: Sequence[Problem], size: int, seed: int) -> list[Problem]:
    """So many problems with a strategy, drawn without replacement, in the order of the data.

    Raises ``ValueError`` if no problem has a strategy, or the size is below 1.
    """
    if size < 1:
        raise ValueError(f"--sample must be at least 1; it is {size}")
    taught = [problem for problem in problems if problem.strategy]
    if not taught:
        raise ValueError(
            "no problem has a strategy: make some by `sgpo strategies extract`, or name the column by "
            "--columns strategy=..."
        )
    if len(taught) <= size:
        return taught
    return [taught[row] for row in sorted(random.Random(seed).sample(range(len(taught)), size))]


async def rate_one(problem: Problem, client: ChatClient, how: Judging) -> Rated:
    """Have one strategy rated, with one chance to mend an answer without four ratings. Raises ``StoppedError``."""
    messages = quality_messages(problem.prompt, problem.response or "", problem.strategy or "")
    usage = Usage()
    try:
        (answer,) = await client.ask(_question(messages, how))
        usage += answer.usage
        try:
            return Rated(problem, "kept", ratings=_ratings(answer), usage=usage)
        except ScoreFormatError as error:
            if answer.truncated:
                return Rated(problem, "rejected", "cut off at the length limit", usage=usage)
            (mended,) = await client.ask(_question(repair_messages(messages, answer.text, str(error)), how))
            usage += mended.usage
            return Rated(problem, "kept", ratings=_ratings(mended), usage=usage)
    except ScoreFormatError as error:
        return Rated(problem, "rejected", "the judge gave no four ratings", str(error), usage=usage)
    except FailedError as error:
        return Rated(problem, "failed", detail=str(error), usage=usage)


def _ratings(answer: Answer) -> tuple[float, ...]:
    return tuple(parse_scores(answer.text, len(CRITERIA), "criteria"))


def _question(messages: Messages, how: Judging) -> Question:
    parameters = dict(how.parameters) | ({} if how.temperature is None else {"temperature": how.temperature})
    return Question(how.model, messages, parameters, how.max_tokens, f"quality {QUALITY_VERSION}")


def quality_report(outcomes: Sequence[Rated]) -> dict[str, Any]:
    """Counts, shares and mean of each grade and of all; means by criterion. Shares are of the strategies rated.

    Raises ``ValueError`` if none was rated.
    """
    rated = [outcome for outcome in outcomes if outcome.status == "kept"]
    if not rated:
        raise ValueError("the judge rated no strategy")
    means = {name: [outcome.mean for outcome in rated if grade(outcome.mean) == name] for name in GRADES}
    columns = list(zip(*(outcome.ratings for outcome in rated), strict=True))
    return {
        "asked": len(outcomes),
        "rated": len(rated),
        "mean": _mean([outcome.mean for outcome in rated]),
        "criteria": {name: _mean(column) for name, column in zip(CRITERIA, columns, strict=True)},
        "grades": {
            name: {"count": len(values), "share": round(len(values) / len(rated), 4), "mean": _mean(values)}
            for name, values in means.items()
        },
        "thresholds": {"High": HIGH, "Medium": MEDIUM},
        "strategies": [
            {
                "id": outcome.problem.id,
                **dict(zip(CRITERIA, outcome.ratings, strict=True)),
                "mean": round(outcome.mean, 4),
                "grade": grade(outcome.mean),
            }
            for outcome in rated
        ],
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.fmean(values), 4) if values else None
