"""What a strong model is asked about strategies, and what a judge is.

Candidates are asked for by `EXTRACT_TEMPLATE`, their scores by `SCORE_TEMPLATE`. Users can give others in their place;
the version goes into the journal's keys and the output, so it changes with the wording. The judge of the quality report
is asked about one strategy at a time, by `QUALITY_TEMPLATE`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sgpo.prompts import Messages

PROMPT_VERSION = "1"  # of the templates below; to be raised with every change of their wording
EXTRACT_TEMPLATE = """\
Below are a problem and a complete solution of it. Write the strategy behind the solution: what would help somebody \
to solve this problem, and others of its kind, without being told any of its computations.

Write exactly three parts, in this form and with nothing before or after them:

Problem type: a specific, recognisable category of problems, in a few words
Strategy: the principle, theorem or technique that solves it, in one or two sentences
Steps: (a) the first step (b) the second step (c) and so on, in order

Rules:
- The steps are general: say what to do and why it helps, not what comes out.
- Never compute anything. No intermediate result and no number that the solution worked out may appear.
- Never state the final answer or hint at it, in any form.
- Be concise: two to six steps, 150 words at most.

Problem:
{problem}

Solution:
{response}
"""
SCORE_TEMPLATE = """\
Below are a problem, a complete solution of it, and {count} candidate strategies. A strategy is meant to help \
somebody to solve the problem, and others of its kind, without being told any of its computations. Rate each candidate \
with a number between 0 and 1, by these four criteria with equal weight:

1. Problem type: it is correct and specific.
2. Strategy: it is the appropriate principle for this problem, specific and not trivial.
3. Steps: they are correct, in order and at the right level of abstraction, neither vague nor a copy of the solution.
4. Nothing is revealed: no final answer, no intermediate result, no computation with the problem's numbers.

Compare the candidates with each other, and use the whole range. Answer with one line of JSON and nothing else, the \
scores in the order of the candidates: {"scores": [0.85, 0.4, ...]}

Problem:
{problem}

Solution:
{response}

{candidates}
"""
QUALITY_VERSION = "1"  # of the template below
QUALITY_TEMPLATE = """\
Below are a problem, a complete solution of it, and a strategy. A strategy is meant to help somebody to solve the \
problem, and others of its kind, without being told any of its computations. Rate it by each of these four criteria \
with a number between 0 (not at all) and 1 (entirely):

1. Problem type: it is correct and specific.
2. Strategy: it is the appropriate principle for this problem, specific and not trivial.
3. Steps: they are correct, in order and at the right level of abstraction, neither vague nor a copy of the solution.
4. Nothing is revealed: no final answer, no intermediate result, no computation with the problem's numbers.

Answer with one line of JSON and nothing else, the scores in the order of the criteria: \
{"scores": [0.9, 0.8, 0.65, 1.0]}

Problem:
{problem}

Solution:
{response}

Strategy:
{strategy}
"""
REPAIR_TEMPLATE = """\
That cannot be used: {error}. Write it again with this mended, in the form that was asked for and with nothing else."""


@dataclass(frozen=True)
class StrategyPrompts:
    """The two prompts of strategy extraction.

    Example: ``StrategyPrompts(extract="... {problem} ... {response} ...", score="... {candidates} ...")``

    Raises ``ValueError`` for a template that lacks a place which it needs.
    """

    extract: str = EXTRACT_TEMPLATE
    score: str = SCORE_TEMPLATE

    def __post_init__(self) -> None:
        for name, template, places in (
            ("extract", self.extract, ("problem", "response")),
            ("score", self.score, ("problem", "candidates")),
        ):
            if missing := [f"{{{place}}}" for place in places if f"{{{place}}}" not in template]:
                raise ValueError(f"the {name} prompt needs {' and '.join(missing)} where these are to stand")

    @property
    def version(self) -> str:
        """``1`` for the prompts of this module, ``custom-`` and a hash for others."""
        if (self.extract, self.score) == (EXTRACT_TEMPLATE, SCORE_TEMPLATE):
            return PROMPT_VERSION
        digest = hashlib.sha256(f"{self.extract}\0{self.score}".encode()).hexdigest()
        return f"custom-{digest[:8]}"

    def extract_messages(self, problem: str, response: str) -> Messages:
        return _user_turn(_fill(self.extract, problem=problem, response=response))

    def score_messages(self, problem: str, response: str, candidates: Sequence[str]) -> Messages:
        listed = "\n\n".join(f"Candidate {number}:\n{text}" for number, text in enumerate(candidates, start=1))
        values = {"problem": problem, "response": response, "candidates": listed, "count": str(len(candidates))}
        return _user_turn(_fill(self.score, **values))


def quality_messages(problem: str, response: str, strategy: str) -> Messages:
    """What the judge of `sgpo strategies quality` is asked about one strategy."""
    return _user_turn(_fill(QUALITY_TEMPLATE, problem=problem, response=response, strategy=strategy))


def strategy_prompts(extract: str | Path | None = None, score: str | Path | None = None) -> StrategyPrompts:
    """The prompts, those in the files given in place of our own. Raises ``OSError`` and ``ValueError``."""
    return StrategyPrompts(
        EXTRACT_TEMPLATE if extract is None else Path(extract).read_text(encoding="utf-8"),
        SCORE_TEMPLATE if score is None else Path(score).read_text(encoding="utf-8"),
    )


def repair_messages(messages: Messages, answer: str, error: str) -> Messages:
    """The conversation so far, and what was wrong with the answer."""
    wrong = [{"role": "assistant", "content": answer}]
    return [*messages, *wrong, *_user_turn(_fill(REPAIR_TEMPLATE, error=error))]


def _user_turn(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def _fill(template: str, **values: str) -> str:
    """Put the values at their ``{places}``, in one pass: braces in problems and in templates mean nothing else."""
    return re.sub(r"\{(" + "|".join(values) + r")\}", lambda place: values[place.group(1)], template)
