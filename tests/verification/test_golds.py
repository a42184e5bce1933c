"""Golds of the benchmarks' style: rewritings are accepted, near misses are not."""

from __future__ import annotations

import json
import os
import re
from fractions import Fraction
from pathlib import Path

import pytest
from gold_cases import CASES, LENIENT

from sgpo.verification import check_gold, verify_many
from sgpo.verification.answers import gold_text


def boxed(answer: str) -> str:
    return rf"\boxed{{{answer}}}"


def judge(rows: list[tuple[str, str]]) -> list[bool]:
    """(gold, answer) pairs; a machine that is busy with other things gets its time."""
    return [verdict.correct for verdict in verify_many([(boxed(answer), gold) for gold, answer in rows], timeout=60)]


def test_golds_and_their_rewritings_are_correct():
    rows = [(gold, answer) for gold, (same, _) in CASES.items() for answer in (gold_text(gold), *same)]
    assert [row for row, correct in zip(rows, judge(rows), strict=True) if not correct] == []
    assert len(CASES) >= 60
    assert all(map(check_gold, CASES))


def test_near_misses_are_wrong():
    rows = [(gold, answer) for gold, (_, near) in CASES.items() for answer in near]
    assert len(rows) >= 200
    assert [row for row, correct in zip(rows, judge(rows), strict=True) if correct] == []


def test_the_documented_exceptions_are_those():
    assert judge(LENIENT) == [True] * len(LENIENT)


# --- the benchmarks themselves, where they are at hand ----------------------------------------------------------------


def benchmark_golds() -> list[str]:
    folder = os.environ.get("SGPO_BENCHMARKS_DIR")
    if not folder:
        pytest.skip("SGPO_BENCHMARKS_DIR names no folder of JSON files with answers, such as MATH-500.json")
    return [row["answer"] for file in sorted(Path(folder).glob("*.json")) for row in json.loads(file.read_text())]


def rewritings(gold: str) -> list[str]:
    """What a person would call the same."""
    text = gold_text(gold)
    found = {
        f" {text} ",
        f"${text}$",
        rf"\({text}\)",
        f"{text}.",
        text.replace(r"\frac", r"\dfrac"),
        text.replace(r"\dfrac", r"\frac"),
        text.replace(r"\left", "").replace(r"\right", ""),
        re.sub(r"(?<!\\left)(?<!\\)([(\[])(.*)([)\]])$", r"\\left\1\2\\right\3", text),
        text.replace("+", " + ").replace("-", " - "),
        re.sub(r" *([-+,=()]) *", r"\1", text),
        text.replace(",", ", ") if re.search(r"[(\[{].*,", text) else text,
        text.replace(r"^\circ", ""),
        text.replace(r"^\circ", r"^{\circ}"),
        text.replace(r"^\circ", r"\text{ degrees}"),
        re.sub(r"\s*\\(text|mbox)\{ *(cm|inches|cents|degrees)\}(\^2)?", "", text),
        text.replace(r"\mbox", r"\text"),
        text.replace(r"\$", ""),
        text.replace(r",\!", ",").replace(", ", ",") if re.fullmatch(r"[\\$!, 0-9]+", text) else text,
        text.replace("pmatrix", "bmatrix"),
        re.sub(r"\\sqrt(\d)", r"\\sqrt{\1}", text),
        re.sub(r"\\text\{(\w+)\}", r"\1", text),
    }
    if re.fullmatch(r"-?[0-9]+", text):
        found |= {
            f"{int(text):,}",
            f"{int(text):,}".replace(",", r"{,}"),
            f"{text}.0",
            rf"\frac{{{2 * int(text)}}}{{2}}",
        }
    if fraction := re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}", text):
        value = Fraction(int(fraction[2]), int(fraction[3]))
        found |= {f"{fraction[1]}{fraction[2]}/{fraction[3]}"}
        if (10**12 * value).denominator == 1:
            found.add(f"{fraction[1]}{float(value):.12f}".rstrip("0"))
    return sorted(found - {text})


def near_misses(gold: str) -> list[str]:
    """Each number one more, one number with another sign, another base, exponent, order or end."""
    text = gold_text(gold)
    found = set()
    for match in re.finditer(r"(?<![\d,!.])(?<!! )\d+(?![\d]|,\\?!?)", text):
        found.add(text[: match.start()] + str(int(match[0]) + 1) + text[match.end() :])
    if re.match(r"\\?[0-9fsd$(]", text) and not text.startswith(("(", r"\d")):
        found.add("-" + text)
    if pair := re.fullmatch(r"([(\[])([^()\[\]]*),([^()\[\],]*)([)\]])", text):
        first, second = pair[2].strip(), pair[3].strip()
        found.add(f"{pair[1]}{second},{first}{pair[4]}")
        found |= {f"{'[' if pair[1] == '(' else '('}{first},{second}{pair[4]}"}
        found |= {f"{pair[1]}{first},{second}{']' if pair[4] == ')' else ')'}"}
    return sorted(answer for answer in found if answer not in (text, "-0"))


@pytest.mark.integration
def test_every_benchmark_gold_is_itself():
    rows = [(gold, gold_text(gold)) for gold in benchmark_golds()]
    assert len(rows) >= 500
    assert [row for row, correct in zip(rows, judge(rows), strict=True) if not correct] == []


@pytest.mark.integration
def test_rewritings_of_benchmark_golds_are_correct():
    rows = [(gold, answer) for gold in sorted(set(benchmark_golds())) for answer in rewritings(gold)]
    print(len(rows), "rewritings")
    assert [row for row, correct in zip(rows, judge(rows), strict=True) if not correct] == []


@pytest.mark.integration
def test_near_misses_of_benchmark_golds_are_wrong():
    rows = [(gold, answer) for gold in sorted(set(benchmark_golds())) for answer in near_misses(gold)]
    print(len(rows), "near misses")
    assert [row for row, correct in zip(rows, judge(rows), strict=True) if correct] == []
