from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sgpo.evaluation.benchmarks import BENCHMARKS, find_set, split_names
from sgpo.miniworld.world import evaluation_sets
from sgpo.problems import Problem


def never(source: str) -> list[Problem]:
    raise AssertionError(f"{source} was read as a set of one's own")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))


def test_variants_of_different_size_have_different_names() -> None:
    sizes = {name: benchmark.problems for name, benchmark in BENCHMARKS.items()}
    assert sizes == {"math500": 500, "amc23": 40, "amc83": 83, "olympiad": 674, "olympiad675": 675, "aime24": 30}
    assert {name: benchmark.k for name, benchmark in BENCHMARKS.items()} == {
        **dict.fromkeys(("math500", "olympiad", "olympiad675"), 4),
        **dict.fromkeys(("amc23", "amc83", "aime24"), 32),
    }
    for benchmark in BENCHMARKS.values():  # a branch or tag may move
        assert benchmark.hub is None or (len(benchmark.revision or "") == 40 and int(benchmark.revision or "", 16))


def test_names_are_separated_by_commas_and_spaces() -> None:
    assert split_names(["math500,amc23", "x.jsonl", "aime24,"]) == ["math500", "amc23", "x.jsonl", "aime24"]


@pytest.mark.parametrize("name", ["AIME24.json", "aime24.jsonl", "aime_2024.jsonl"])
def test_a_local_file_stands_for_the_data_set(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, [{"prompt": f"p{i}", "answer": f"\\boxed{{{i}}}"} for i in range(30)])
    found = find_set("aime24", str(tmp_path), never)
    assert (found.name, found.k, found.source) == ("aime24", 32, str(tmp_path / name))
    assert [problem.prompt for problem in found.problems] == [f"p{i}" for i in range(30)]
    assert found.problems[7].answer == "\\boxed{7}"


def test_the_hubs_columns_are_understood_in_a_local_file(tmp_path: Path) -> None:
    rows = [{"id": i % 43, "problem": f"p{i}", "answer": float(i), "url": "u"} for i in range(83)]
    write(tmp_path / "amc83.jsonl", rows)
    problems = find_set("amc83", str(tmp_path), never).problems
    assert [problem.answer for problem in problems[:3]] == ["0", "1", "2"]  # 142.0 stands for 142
    assert len({problem.id for problem in problems}) == 83  # the column id is no id: it starts again
    assert problems[5].extra == {"url": "u"}

    answers: list[Any] = [["3"], ["$\\frac{1}{2}$", "2"], "['5', '7']", ["(1,2)"]]
    rows = [
        {"id": 1000 + i, "question": f"p{i}", "solution": ["long"], "final_answer": answers[i % 4]} for i in range(674)
    ]
    write(tmp_path / "OlympiadBench.jsonl", rows)
    problems = find_set("olympiad", str(tmp_path), never).problems
    assert [problem.answer for problem in problems[:4]] == ["3", "\\frac{1}{2}, 2", "5, 7", "(1,2)"]
    assert problems[0].id == "1000"

    rows = [{"problem": f"p{i}", "solution": "long", "answer": "1", "unique_id": f"test/{i}"} for i in range(500)]
    write(tmp_path / "MATH-500.jsonl", rows)
    problems = find_set("math500", str(tmp_path), never).problems
    assert (problems[9].id, problems[9].answer) == ("test/9", "1")


def test_another_number_of_problems_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "answer": "1"} for i in range(83)]
    write(tmp_path / "AMC23.json", rows)
    with pytest.raises(ValueError, match=r"amc23 has 40 problems, .*AMC23\.json has 83: .*\(amc83 has as many\)"):
        find_set("amc23", str(tmp_path), never)
    write(tmp_path / "AIME24.json", rows[:29])
    with pytest.raises(ValueError, match=r"30 problems, .*AIME24\.json has 29: another variant, or rows are"):
        find_set("aime24", str(tmp_path), never)


def test_data_dir_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data_dir .*nowhere is no folder"):
        find_set("aime24", str(tmp_path / "nowhere"), never)
    write(tmp_path / "other.jsonl", [{}])
    with pytest.raises(ValueError, match=r"has no file of aime24: it should be .*; the folder has other\.jsonl"):
        find_set("aime24", str(tmp_path), never)
    for name in ("AIME24.json", "aime24.jsonl"):
        write(tmp_path / name, [{}] * 30)
    with pytest.raises(ValueError, match=r"several files of aime24 \(AIME24\.json, aime24\.jsonl\): keep one"):
        find_set("aime24", str(tmp_path), never)
    (tmp_path / "aime24.jsonl").unlink()
    with pytest.raises(ValueError, match=r"aime24: no column problem and no column answer; the data has the columns"):
        find_set("aime24", str(tmp_path), never)


def test_a_set_of_the_hub_is_read_at_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*arguments: Any, **keywords: Any) -> list[dict[str, Any]]:
        asked.append((arguments, keywords))
        return [{"question": f"p{i}", "answer": "1", "id": i, "url": "u"} for i in range(40)]

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # whatever the environment says
    monkeypatch.setattr("sgpo.hub.out_of_reach", lambda address: None)
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    found = find_set("amc23", None, never)
    revision = BENCHMARKS["amc23"].revision
    assert asked == [(("math-ai/amc23", None), {"split": "test", "revision": revision})]
    assert found.source == f"math-ai/amc23@{revision}"
    assert len(found.problems) == 40

    def unreachable(*arguments: Any, **keywords: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub\nmore")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(ValueError, match=r"amc23 cannot be read from the Hub .*: Couldn't reach the Hub; where"):
        find_set("amc23", None, never)
    with pytest.raises(ValueError, match="olympiad675 is on no pinned data set of the Hub"):
        find_set("olympiad675", None, never)


def test_sets_of_the_mini_world() -> None:
    found = find_set("miniworld/test_deeper", None, never, evaluation_sets())
    assert (found.name, len(found.problems), found.k) == ("miniworld-test_deeper", 300, 4)
    assert all(problem.strategy for problem in found.problems)
    with pytest.raises(ValueError, match="there is no set miniworld/rl; there are miniworld/dev, "):
        find_set("miniworld/rl", None, never, evaluation_sets())


def test_own_sets() -> None:
    own = [Problem("a", "p", "1")]
    assert find_set("folder/mine.parquet", None, lambda source: own).name == "mine"
    assert find_set("organisation/set", None, lambda source: own).source == "organisation/set"
    with pytest.raises(ValueError, match=r"there is no benchmark 'aime23': the names are math500, .*miniworld/dev"):
        find_set("aime23", None, never, evaluation_sets())
