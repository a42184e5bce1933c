from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sgpo.cli import main
from sgpo.evaluation.compare import compare_evaluations

# rewards of the samples of each problem
FIRST = {"p": [0, 0, 0, 1], "q": [1, 1, 1, 1], "r": [0, 0, 1, 1], "s": [0, 0, 0, 0]}
SECOND = {"p": [1, 1, 1, 0], "q": [1, 0, 0, 0], "r": [1, 1, 1, 1], "s": [0, 0, 0, 0]}


def write(folder: Path, sets: dict[str, dict[str, list[int]]], **changes: Any) -> Path:
    """An evaluation's output, with these rewards."""
    (folder / "samples").mkdir(parents=True)
    numbers = {}
    for name, rewards in sets.items():
        rows = [
            {"id": id, "prompt": f"Problem {id}", "correct": bool(r)} for id, values in rewards.items() for r in values
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "samples" / f"{name}.parquet")
        numbers[name] = {"problems": len(rewards), "fingerprint": name, "k": 4, "max_completion_length": 64}
    summary = {
        "engine": {"name": "transformers", "model": folder.name, "revision": folder.name},
        "prompt": {"system": "", "guided": False},
        "sampling": {"temperature": 0.6, "top_p": 0.95, "seed": 0},
        "versions": {"sgpo": "1"},
        "benchmarks": numbers,
    }
    (folder / "summary.json").write_text(json.dumps({**summary, **changes}))
    return folder


def test_a_set_by_hand(tmp_path: Path) -> None:
    found = compare_evaluations(write(tmp_path / "a", {"aime24": FIRST}), write(tmp_path / "b", {"aime24": SECOND}))
    (each,) = found.sets
    assert each.averages == (7 / 16, 8 / 16)
    assert each.difference.mean == pytest.approx((0.5 - 0.75 + 0.5 + 0) / 4)
    # squared deviations from 1/16: 49/256 twice, 169/256 and 1/256
    assert each.difference.standard_error == pytest.approx((268 / 256 / 3 / 4) ** 0.5)
    low, high = each.difference.interval
    assert -0.75 <= low < each.difference.mean < high <= 0.5
    # p from 1/4 to 3/4; q from 1 to 1/4; r was solved as often as not, so it did not flip
    assert [(flip.id, flip.first, flip.second) for flip in each.gained] == [("p", 0.25, 0.75)]
    assert [(flip.id, flip.first, flip.second) for flip in each.lost] == [("q", 1.0, 0.25)]
    assert found.average is None
    assert found.settings == []


def test_several_sets_and_settings_that_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "a", {"x": FIRST, "y": FIRST, "only": FIRST})
    sampling = {"temperature": 1.0, "top_p": 0.95, "seed": 1}
    second = write(tmp_path / "b", {"x": SECOND, "y": FIRST}, sampling=sampling)
    found = compare_evaluations(first, second)
    assert found.average is not None
    assert found.average.mean == pytest.approx(1 / 32)
    assert found.settings == [("sampling.temperature", 0.6, 1.0)]
    assert found.unshared == ["only"]
    assert main(["eval", "compare", str(first), str(second), "--flipped", "1"]) == 0
    out = capsys.readouterr().out
    for said in (
        "B - A",
        "+6.2",
        "WARNING: sampling.temperature differs: 0.6 in A, 1.0 in B",
        "In one of the two only, so not compared: only.",
        "  0.25 > 0.75  p  Problem p",
        "  1.00 > 0.25  q  Problem q",
    ):
        assert said in out
    assert all(len(line) <= 120 for line in out.splitlines())


def test_problems_that_a_guided_evaluation_left_out_are_not_compared(tmp_path: Path) -> None:
    def partial(name: str, ids: str) -> Path:
        numbers = {"problems": len(ids), "fingerprint": ids, "k": 4, "max_completion_length": 64}
        benchmarks = {"x": {**numbers, "of": {"problems": 4, "fingerprint": "x"}}}
        return write(tmp_path / name, {"x": {id: SECOND[id] for id in ids}}, benchmarks=benchmarks)

    whole, first = write(tmp_path / "a", {"x": FIRST}), partial("b", "pqs")
    (each,) = compare_evaluations(whole, first).sets
    assert (each.averages, each.difference.problems, each.problems) == ((5 / 12, 4 / 12), 3, (4, 3))
    (each,) = compare_evaluations(partial("c", "rq"), first).sets
    assert (each.averages, each.difference.problems, each.problems) == ((0.25, 0.25), 1, (2, 3))
    with pytest.raises(ValueError, match="the two evaluations of x have no problem in common"):
        compare_evaluations(first, partial("d", "r"))


def test_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "a", {"x": FIRST})
    for second, message in (
        (tmp_path / "nowhere", f"{tmp_path / 'nowhere'} holds no complete evaluation (summary.json)"),
        (write(tmp_path / "b", {"y": FIRST}), "share no benchmark: x there, y here"),
        (
            write(
                tmp_path / "c",
                {"x": FIRST},
                benchmarks={"x": {"problems": 3, "fingerprint": "z", "k": 4, "max_completion_length": 64}},
            ),
            "x is not the same set of problems in both: 4 problems with fingerprint x in",
        ),
    ):
        assert main(["eval", "compare", str(first), str(second)]) == 2
        assert message in capsys.readouterr().err
