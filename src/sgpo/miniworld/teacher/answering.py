"""What the teacher says to a question, faults on the way aside."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from sgpo.miniworld.documents import expert_solution
from sgpo.miniworld.solutions import expert_dialect
from sgpo.miniworld.teacher.candidates import StrategyKind, draw_kind, generator, write
from sgpo.miniworld.teacher.judging import ratings, scores
from sgpo.miniworld.teacher.questions import TeacherQuestion

ERRORS = 0.1  # share of solutions with slips
CHARACTERS_A_TOKEN = 4


@dataclass(frozen=True)
class Text:
    """One sample, its finish reason, and for a candidate its kind.

    Example: ``Text("Problem type: ...", "stop", kind="vague")``
    """

    text: str
    finish_reason: str = "stop"
    kind: StrategyKind | None = field(default=None, compare=False)


def answers(asked: TeacherQuestion, attempt: int, garbled: float) -> list[Text]:
    """The samples of an answer.

    They depend on the request alone, but for solutions: a client that is not content with one sends the same request
    again, and wants another sample. ``garbled`` is the share of candidates that are not in three parts.
    """
    texts = [_text(asked, sample, attempt, garbled) for sample in range(asked.samples)]
    return [_cut(text, asked.max_tokens) for text in texts]


def _text(asked: TeacherQuestion, sample: int, attempt: int, garbled: float) -> Text:
    if asked.kind == "solve":
        rng = generator(f"{asked.digest} {attempt}", sample)
        return Text(expert_dialect(asked.puzzle.text, expert_solution(asked.puzzle, rng, ERRORS), rng))
    if asked.kind == "score":
        return Text(json.dumps({"scores": scores(asked.puzzle, asked.strategies, asked.digest)}))
    if asked.kind == "quality":
        return Text(json.dumps({"scores": ratings(asked.puzzle, asked.strategies[0], asked.digest)}))
    rng = generator(asked.digest, sample)
    kind = draw_kind(rng)
    strategy = write(kind, asked.puzzle, rng).text
    if not asked.repairing and rng.random() < garbled:
        strategy = strategy.replace("\nSteps: ", "\n")
    return Text(strategy, kind=kind)


def _cut(text: Text, max_tokens: int) -> Text:
    characters = max_tokens * CHARACTERS_A_TOKEN
    return text if len(text.text) <= characters else Text(text.text[:characters], "length", text.kind)


def tokens(text: str) -> int:
    """About how many tokens a usual tokenizer makes of a text."""
    return -(-len(text) // CHARACTERS_A_TOKEN)
