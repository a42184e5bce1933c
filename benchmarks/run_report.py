"""How long `sgpo report` needs for a run of 500 updates, and a browser for its page.

    python benchmarks/run_report.py [--updates 500] [--runs 5] [--browser /usr/bin/chromium] [--output report.json]

The run is made up, its shapes are those of a real one: 30 metrics a line, and every 50 updates a table of 64 problems
with 8 autonomous and 4 guided completions of about 5,400 characters each, and token views of four targets of 1,000
tokens. Each run is a new window of a headless Chromium that opens the file from disk: *loaded* is the time until the
page has drawn itself and reacts, *hover* that from a key on a chart to the next frame, *search* that from a typed
letter to the next frame, *select* that from a key to the token at the other end of a target.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from common import write_report
from page_times import Actions, add_options, time_page
from token_view import Words, made_up_answer

from sgpo.inspection.page import answer_data
from sgpo.inspection.texts import TokenNames, token_texts
from sgpo.reports.run_folder import read_runs
from sgpo.reports.run_page import CHARTS, run_report
from sgpo.runs.folder import views_path
from sgpo.training.token_views import LONGEST, TARGETS

ACTIONS: Actions = {
    "hover": (".chart svg[tabindex]", lambda page: page.keyboard.press("End")),
    "search": ("#search", lambda page: page.keyboard.press("w")),
    "select": ("#answer", lambda page: page.keyboard.press("End")),
}
PROBLEMS, GROUPS, WORDS, METRICS, EVERY = 64, {"autonomous": 8, "guided": 4}, 700, 30, 50


def make_run(folder: Path, updates: int) -> None:
    numbers = random.Random(0)
    names = [name for chart in CHARTS for name in chart.lines]
    names += [f"other/{place}" for place in range(METRICS - len(names))]
    lines = [{"step": step, **{name: numbers.random() for name in names}} for step in range(1, updates + 1)]
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "completions").mkdir()
    for step in range(0, updates, EVERY):
        rows = [
            {
                "step": step,
                "problem": f"{step}-{problem}",
                "prompt": f"Compute {problem}",
                "answer": "3",
                "strategy": f"Problem type: type {problem % 12}\nStrategy: s\nSteps: t",
                "group": group,
                "completion": " ".join(f"word{numbers.randrange(1000)}" for _ in range(WORDS)),
                "correct": numbers.random() < 0.5,
            }
            for problem in range(PROBLEMS)
            for group, count in GROUPS.items()
            for _ in range(count)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "completions" / f"step-{step:06d}.parquet")
        views_path(folder, step).write_text(json.dumps([made_up_view(step, f"{step}-{n}") for n in range(TARGETS)]))


def made_up_view(step: int, name: str) -> dict[str, Any]:
    """Of a target that is as long as one may be."""
    answer, words = made_up_answer(LONGEST), Words()
    data = answer_data(answer, token_texts(words, answer.ids), TokenNames(words), frozenset({0}))
    mean = float(answer.measures.divergence.mean())
    return {"step": step, "id": name, "mean_divergence": mean, "answer": data | {"after_p": None}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=500)
    add_options(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder) / "run", options.updates)
        start = time.process_time()
        text = run_report(read_runs([Path(folder) / "run"]))
        report: dict[str, Any] = {"updates": options.updates, "megabytes": len(text.encode()) / 1e6}
        report["written"] = time.process_time() - start
        path = Path(folder) / "report.html"
        path.write_text(text, encoding="utf-8")
        print(f"{options.updates} updates, {report['megabytes']:.1f} MB, made in {report['written']:.1f} s of a core")
        report["runs"] = time_page(path, ACTIONS, options, width=1280)
    write_report(options.output, report)


if __name__ == "__main__":
    main()
