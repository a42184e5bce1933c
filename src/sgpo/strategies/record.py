"""A strategy in its three parts, and the one text that both the strong model writes and the student reads.

    Problem type: linear equation
    Strategy: undo the outermost operation first, each by its inverse
    Steps: (a) find the outermost operation (b) apply its inverse to both sides (c) go on inwards

Models decorate (bold labels, bullets, numbers for letters, a sentence in front), which is read all the same and written
back plainly. What is not three parts in this order is refused with a message that the model can be told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LABELS = ("Problem type", "Strategy", "Steps")


class StrategyFormatError(ValueError):
    """A text that is not a strategy in three parts; the message says what is wrong, for the one who wrote it."""


@dataclass(frozen=True)
class Strategy:
    """What kind of problem it is, what solves it, and the steps in order.

    Example: ``Strategy("linear equation", "undo each operation by its inverse", ("find the outermost operation",
    "apply its inverse to both sides"))``
    """

    problem_type: str
    strategy: str
    steps: tuple[str, ...]

    @cached_property
    def text(self) -> str:
        """The strategy as it stands in the guided prompt."""
        listed = " ".join(f"({letter}) {step}" for letter, step in zip(LETTERS, self.steps, strict=False))
        return f"Problem type: {self.problem_type}\nStrategy: {self.strategy}\nSteps: {listed}"


def parse_strategy(text: str) -> Strategy:
    """Read a strategy from a model's answer; raises ``StrategyFormatError`` that says what to mend."""
    problem_type, strategy, steps = _parts(_without_fence(text))
    return Strategy(_one_line(problem_type), _one_line(strategy), _split_steps(steps))


# Labels stand at the start of a line, whatever decorates them: "**Strategy:**", "## Steps", "2. Strategy:".
_LABEL = re.compile(
    r"^[ \t>#*_\-]*(?:\(?[1-3][.)][ \t]*)?[*_]*(problem[ \t]+type|strategy|steps)[*_]*[ \t]*(?:[:：][*_]*|(?=\n|\Z))",
    re.IGNORECASE | re.MULTILINE,
)
_OTHER_LABEL = re.compile(r"^[ \t>#*_]*([A-Z][A-Za-z]+(?: [A-Za-z]+){0,2})[*_]*[:：]", re.MULTILINE)
_FENCE = re.compile(r"\A\s*```[a-z]*\n(.*?)\n?```\s*\Z", re.DOTALL)


def _without_fence(text: str) -> str:
    fenced = _FENCE.match(text)
    return fenced.group(1) if fenced else text


def _parts(text: str) -> list[str]:
    labels = list(_LABEL.finditer(text))
    found = [" ".join(label.group(1).capitalize().split()) for label in labels]
    if found != list(LABELS):
        has = ", ".join(found) or "none of them"
        raise StrategyFormatError(
            "the answer must have exactly three parts, each starting a line, in this order: 'Problem type:', "
            f"'Strategy:', 'Steps:'; it has {has}"
        )
    ends = [label.start() for label in labels[1:]] + [len(text)]
    parts = [text[label.end() : end].strip() for label, end in zip(labels, ends, strict=True)]
    for name, part in zip(LABELS, parts, strict=True):
        if not part.strip("*_ \n"):
            raise StrategyFormatError(f"the part '{name}:' is empty")
    if other := _OTHER_LABEL.search(parts[-1]):
        raise StrategyFormatError(f"there is a part {other.group(1)!r} after the steps; write the three parts only")
    return parts


def _one_line(part: str) -> str:
    return " ".join(part.split()).strip("*_ ")


# How steps are told apart, in the order in which it is tried: (a), then a) or a. at the start of a line, 1. 1) (1)
# there, and bullets.
_LETTER_MARKER = re.compile(r"\(([a-z])\)[*_]*\s+")  # where it starts the part, or follows a space or "*"
_LINE_MARKERS = (
    re.compile(r"^[ \t*_]*\(?([a-z])[.)][*_]*[ \t]+", re.MULTILINE),
    re.compile(r"^[ \t*_]*(?:[Ss]tep[ \t]+)?\(?([0-9]{1,2})[.):][*_]*[ \t]+", re.MULTILINE),
    re.compile(r"^[ \t]*([-*•])[ \t]+", re.MULTILINE),
)
_STRAY_LETTER = re.compile(r"(?:^|\s)\(([a-z])\)\s")


def _split_steps(part: str) -> tuple[str, ...]:
    for cuts in _possible_cuts(part):
        if cuts and not part[: cuts[0][0]].strip("*_ \n"):
            ends = [start for start, _ in cuts[1:]] + [len(part)]
            steps = tuple(_one_line(part[start:end]) for (_, start), end in zip(cuts, ends, strict=True))
            return _validated(steps)
    raise StrategyFormatError("the steps must be lettered and start with (a): 'Steps: (a) ... (b) ... (c) ...'")


def _possible_cuts(part: str) -> Iterator[list[tuple[int, int]]]:
    """For each way of marking steps: where each marker begins and ends."""
    cuts: list[tuple[int, int]] = []
    for marker in _LETTER_MARKER.finditer(part):
        before = part[: marker.start()][-1:]
        if marker.group(1) == LETTERS[len(cuts) : len(cuts) + 1] and (before in ("", "*") or before.isspace()):
            cuts.append(marker.span())
    yield cuts
    for pattern in _LINE_MARKERS:
        yield [match.span() for match in pattern.finditer(part)]


def _validated(steps: tuple[str, ...]) -> tuple[str, ...]:
    if len(steps) > len(LETTERS):
        raise StrategyFormatError(f"there are {len(steps)} steps; write a few general ones")
    for letter, step in zip(LETTERS, steps, strict=False):
        if not step:
            raise StrategyFormatError(f"step ({letter}) is empty")
    for index, step in enumerate(steps):
        strays = [stray.group(1) for stray in _STRAY_LETTER.finditer(step)] if "(" in step else []
        later = [letter for letter in strays if index < LETTERS.index(letter) <= len(steps) + 1]  # "(x)" is a formula
        if later:
            raise StrategyFormatError(f"the steps are not lettered in order: ({later[0]}) stands inside another step")
    return steps


@dataclass(frozen=True)
class Limits:
    """How long a strategy may be. Example: ``Limits(characters=1500, steps=12)``"""

    characters: int = 1500
    steps: int = 12


def structure_flaw(strategy: Strategy, limits: Limits) -> str | None:
    """What is wrong with the form of a strategy, None if nothing is."""
    if not strategy.steps:
        return "there are no steps"
    if len(strategy.steps) > limits.steps:
        return f"{len(strategy.steps)} steps, more than {limits.steps}"
    if len(strategy.text) > limits.characters:
        return f"{len(strategy.text)} characters, more than {limits.characters}"
    return None
