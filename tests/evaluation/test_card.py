"""`sgpo eval --card`: the numbers on a model card are those of the summary, and the rest of the card stays."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sgpo.cli import main
from sgpo.evaluation.benchmarks import BENCHMARKS, ProblemSet
from sgpo.evaluation.card import BEGIN, END, add_scores
from sgpo.miniworld.world import BASE_MODEL, Sizes, problem_sets
from sgpo.problems import Problem, save_problems
from sgpo.problems.inspection import fingerprint
from sgpo.sampling.records import SamplingConfig

PROBLEMS = problem_sets(0, Sizes.only(dev=6))["dev"]
OWN = """---
license: apache-2.0
tags:
- sgpo
my_own_key: kept
---

# A model

Words of mine.

## Training

More words.
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Of random weights or not does not matter here; with a card that somebody has edited."""
    shutil.copytree(BASE_MODEL, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text(OWN)
    save_problems(PROBLEMS, tmp_path / "dev.jsonl")
    save_problems(PROBLEMS[:3], tmp_path / "few.jsonl")
    return tmp_path / "model"


def command(model: Path, problems: str, *options: str) -> list[str]:
    return ["eval", "--model", str(model), "--problems", str(model.parent / problems), "--k", "2", *options]


def read(model: Path) -> tuple[dict[str, Any], str]:
    _, head, body = (model / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def table(body: str) -> list[list[str]]:
    """The cells below the names and the rule."""
    section = body[body.index(BEGIN) : body.index(END)]
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]


def test_the_scores_of_the_summary_are_on_the_card(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores"
    options = ["--max_completion_length", "60", "--greedy", "true", "--card", "true", "--output", str(output)]
    assert main(command(model, "dev.jsonl", *options)) == 0
    found = json.loads((output / "summary.json").read_text())["benchmarks"]["dev"]
    assert 0 < found["average"] < 1
    head, body = read(model)
    (index,) = head["model-index"]
    (result,) = index["results"]
    assert index["name"] == "model"
    assert result["dataset"] == {"name": "dev", "type": "dev", "args": {"fingerprint": fingerprint(PROBLEMS)}}
    sampled, greedy = result["metrics"]
    assert (sampled["name"], greedy["name"]) == ("avg@2", "greedy")
    assert sampled["value"] == pytest.approx(100 * found["average"], abs=0.005)
    assert greedy["value"] == pytest.approx(100 * found["greedy"]["average"], abs=0.005)
    args = sampled["args"]
    assert args["standard_error"] == pytest.approx(100 * found["standard_error"], abs=0.005)
    assert args["truncated"] == pytest.approx(100 * found["truncated"], abs=0.005)
    assert (args["problems"], args["temperature"], args["max_completion_length"], args["seed"]) == (6, 0.6, 60, 0)
    assert greedy["args"]["temperature"] == 0
    first, second = table(body)
    assert first[:5] == ["dev", "avg@2", str(sampled["value"]), "6", str(args["standard_error"])]
    assert second[:3] == ["dev", "greedy", str(greedy["value"])]


def test_other_rows_stay_and_the_same_one_is_replaced(model: Path) -> None:
    common = ["--card", "true", "--max_completion_length"]
    for problems, length in (("dev.jsonl", "60"), ("few.jsonl", "60"), ("dev.jsonl", "2")):
        assert main(command(model, problems, *common, length)) == 0
    head, body = read(model)
    assert {name: head[name] for name in ("license", "tags", "my_own_key")} == {
        "license": "apache-2.0",
        "tags": ["sgpo"],
        "my_own_key": "kept",
    }
    few, dev = table(body)
    assert (few[0], few[3], dev[0], dev[3]) == ("few", "3", "dev", "6")
    assert dev[2] == "0.0"  # two tokens hold no answer
    assert float(dev[8]) == 100
    assert (body.count(BEGIN), body.count("## Evaluation")) == (1, 1)
    start, end = body.index(BEGIN), body.index(END) + len(END)
    assert body[:start] + body[end:].lstrip("\n") == OWN.split("---\n", 2)[2]


def test_without_the_option_the_card_is_not_touched(model: Path) -> None:
    assert main(command(model, "few.jsonl", "--max_completion_length", "2")) == 0
    assert (model / "README.md").read_text() == OWN


def test_a_benchmark_of_the_hub_is_named_as_the_hub_names_it(tmp_path: Path) -> None:
    """One that was read from a file is not; scores of other programs stay in the metadata, and out of the table."""
    other = {"task": {"type": "text-generation"}, "dataset": {"name": "x", "type": "x"}}
    other["metrics"] = [{"type": "accuracy", "value": 3.0}]  # type: ignore[assignment]
    head = yaml.safe_dump({"model-index": [{"name": "theirs", "results": [other]}]})
    (tmp_path / "README.md").write_text(f"---\n{head}---\n# A model\n")
    evaluation = SimpleNamespace(average=0.5, standard_error=0.125, truncated=0.25, k=4)
    benchmark = BENCHMARKS["olympiad"]
    problems = ProblemSet("olympiad", [Problem("p", "1+1?", "2")], source=benchmark.source)
    asked = SimpleNamespace(sampling=SamplingConfig(100, 0.6, 0.95), seed=1)
    result: Any = SimpleNamespace(problems=problems, asked=asked, evaluation=evaluation, greedy=None)
    add_scores(str(tmp_path), [result])
    local = replace(problems, source=str(tmp_path / "olympiad.jsonl"))
    add_scores(str(tmp_path), [SimpleNamespace(**{**vars(result), "problems": local})])  # type: ignore[list-item]
    found, body = read(tmp_path)
    (index,) = found["model-index"]
    assert index["name"] == "theirs"
    assert [each["dataset"]["type"] for each in index["results"]] == ["x", "Hothan/OlympiadBench", "olympiad"]
    published = index["results"][1]["dataset"]
    assert (published["config"], published["split"]) == ("OE_TO_maths_en_COMP", "train")
    assert published["revision"] == benchmark.revision
    assert str(tmp_path) not in str(found)
    row = ["olympiad", "avg@4", "50.0", "1", "12.5", "0.6", "0.95", "100", "25.0"]
    assert table(body) == [row, row]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "2"], "leave out limit, or card"),
        (["--guided", "true", "--limit", "2"], "leave out limit and guided, or card"),
    ],
)
def test_a_score_that_does_not_belong_on_a_card(
    model: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(command(model, "dev.jsonl", "--card", "true", *options)) == 2
    assert capsys.readouterr().err == (
        "sgpo eval: card: a model card gets scores of whole sets, without strategies, of a model in a folder; "
        f"{message}\n"
    )


def test_a_model_without_a_card_that_can_be_written(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(place: Path) -> str:
        assert main(command(place, "dev.jsonl", "--card", "true")) == 2
        return capsys.readouterr().err

    (model / "README.md").write_text("---\ntags: [\n---\n")
    assert said(model).startswith(f"sgpo eval: card: the metadata of {model / 'README.md'} cannot be read (while ")
    (model / "README.md").write_text("---\nmodel-index:\n- name: x\n---\n")
    assert said(model).startswith(f"sgpo eval: card: the metadata of {model / 'README.md'} cannot be read (")
    (model / "README.md").unlink()
    assert said(model) == (
        f"sgpo eval: card: {model} has no README.md; `sgpo train`, `sft` and `export` write one, or write one "
        "yourself\n"
    )
    assert main(["eval", "--model", "someone/model", "--benchmarks", "miniworld/dev", "--card"]) == 2
    assert capsys.readouterr().err == (
        "sgpo eval: card: someone/model is no folder here, so it has no card to write to; leave card out\n"
    )
