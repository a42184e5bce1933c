"""Strong-model responses for problems that have an answer but no response: sampled, verified, tried again.

The response is what the model says, without the reasoning that it keeps in a field of its own (or between <think> and
</think>); that goes into the column ``reasoning``. An answer that hit the length limit counts as wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sgpo.chat.client import ChatClient, FailedError, Question, check_extra_body
from sgpo.chat.costs import Usage
from sgpo.problems import Problem
from sgpo.problems.inspection import unparsed_golds
from sgpo.problems.loading import response_column
from sgpo.prompts import SYSTEM_PROMPT, student_messages
from sgpo.verification import verify


@dataclass(frozen=True)
class Solving:
    """How responses are sampled. ``parameters`` are further fields of every request, as the API names them.

    Example: ``Solving(model="deepseek-reasoner", attempts=4, max_tokens=16_384)``

    Raises ``ValueError`` for values that make no sense.
    """

    model: str
    attempts: int = 4
    temperature: float | None = 0.6
    max_tokens: int = 16_384
    system_prompt: str = SYSTEM_PROMPT
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("attempts", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; it is {getattr(self, name)}")
        check_extra_body(self.parameters, [] if self.temperature is None else ["temperature"])


@dataclass(frozen=True)
class Solved:
    """What became of one problem. ``reason`` is that of the last attempt.

    Example: ``Solved(problem, "kept", response="... \\\\boxed{7}", attempts=2, usage=Usage(2, ...))``
    """

    problem: Problem
    status: Literal["kept", "rejected", "failed"]
    reason: str | None = None
    detail: str | None = None
    response: str | None = None
    reasoning: str | None = None
    attempts: int = 0
    usage: Usage = field(default_factory=Usage)


async def solve_one(problem: Problem, client: ChatClient, how: Solving) -> Solved:
    """Sample until the verifier accepts a response. Raises ``StoppedError`` if the run is ending."""
    if problem.response:
        return Solved(problem, "kept", "had a response", response=problem.response)
    usage, reason = Usage(), ""
    for attempt in range(1, how.attempts + 1):
        try:
            (answer,) = await client.ask(_question(problem, attempt, how))
        except FailedError as error:
            return Solved(problem, "failed", detail=str(error), attempts=attempt, usage=usage)
        usage += answer.usage
        if answer.truncated:
            reason = "cut off at the length limit"
        elif not answer.text:
            reason = "no text"
        else:
            verdict = await asyncio.to_thread(verify, answer.text, problem.answer)
            if verdict.correct:
                return Solved(problem, "kept", None, None, answer.text, answer.reasoning, attempt, usage)
            reason = f"answer {verdict.status}"
    return Solved(problem, "rejected", reason, attempts=how.attempts, usage=usage)


def check_answers(problems: Sequence[Problem]) -> None:
    """Raise ``ValueError`` for reference answers that no response could be compared with."""
    unsolved = [problem for problem in problems if not problem.response]
    bad = [unsolved[row] for row in unparsed_golds(dict(enumerate(unsolved)))]
    if bad:
        shown = ", ".join(f"{problem.id}: {problem.answer[:40]!r}" for problem in bad[:3])
        raise ValueError(
            f"{len(bad)} reference answers cannot be parsed by Math-Verify, so responses cannot be verified ({shown}): "
            "mend them or leave the problems out"
        )


def solved_rows(outcomes: Sequence[Solved], model: str) -> list[dict[str, Any]]:
    """One row a problem, with the input's columns."""
    responses = response_column([replace(outcome.problem, response=outcome.response) for outcome in outcomes])
    return [
        {
            "id": outcome.problem.id,
            "prompt": outcome.problem.prompt,
            "answer": outcome.problem.answer,
            "response": response,
            "strategy": outcome.problem.strategy,
            **outcome.problem.extra,
            "reasoning": outcome.reasoning,
            "status": outcome.status,
            "reason": outcome.reason,
            "detail": outcome.detail,
            "attempts": outcome.attempts,
            "model": model,
        }
        for outcome, response in zip(outcomes, responses, strict=True)
    ]


def _question(problem: Problem, attempt: int, how: Solving) -> Question:
    parameters = dict(how.parameters) | ({} if how.temperature is None else {"temperature": how.temperature})
    messages = student_messages(problem.prompt, how.system_prompt)
    # The attempt is part of the name, and so of the journal's key: the second attempt is another sample.
    return Question(how.model, messages, parameters, how.max_tokens, f"solve 1, attempt {attempt}")
