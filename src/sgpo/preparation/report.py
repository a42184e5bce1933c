"""One page on prepared data, as Markdown and as JSON."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sgpo.files import replacing
from sgpo.preparation.answers import kind_of_answer
from sgpo.preparation.dropped import Dropped
from sgpo.preparation.sources import Found, Read
from sgpo.preparation.strategies import Joined


@dataclass(frozen=True)
class Report:
    """What was read, dropped and written.

    Example: ``Report([Read("train.jsonl", "gsm8k", 7473)], {"rows": Dropped(), ...}, Joined(), {"test.jsonl": 1319},
    {"rl": {"file": "rl.jsonl", "problems": 794, ...}}, {"seed": 0, ...})``
    """

    sources: Sequence[Read]
    dropped: Mapping[str, Dropped]  # of "rows", "responses" and "strategies"
    strategies: Joined
    benchmarks: Mapping[str, int]  # problems of each
    parts: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {
            "sources": [asdict(each) for each in self.sources],
            "dropped": {
                what: {kind: asdict(count) for kind, count in each.counts.items()}
                for what, each in self.dropped.items()
            },
            "strategies": asdict(self.strategies),
            "benchmarks": dict(self.benchmarks),
            "parts": {name: dict(part) for name, part in self.parts.items()},
            "options": dict(self.options),
        }


def described(part: Sequence[Found]) -> dict[str, Any]:
    """The numbers of a part: lengths in characters, kinds of answers, responses a problem, strategies."""
    responses = [response.characters for each in part for response in each.responses]
    return {
        "problems": len(part),
        "with_response": sum(bool(each.responses) for each in part),
        "responses": len(responses),
        "with_strategy": sum(each.strategy is not None for each in part),
        "sources": dict(Counter(each.source for each in part).most_common()),
        "answers": dict(Counter(kind_of_answer(each.gold) for each in part).most_common()),
        "characters": {
            "prompt": spread([len(each.prompt) for each in part]),
            "answer": spread([len(each.gold) for each in part]),
            "response": spread(responses),
            "strategy": spread([len(each.strategy) for each in part if each.strategy is not None]),
        },
    }


def spread(lengths: Sequence[int]) -> dict[str, float] | None:
    """Median, mean, the length that nine tenths do not exceed, and the longest; None without any."""
    if not lengths:
        return None
    ordered = sorted(lengths)
    return {
        "median": statistics.median(ordered),
        "mean": round(statistics.fmean(ordered), 1),
        "90 %": ordered[-(-9 * len(ordered) // 10) - 1],
        "longest": ordered[-1],
    }


def save_report(report: Report, folder: Path) -> None:
    """As report.json and report.md."""
    with replacing(folder / "report.json") as partial:
        text = json.dumps(report.as_dict(), indent=2, ensure_ascii=False, default=str)
        partial.write_text(text + "\n", encoding="utf-8")
    with replacing(folder / "report.md") as partial:
        partial.write_text(page_of(report), encoding="utf-8")


# ---------------------------------------------------------------------- as Markdown


def page_of(report: Report) -> str:
    lines = ["# Prepared data", "", *_read(report), *_parts(report), *_dropped(report), *_strategies(report)]
    lines += ["## Options", "", *_table(["option", "value"], report.options.items())]
    return "\n".join(lines).rstrip() + "\n"


def _read(report: Report) -> Iterator[str]:
    yield from _table(["source", "layout", "rows"], [(each.source, each.layout, each.rows) for each in report.sources])
    if report.benchmarks:
        shown = ", ".join(f"{name} ({count} problems)" for name, count in report.benchmarks.items())
        yield from (f"Compared with {shown}.", "")
    else:
        yield from ("No benchmark was given, so it was not looked for problems of benchmarks.", "")


def _parts(report: Report) -> Iterator[str]:
    yield from ("## Parts", "")
    names = list(report.parts)
    parts = list(report.parts.values())
    counts = ("problems", "with_response", "responses", "with_strategy", "fingerprint")
    rows = [(name.replace("_", " "), *(part[name] for part in parts)) for name in counts]
    for field in ("prompt", "answer", "response", "strategy"):
        rows.append((f"characters of a {field}", *(_spread(part["characters"][field]) for part in parts)))
    kinds = list(dict.fromkeys(kind for part in parts for kind in part["answers"]))
    rows += [(f"answers: {kind}", *(part["answers"].get(kind, 0) for part in parts)) for kind in kinds]
    yield from _table(["", *(str(report.parts[name]["file"]) for name in names)], rows)
    yield from ("Characters are median / mean / 90 % / longest.", "")


def _spread(found: Mapping[str, float] | None) -> str:
    return "" if found is None else " / ".join(f"{value:g}" for value in found.values())


def _dropped(report: Report) -> Iterator[str]:
    for what, each in report.dropped.items():
        yield from (f"## Dropped: {what}", "")
        if each.counts:
            rows = [(kind, count.number, count.example) for kind, count in each.counts.items()]
            yield from _table(["why", "how many", "example"], rows)
        else:
            yield from ("None.", "")


def _strategies(report: Report) -> Iterator[str]:
    found = report.strategies
    if found.checked:
        joined = f"{found.joined} of {found.offered} strategies were joined to problems; " if found.offered else ""
        yield from (f"{joined}{found.passed} of {found.checked} passed the checks of form and leaks.", "")


def _table(head: Sequence[Any], rows: Any) -> Iterator[str]:
    for number, row in enumerate([head, *rows]):
        yield f"| {' | '.join(_cell(each) for each in row)} |"
        if number == 0:
            yield "|" + "---|" * len(head)
    yield ""


def _cell(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str("" if value is None else value)
    return " ".join(text.replace("|", "\\|").split())
