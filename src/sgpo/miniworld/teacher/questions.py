"""What a chat request asks for: our own prompts, recognised by their templates."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from sgpo.miniworld.families.puzzles import Puzzle
from sgpo.miniworld.teacher.reading import UnknownProblemError, read_puzzle
from sgpo.strategies.prompts import EXTRACT_TEMPLATE, QUALITY_TEMPLATE, SCORE_TEMPLATE

TeacherQuestionKind = Literal["solve", "extract", "score", "quality"]


class RefusedRequestError(ValueError):
    """A request that the teacher cannot answer; the message goes to the client with status 400."""


@dataclass(frozen=True)
class TeacherQuestion:
    """A question about a puzzle: for `score` with the candidates, for `quality` with the one strategy.

    ``repairing`` is true where the client says what was wrong with an earlier answer.

    Example: ``TeacherQuestion("extract", Puzzle(...), digest="9f3c...", samples=5, max_tokens=4096)``
    """

    kind: TeacherQuestionKind
    puzzle: Puzzle
    digest: str
    samples: int = 1
    max_tokens: int = 4096
    strategies: tuple[str, ...] = ()
    repairing: bool = False


def digest_of(body: Mapping[str, Any]) -> str:
    """The request's hash: 64 hexadecimal digits that are the same for equal requests, whatever the order of fields."""
    return sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_request(body: Any) -> TeacherQuestion:
    """What a chat request asks. Raises `RefusedRequestError`."""
    if not isinstance(body, Mapping):
        raise RefusedRequestError("a chat request is a JSON object")
    texts = _texts(body.get("messages"))
    samples = _whole_number(body, "n", 1)
    limit = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    max_tokens = _whole_number(body, limit, 4096)
    first = next((text for role, text in texts if role == "user"), "")
    kind, parts = _recognise(first)
    try:
        puzzle = read_puzzle(parts["problem"])
    except UnknownProblemError as error:
        raise RefusedRequestError(f"this teacher knows the mini-world only, and this is {error}") from error
    repairing = sum(role == "user" for role, _ in texts) > 1
    return TeacherQuestion(kind, puzzle, digest_of(body), samples, max_tokens, _strategies(kind, parts), repairing)


def _texts(messages: Any) -> list[tuple[str, str]]:
    try:
        texts = [(message["role"], message["content"]) for message in messages]
    except (TypeError, KeyError):
        texts = []
    if not texts or not all(isinstance(text, str) for _, text in texts):
        raise RefusedRequestError("messages must be a list of objects with role and content, both texts")
    return texts


def _whole_number(body: Mapping[str, Any], name: str, otherwise: int) -> int:
    value = body.get(name)
    if value is None:
        return otherwise
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RefusedRequestError(f"{name} must be a whole number of at least 1, not {value!r}")
    return value


def _pattern(template: str) -> re.Pattern[str]:
    """What texts look like that were filled into a template."""
    parts = re.split(r"(\{(?:problem|response|candidates|strategy|count)\})", template)
    return re.compile(
        "".join(f"(?P<{p[1:-1]}>.*?)" if number % 2 else re.escape(p) for number, p in enumerate(parts)), re.S
    )


_TEMPLATES: dict[TeacherQuestionKind, re.Pattern[str]] = {
    "extract": _pattern(EXTRACT_TEMPLATE),
    "score": _pattern(SCORE_TEMPLATE),
    "quality": _pattern(QUALITY_TEMPLATE),
}


def _recognise(text: str) -> tuple[TeacherQuestionKind, Mapping[str, str]]:
    for kind, pattern in _TEMPLATES.items():
        if found := pattern.fullmatch(text):
            return kind, found.groupdict()
    return "solve", {"problem": text}


def _strategies(kind: TeacherQuestionKind, parts: Mapping[str, str]) -> tuple[str, ...]:
    if kind == "quality":
        return (parts["strategy"],)
    if kind == "score":
        return tuple(re.split(r"(?:^|\n\n)Candidate \d+:\n", parts["candidates"])[1:])
    return ()
