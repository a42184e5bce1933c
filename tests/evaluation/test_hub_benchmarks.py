"""The pinned benchmarks through `datasets`, from a Hub on this machine that serves them in their real columns.

The rows are made up; names, types and files are those of the data sets.
"""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub

from sgpo.evaluation.benchmarks import BENCHMARKS

pytestmark = pytest.mark.integration
NAMES = ("math500", "amc23", "olympiad", "aime24")
# A process of its own, since the libraries read HF_ENDPOINT when they are imported.
LOAD = """
import dataclasses, json, sys
from sgpo.evaluation.benchmarks import find_set
found = [find_set(name, None, None) for name in sys.argv[1:]]
print(json.dumps([[each.source, each.k, [dataclasses.asdict(problem) for problem in each.problems]] for each in found]))
"""
REFUSED = """
import sys
from transformers import AutoModelForCausalLM
from sgpo.cli import main
AutoModelForCausalLM.from_pretrained = None  # no weights are loaded
for name in sys.argv[2:]:
    assert main(["eval", "--model", sys.argv[1], "--benchmarks", name]) == 2
"""


def rows_of(name: str) -> list[dict[str, Any]]:
    count = BENCHMARKS[name].problems
    return [ROWS[name](number) for number in range(count)]


ROWS: dict[str, Any] = {
    "math500": lambda n: {
        "problem": f"What is ${n} + 1$?",
        "solution": f"It is $\\boxed{{{n + 1}}}$.",
        "answer": f"{n + 1}",
        "subject": "Prealgebra",
        "level": n % 5 + 1,
        "unique_id": f"test/prealgebra/{n}.json",
    },
    "amc23": lambda n: {"id": n, "question": f"What is {n} + 2?", "answer": f"{n + 2}", "url": "https://example.org"},
    "olympiad": lambda n: {
        "id": 1000 + n,
        "question": f"Find $x$ if $2x = {n}$.",
        "solution": [f"Halve it: $x = \\frac{{{n}}}{{2}}$."],
        "final_answer": [f"$\\frac{{{n}}}{{2}}$"] if n % 2 else ["1", f"{n}"],
        "context": None,
        "image_1": None,
        "modality": "Text-only",
        "difficulty": "Competition",
        "is_multiple_answer": n % 2 == 0,
        "unit": None,
        "answer_type": "Numerical",
        "error": None,
        "question_type": "Open-ended",
        "subfield": "Algebra",
        "subject": "Math",
        "language": "English",
    },
    "aime24": lambda n: {
        "id": 60 + n,
        "problem": f"Find the remainder of ${n + 7}^2$ divided by $1000$.",
        "solution": "Square it.",
        "answer": f"{(n + 7) ** 2 % 1000:03d}",
        "url": "https://example.org",
        "year": "2024",
    },
}
FILES = {
    "math500": "test.jsonl",
    "amc23": "data/test-00000-of-00001.parquet",
    "olympiad": "OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet",
    "aime24": "data/train-00000-of-00001.parquet",
}
CARD = b"""---
configs:
- config_name: OE_MM_maths_en_COMP
  data_files:
  - split: train
    path: OE_MM_maths_en_COMP/OE_MM_maths_en_COMP.parquet
- config_name: OE_TO_maths_en_COMP
  data_files:
  - split: train
    path: OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet
---
"""


def content(path: str, rows: list[dict[str, Any]]) -> bytes:
    if path.endswith(".jsonl"):
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def hub_with(rows: dict[str, list[dict[str, Any]]], moved: tuple[str, ...] = ()) -> Hub:
    """At the pinned revisions; of those in `moved` there is only another commit. The newest commit has other rows."""
    hub = Hub()
    for name, some in rows.items():
        benchmark, path = BENCHMARKS[name], FILES[name]
        card = {"README.md": CARD if name == "olympiad" else b"---\nlicense: mit\n---\n"}
        files = card | {path: content(path, some)}
        if name == "olympiad":
            files["OE_MM_maths_en_COMP/OE_MM_maths_en_COMP.parquet"] = content(path, some[:3])
        newest = {"f" * 40: card | {path: content(path, some[:2])}}
        pinned = {} if name in moved else {str(benchmark.revision): files}
        hub.repositories[f"datasets/{benchmark.hub}"] = pinned | newest
    return hub


def python(code: str, *arguments: str, endpoint: str, cache: Path) -> subprocess.CompletedProcess[str]:
    offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in offline}
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_CACHE": str(cache / "hub")}
    environment |= {**own, "HF_DATASETS_CACHE": str(cache / "datasets"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def refusals(run: subprocess.CompletedProcess[str]) -> list[str]:
    assert run.returncode == 0, run.stderr
    return [line.removeprefix("sgpo eval: ") for line in run.stderr.splitlines() if line.startswith("sgpo eval: ")]


def test_each_benchmark_is_read_at_its_revision(tmp_path: Path) -> None:
    """And once more where the Hub is out of reach, from the cache."""
    with hub_with({name: rows_of(name) for name in NAMES}).serving() as hub:
        run = python(LOAD, *NAMES, endpoint=hub.address, cache=tmp_path)
        assert run.returncode == 0, run.stderr
    found = dict(zip(NAMES, json.loads(run.stdout), strict=True))
    for name, (source, k, problems) in found.items():
        benchmark = BENCHMARKS[name]
        assert (source, k) == (f"{benchmark.hub}@{benchmark.revision}", benchmark.k)
        assert len(problems) == len({problem["id"] for problem in problems}) == benchmark.problems
        assert [problem["prompt"] for problem in problems] == [row[benchmark.prompt] for row in rows_of(name)]
    assert [found[name][2][4]["answer"] for name in NAMES] == ["5", "6", "1, 4", "121"]
    assert found["olympiad"][2][5]["answer"] == "\\frac{5}{2}"
    assert [found[name][2][4]["id"] for name in ("math500", "olympiad")] == ["test/prealgebra/4.json", "1004"]
    assert found["math500"][2][4]["extra"]["level"] == 5
    assert found["olympiad"][2][4]["extra"]["subfield"] == "Algebra"
    assert found["aime24"][2][2]["answer"] == "081"
    again = python(LOAD, *NAMES, endpoint=hub.address, cache=tmp_path)  # where nobody answers any more
    assert (again.returncode, again.stdout) == (0, run.stdout), again.stderr


def test_what_is_not_the_benchmark_is_refused_before_weights_are_loaded(checkpoint: Path, tmp_path: Path) -> None:
    rows = {name: rows_of(name) for name in NAMES}
    rows["math500"] = rows["math500"][:499]
    rows["amc23"] = [{"id": row["id"], "problem": row["question"], "answer": row["answer"]} for row in rows["amc23"]]
    for row in rows["olympiad"]:
        row["answers"] = row.pop("final_answer")
    with hub_with(rows, moved=("aime24",)).serving() as hub:
        found = refusals(python(REFUSED, str(checkpoint), *NAMES, endpoint=hub.address, cache=tmp_path))
    source = {name: BENCHMARKS[name].source for name in NAMES}
    assert len(found) == 4
    assert found[0] == (
        f"math500 has 500 problems, {source['math500']} has 499: another variant, or rows are missing or repeated; to "
        "evaluate on it all the same, give it as a set of your own, by its path"
    )
    assert found[1] == "amc23: no column question; the data has the columns id, problem, answer"
    assert found[2].startswith("olympiad: no column final_answer; the data has the columns id, question, solution, ")
    assert found[3] == (
        f"aime24 cannot be read from the Hub ({source['aime24']}): Revision '{BENCHMARKS['aime24'].revision}' doesn't "
        "exist for dataset 'HuggingFaceH4/aime_2024' on the Hub; where there is no network, give a folder that "
        "holds its file as data_dir"
    )


def test_without_a_network_each_benchmark_says_so(checkpoint: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    found = refusals(python(REFUSED, str(checkpoint), *NAMES, endpoint=address, cache=tmp_path))
    assert found == [
        f"{name} cannot be read from the Hub ({BENCHMARKS[name].source}): it is not in the cache, and {address} is not "
        "asked ([Errno 111] Connection refused); check the connection, or give a path; what was once read from the Hub "
        "stays in its cache; where there is no network, give a folder that holds its file as data_dir"
        for name in NAMES
    ]
