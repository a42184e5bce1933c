"""How well checks and scores tell candidates apart whose kind is known: a confusion table of the mini-world.

    python benchmarks/strategy_quality.py --problems 2000 --output runs/strategy_quality

The teacher's server writes five candidates a problem, of five kinds, and keeps in its log which is which; the pipeline
is `sgpo strategies extract` as anybody runs it. Rows are the kinds. *Dropped* counts what the checks found first;
*scored* what the judge gave to those that passed, by the grades of `sgpo strategies quality`; *kept* what became the
strategy of its problem with the minimum score of the quickstart. Then one random candidate of each problem is judged by
`sgpo strategies quality`, which writes its report and its picture.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from sgpo.command_runner import ENVIRONMENT, Command, serving
from sgpo.miniworld.teacher import MODEL
from sgpo.miniworld.teacher.candidates import KINDS
from sgpo.miniworld.teacher.questions import read_request
from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.problems import save_problems
from sgpo.quickstart.run import LEAST_SCORE
from sgpo.strategies.quality import GRADES, grade

FLAGS = ("answer", "intermediate", "computation")


def run(action: str, url: str, **options: Any) -> None:
    command = Command(f"strategies {action}", {"base-url": url, "model": MODEL, **options})
    arguments = [sys.executable, "-m", "sgpo", *command.arguments]
    subprocess.run(arguments, check=True, env={**os.environ, **ENVIRONMENT})


def kinds_by_problem(log: Path) -> dict[str, list[str]]:
    """The kinds of the candidates of each problem, by its text."""
    requests = [json.loads(line) for line in log.read_text().splitlines()]
    return {read_request(r["body"]).puzzle.text: r["kinds"] for r in requests if r["kind"] == "extract"}


def confusion(rows: list[dict[str, Any]], kinds: dict[str, list[str]]) -> dict[str, Counter[str]]:
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        texts = [candidate["text"] for candidate in row["candidates"]]
        kept = texts.index(row["strategy"]) if row["strategy"] else None
        for number, (candidate, kind) in enumerate(zip(row["candidates"], kinds[row["prompt"]], strict=True)):
            flag = candidate["flags"][0].partition(":")[0] if candidate["flags"] else None
            table[kind]["candidates"] += 1
            table[kind][flag or grade(candidate["score"])] += 1
            table[kind]["kept"] += number == kept
    return table


def print_table(table: dict[str, Counter[str]]) -> None:
    columns = ("candidates", *FLAGS, *GRADES, "kept")
    print(f"| kind | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for kind in KINDS:
        assert sum(table[kind][column] for column in (*FLAGS, *GRADES)) == table[kind]["candidates"], kind
        print(f"| {kind} | {' | '.join(str(table[kind][column]) for column in columns)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=11, help="of the problems (default 11)")
    parser.add_argument("--output", type=Path, default=Path("runs/strategy_quality"))
    options = parser.parse_args()
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.jsonl"):
        stale.unlink()
    sizes = Sizes.only(rl=options.problems)
    save_problems(problem_sets(options.seed, sizes)["rl"], folder / "problems.jsonl")
    log = folder / "requests.jsonl"
    with serving(Command("teacher serve", {"port": 0, "log": log}), folder / "teacher.log") as url:
        strategies = folder / "strategies.jsonl"
        run("extract", url, problems=folder / "problems.jsonl", output=strategies, **{"min-score": LEAST_SCORE})
        rows = [json.loads(line) for line in strategies.read_text().splitlines()]
        table = confusion(rows, kinds_by_problem(log))
        rng = random.Random(options.seed)
        drawn = [{**row, "strategy": rng.choice(row["candidates"])["text"]} for row in rows]
        (folder / "drawn.jsonl").write_text("".join(json.dumps(row) + "\n" for row in drawn))
        run("quality", url, problems=folder / "drawn.jsonl", output=folder / "quality.json", seed=options.seed)
    print_table(table)
    kept = sum(counts["kept"] for counts in table.values())
    print(
        f"\nkept {kept} of {len(rows)} problems; right {table['right']['kept']} ({table['right']['kept'] / kept:.1%})"
    )


if __name__ == "__main__":
    main()
