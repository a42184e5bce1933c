"""Time and memory of `sgpo data prepare` on a made-up set in LUFFY's layout, as Parquet.

    python benchmarks/prepare.py --rows 50000 --characters 14000

One gold in five is a formula that the verifier's workers are asked about, as in MATH-500 (23 %). One response in twenty
gives its answer in another notation, so that it is compared with algebra; one in fifty has a wrong one, and one row in
a hundred has the text of another.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

WORDS = ("the", "of", "and", "to", "we", "find", "that", "value", "since", "sides", "equal", "circle", "point", "then")
GOLDS = ("{n}", "\\frac{{{n}}}{{7}}", "{n}\\sqrt{{3}}", "({n}, 2)", "{n}x^2+3x-1")


def row(number: int, thoughts: Sequence[str]) -> dict[str, Any]:
    same = number - 1 if number % 100 == 99 else number
    draw = random.Random(same)
    gold = draw.choice(GOLDS).format(n=draw.randrange(2, 5000))
    question = f"Problem {same}: " + " ".join(draw.choices(WORDS, k=60))
    thought = f"{number} {draw.choice(thoughts)}"
    own = gold
    if number % 50 == 0:
        own = "12345678"
    elif number % 20 == 1:
        own = f"0+{gold}"
    return {
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": question}],
        "target": [{"role": "assistant", "content": f"<think>{thought}</think> So it is \\boxed{{{own}}}."}],
        "reward_model": {"ground_truth": gold, "style": "rule"},
    }


def write(path: Path, rows: int, characters: int) -> None:
    draw, writer = random.Random(0), None
    thoughts = [
        (" ".join(draw.choices(WORDS, k=characters // 4)) + " $\\frac{1}{2}$" * (characters // 50))[-characters:]
        for _ in range(100)
    ]
    for start in range(0, rows, 1000):
        table = pa.Table.from_pylist([row(n, thoughts) for n in range(start, min(rows, start + 1000))])
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--characters", type=int, default=14_000, help="of a response")
    parser.add_argument("--benchmark", help="a file of problems, to compare with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder) / "set.parquet", Path(folder) / "out"
        pid = os.fork()
        if pid == 0:  # what writes the rows shall not count
            write(path, options.rows, options.characters)
            os._exit(0)
        os.waitpid(pid, 0)
        from sgpo.cli import main as sgpo
        from sgpo.verification import close_pool

        began = time.perf_counter()
        command = [
            "data",
            "prepare",
            "--source",
            str(path),
            "--output",
            str(output),
            "--sft_size",
            str(options.rows // 5),
        ]
        status = sgpo([*command, *(["--benchmarks", options.benchmark] if options.benchmark else [])])
        seconds = time.perf_counter() - began
    close_pool()  # so that its workers are counted
    own, workers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    processor = own.ru_utime + own.ru_stime
    print(f"exit status {status}, {options.rows:,} rows of {options.characters:,} characters, {seconds:.1f} s")
    print(f"processor time of the command {processor:.1f} s, of the largest process {own.ru_maxrss / 1e6:.2f} GB")
    spent = workers.ru_utime + workers.ru_stime
    print(f"of the verifier's workers {spent:.1f} s (the writing of the rows included)")


if __name__ == "__main__":
    main()
