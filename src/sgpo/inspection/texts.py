"""The texts of tokens, and the steps that an answer is made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LONGEST_CHARACTER = 8  # tokens; what is not text after so many is shown as it is
LONGEST_STEP = 256  # tokens
FEW_LINES = 3  # an answer of fewer is cut into sentences
UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # a character of which the rest is missing
# The start of a line, the start of a step such as "(b) ", or of a sentence after a full stop.
LINE = re.compile(r"(?<=\n)(?=[^\n])")
SENTENCE = re.compile(r"(?<=\n)(?=[^\n])|(?=(?<!\S)\([a-z]\) )|(?<=[.!?。！？])\s+(?=\S)")


@dataclass(frozen=True)
class TokenText:
    """What a token adds to the text of an answer.

    Example: a character of three bytes, a token each, is ``TokenText("好", 1, 3)``, ``TokenText("", 2, 3)`` and
    ``TokenText("", 3, 3)``; an ordinary token is ``TokenText(" apples")``.
    """

    text: str
    part: int = 1
    parts: int = 1  # tokens that only together are text


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[TokenText]:
    """The texts of the tokens of an answer; put together they are its text, special tokens included.

    A token is decoded behind those before it, as some tokenizers drop the space before a token that stands alone.
    """
    found: list[TokenText] = []
    before, start = 0, 0  # the tokens before `start` have their texts; from `before` on they are decoded again
    for end in range(1, len(ids) + 1):
        known, text = _decode(tokenizer, ids[before:start]), _decode(tokenizer, ids[before:end])
        parts = end - start
        if text.endswith(UNKNOWN) and parts < LONGEST_CHARACTER and end < len(ids):
            continue
        found += [TokenText(text[len(known) :] if part == 0 else "", part + 1, parts) for part in range(parts)]
        before, start = start, end
    return found


class TokenNames:
    """Tokens of the vocabulary as texts. Example: ``TokenNames(tokenizer)([12, 7]) == [" the", "="]``"""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        # Behind another token, so that a space before the token is seen.
        self.anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
        self.known: dict[int, str] = {}

    def __call__(self, ids: Sequence[int]) -> list[str]:
        return [self._name(int(token)) for token in ids]

    def _name(self, token: int) -> str:
        if token not in self.known:
            before = _decode(self.tokenizer, self.anchor)
            text = _decode(self.tokenizer, [*self.anchor, token])[len(before) :]
            if UNKNOWN in text or not text:  # a part of a character: what the vocabulary has
                text = str(self.tokenizer.convert_ids_to_tokens(token) or f"id {token}")
            self.known[token] = text
        return self.known[token]


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def steps_of(texts: Sequence[str]) -> list[range]:
    """The tokens of each step: lines, or sentences and steps such as "(a) ..." where an answer has few lines.

    A token belongs to the step where its first visible character stands. A step has at most LONGEST_STEP tokens.
    """
    text = "".join(texts)
    lines = sum(bool(line.strip()) for line in text.splitlines())
    pattern = LINE if lines >= FEW_LINES else SENTENCE
    starts = [match.end() for match in pattern.finditer(text)]
    steps, place, first = [], 0, 0
    for number, piece in enumerate(texts):
        visible = place + len(piece) - len(piece.lstrip()) if piece.strip() else place
        passed = False
        while starts and starts[0] <= visible:
            starts.pop(0)
            passed = True
        if number > first and ((passed and piece.strip()) or number - first >= LONGEST_STEP):
            steps.append(range(first, number))
            first = number
        place += len(piece)
    return [*steps, range(first, len(texts))] if texts else []
