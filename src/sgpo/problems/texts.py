"""When two problems have the same text, however they are set: spaces, capitals and dollar signs do not count."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_NOTHING = re.compile(r"\\[()\[\],;:! ]|\$+|\\(?:left|right|displaystyle)(?![a-zA-Z])")
_FRACTION = re.compile(r"\\[dt]frac(?![a-zA-Z])")
_SPACE = re.compile(r"(?<!\w) | (?!\w)")  # one between two letters or digits stays: "1 2" is not "12"
_WORD = re.compile(r"\w+")


def normalised_text(text: str) -> str:
    r"""A text in one form. Example: ``"Find  $x$ ."`` and ``"find \(x\)"`` are both ``"find x"``."""
    text = _NOTHING.sub(" ", _FRACTION.sub(r"\\frac", unicodedata.normalize("NFKC", text)))
    return _SPACE.sub("", " ".join(text.casefold().split())).rstrip(".")


def text_key(text: str) -> str:
    """16 hexadecimal digits that are equal for equal normalised texts."""
    return hashlib.sha256(normalised_text(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def words_of(text: str) -> list[str]:
    """Its words and numbers, in small letters."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
