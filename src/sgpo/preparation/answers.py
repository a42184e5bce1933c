r"""Golds and worked solutions as GSM8K writes them, and what kind an answer is.

GSM8K's column ``answer`` holds a worked solution, whose last line is ``#### 72``. Its calculations are annotated,
``48/2 = <<48/2=24>>24``; the annotations are left out, and the last line becomes ``The answer is \boxed{72}.``
"""

from __future__ import annotations

import re

from sgpo.verification import last_boxed, normalise

_FINAL = re.compile(r"\s*####[ \t]*(\S[^\n]*)\s*\Z")
_ANNOTATION = re.compile(r"<<([^<>]*)>>")
_NUMBER = re.compile(r"-?[0-9]{1,3}(?:[ ,][0-9]{3})+(?![0-9])(?:\.[0-9]+)?|-?[0-9]*\.?[0-9]+")


def split_worked(answer: str) -> tuple[str, str] | None:
    """The worked solution and the gold of a text in GSM8K's form; None for any other text."""
    found = _FINAL.search(answer)
    if found is None:
        return None
    gold = found.group(1).strip()
    return answer[: found.start()].strip(), gold.replace(",", "") if _NUMBER.fullmatch(gold) else gold


def worked_response(worked: str, gold: str) -> str:
    """The solution as a model is to write it."""
    return f"{_ANNOTATION.sub('', worked).strip()}\n\nThe answer is \\boxed{{{gold}}}."


def result_of(worked: str, gold: str) -> str | None:
    """What a worked solution ends with; None without any number.

    That is the gold if its last calculation or its last line has it, else the last number.
    """
    calculations = _ANNOTATION.findall(worked)
    last_line = _ANNOTATION.sub("", worked).rpartition("\n")[2]
    numbers = [_plain(each) for each in _NUMBER.findall(last_line)]
    results = [_plain(calculations[-1].rpartition("=")[2])] if calculations else []
    if _plain(gold) in [*results, *numbers]:
        return gold
    ends = numbers or results
    return ends[-1] if ends else None


def _plain(number: str) -> str:
    """Example: ``5 000 000`` and ``5,000,000.00`` are both ``5000000``."""
    text = re.sub(r"[ ,]", "", number.strip())
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def gold_of(answer: str) -> str:
    """The gold alone, where it stands in a box at the end of a text."""
    boxed = last_boxed(answer)
    return (answer if boxed is None else boxed).strip()


_KINDS = (
    ("whole number", re.compile(r"[-+]?[0-9]{1,3}(?:,[0-9]{3})+|[-+]?[0-9]+")),
    ("decimal", re.compile(r"[-+]?[0-9,]*\.[0-9]+")),
    ("fraction", re.compile(r"[-+]?(?:\\frac\{[0-9]+\}\{[0-9]+\}|\\frac[0-9]{2}|[0-9]+/[0-9]+)")),
    ("letter", re.compile(r"\(?[A-Za-z]\)?")),
    ("pair, set or interval", re.compile(r"(?:[(\[]|\\\{).*,.*(?:[)\]]|\\\})|[^,]+(?:,[^,]+)+")),
    ("equation or relation", re.compile(r".*(?:[=<>]|\\(?:leq?|geq?|in|neq?)(?![a-zA-Z])).*")),
    ("words", re.compile(r"[^\W\d_][^\W\d_ ]+(?: [^\W\d_]+)*")),
)


def kind_of_answer(gold: str) -> str:
    """One of a few kinds, for the report."""
    text = normalise(gold)
    return next((name for name, pattern in _KINDS if pattern.fullmatch(text)), "formula")
