"""Style, mathematics or content: what the words are whose tokens a strategy changes.

A rough division by fixed lists of English words (words-*.txt). *Mathematics*: a word with a digit or a formula's sign,
or a word for an operation, a quantity or an object of mathematics. *Style*: punctuation, layout, special tokens, and
words that a text on any subject has (articles, pronouns, connectives, "let", "first", "therefore"). *Content*:
everything else, such as "apples" or "Monday".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

STYLE, MATHEMATICS, CONTENT = KINDS = ("style", "mathematics", "content")
DOMINANT = 0.5  # share of the divergence on style from which on the report warns

FORMULA = re.compile(r"[0-9=+*/^<>%$\\×÷−±√≤≥≠≈∑∫π°{}_]|(?<!\S)-(?!\S)|^[b-hj-zB-HJ-Z]$")
LETTERS = re.compile(r"[^\W\d_]+", re.UNICODE)
MARKUP = re.compile(r"\*\*+|__+|~~+|`+|^#+$|^[-*>]$")  # of Markdown
SPECIAL = re.compile(r"^(<[^\s<>]*>)+$")


def _words(kind: str) -> frozenset[str]:
    return frozenset(Path(__file__).with_name(f"words-{kind}.txt").read_text(encoding="utf-8").split())


MATHEMATICAL = _words("mathematics")
STYLISTIC = _words("style")


def kind_of_word(word: str) -> str:
    """Of a word without the space around it. Example: ``kind_of_word("Therefore,") == "style"``"""
    word = MARKUP.sub("", word)
    if SPECIAL.match(word):
        return STYLE
    names = {name.lower() for name in LETTERS.findall(word)}
    if FORMULA.search(word) or names & MATHEMATICAL:
        return MATHEMATICS
    return STYLE if names <= STYLISTIC else CONTENT


def words_of_tokens(texts: Sequence[str]) -> Iterator[tuple[str, range]]:
    """The words of an answer, each with its tokens: those up to the next one that begins with, or follows, a space."""
    first, glued = 0, False
    for number, text in enumerate(texts):
        if number > first and (text[:1].isspace() or not glued):
            yield "".join(texts[first:number]).strip(), range(first, number)
            first = number
        glued = (bool(text.strip()) and not text[-1:].isspace()) or (not text and glued)
    if texts:
        yield "".join(texts[first:]).strip(), range(first, len(texts))


def kinds_of(texts: Sequence[str]) -> list[str]:
    """The kind of each token: that of its word."""
    return [kind for word, tokens in words_of_tokens(texts) for kind in [kind_of_word(word)] * len(tokens)]


def shares_of(kinds: Sequence[str], values: Sequence[float]) -> Mapping[str, float]:
    """The share of a sum over the tokens that lies on each kind; 0 everywhere where the sum is 0."""
    total = sum(values)
    of_kind = {kind: sum(value for each, value in zip(kinds, values, strict=True) if each == kind) for kind in KINDS}
    return {kind: part / total if total > 0 else 0.0 for kind, part in of_kind.items()}
