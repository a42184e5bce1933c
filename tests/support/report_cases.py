"""Folders of training runs, made up, for the report of runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HOSTILE_TEXTS = [
    *("</script><script>window.hacked = 1</script>", "<img src=x onerror='window.hacked = 1'>", "\x00\x1b[31mred"),
    *("\u202etxet", "שלום العربية", "\u2028", '"];window.hacked=1;["', "${window.hacked = 1}", "<!--", "&lt;b>"),
]


def completion(problem: str, group: str, correct: bool, text: str = "so 3", **changes: Any) -> dict[str, Any]:
    """A row of a table of completions."""
    row = {
        "step": 0,
        "problem": problem,
        "prompt": f"Compute {problem}",
        "answer": "3",
        "strategy": "Problem type: sums\nStrategy: add\nSteps: (a) add",
        "group": group,
        "completion": text,
        "reward": float(correct),
        "tokens": 7,
        "correct": correct,
        "truncated": False,
        "target": False,
        "alpha": 0.25,
        "reason": "a reason",
    }
    return {**row, **changes}


def write_table(run: Path, step: int, rows: Iterable[dict[str, Any]]) -> None:
    path = run / "completions" / f"step-{step:06d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([{**row, "step": step} for row in rows]), path)


def write_run(run: Path, *, updates: int = 20, finished: bool = True, config: dict[str, Any] | None = None) -> Path:
    """A run with rewards that rise from 0 to 1, two evaluations, and no completions."""
    run.mkdir(parents=True)
    lines: list[dict[str, Any]] = [
        {
            "step": step,
            "loss": 0.1,
            "reward/autonomous": step / updates,
            "reward/guided": 1.0,
            "pass_rate/autonomous": step / updates / 2,
            "alpha": 1 - step / updates,
            "entropy": 0.5,
            "length/autonomous": 40 + step,
            "seconds/sample": 2.0,
            "seconds/optimise": 1.0,
        }
        for step in range(1, updates + 1)
    ]
    for step, score in ((0, 0.2), (updates, 0.5)):
        lines.append({"step": step, "eval_avg_at_4": score, "eval_standard_error": 0.05, "eval_problems": 100})
    if finished:
        lines.append({"step": updates, "train_runtime": 60.0})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "config.yaml").write_text(
        json.dumps({"method": "sgpo", "model": "a-model", "warmup": None, **(config or {})})
    )
    (run / "data.json").write_text(json.dumps({"train": {"source": "p.jsonl", "problems": 8, "fingerprint": "f00d"}}))
    (run / "README.md").write_text(
        "# x\n\n## Versions\n\n| | |\n|---|---|\n| sgpo | 0.1.0 |\n| torch | 2.13.0 |\n\n## End\n"
    )
    return run


def write_evaluation(folder: Path, shares: dict[str, list[bool]], text: str = "an answer") -> Path:
    """What `sgpo eval --output` leaves: by the id of a problem whether each of its samples is correct."""
    outcomes = [correct for each in shares.values() for correct in each]
    average = sum(outcomes) / len(outcomes)
    summary = {"average": average, "standard_error": 0.01, "k": 4, "problems": len(shares)}
    (folder / "samples").mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"benchmarks": {"test": summary}}))
    rows = [
        {
            "id": name,
            "prompt": f"Compute {name}",
            "answer": "3",
            "completion": f"{text} {number}",
            "correct": correct,
            "truncated": False,
            "length": 5,
        }
        for name, each in shares.items()
        for number, correct in enumerate(each)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "samples" / "test.parquet")
    return folder
