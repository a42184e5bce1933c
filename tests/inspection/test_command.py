"""`sgpo inspect`, whole: from problems, texts and a run to a page; and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from sgpo.cli import main
from sgpo.inspection.answers import read_completions
from sgpo.inspection.run import InspectedModel, own_answers
from sgpo.problems import Problem, save_problems
from sgpo.training.completions_table import save_completions

PROBLEMS = [Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), "7+1=8", "Steps: (a) add") for n in range(3)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_problems(PROBLEMS, "problems.jsonl")
    return tmp_path


def data_of(path: Path) -> dict[str, Any]:
    """By id, what the script of a page reads."""
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', path.read_text(), re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def test_answers_of_problems(folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["inspect", "--model", str(checkpoint), "--problems", "problems.jsonl", "--max_completion_length", "9"]
    assert main([*arguments, "--id", "p2", "p0", "--other_model", str(checkpoint), "--delta", "0.05"]) == 0
    data = data_of(folder / "inspection.html")
    assert data["index"]["answers"] == ["p2", "p0"]
    answer = data["answer-0"]
    assert answer["problem"] == "Compute 2+5"
    count = len(answer["texts"])
    for name in ("divergence", "sft", "entropy", "guided_entropy", "p", "guided_p", "own"):
        assert len(answer[name]) == count
    assert len(answer["top"]) == len(answer["guided_top_p"]) == 5 * count
    assert answer["masked"] == [place for place, value in enumerate(answer["divergence"]) if value > 0.05]
    assert answer["after_p"] == answer["p"]  # the other model is the same one
    # Greedy with the strategy: each token is the most probable one of the guided side.
    assert [answer["names"][place] for place in answer["own"]] == [
        answer["names"][k] for k in answer["guided_top"][::5]
    ]
    assert "mean d_t" in capsys.readouterr().out


def test_given_answers(folder: Path, checkpoint: Path) -> None:
    model = ["--model", str(checkpoint)]
    given = ["--prompt", "Compute <b>", "--strategy", "</script>", "--answer", "4+3=7"]
    assert main(["inspect", *model, *given, "--output", "given.html"]) == 0
    answer = data_of(folder / "given.html")["answer-0"]
    assert "".join(answer["texts"]).startswith("4+3=7")
    assert (answer["problem"], answer["strategy"]) == ("Compute <b>", "</script>")
    assert answer["facts"] == ["a given answer"]
    assert main(["inspect", *model, "--problems", "problems.jsonl", "--responses", "--limit", "2"]) == 0
    data = data_of(folder / "inspection.html")
    assert len(data) == 3
    assert "".join(data["answer-1"]["texts"]).startswith("7+1=8")


def row(number: int, **changes: Any) -> dict[str, Any]:
    values = {
        "step": 4,
        "update": 0,
        "problem": f"p{number}",
        "prompt": "Compute 1+2",
        "answer": "3",
        "strategy": "add",
    }
    values |= {"group": "guided", "completion": "x", "completion_ids": [20 + number, 30, 1], "reward": 1.0}
    return (
        values
        | {"correct": True, "tokens": 3, "truncated": False, "target": False, "alpha": 0.5, "reason": ""}
        | changes
    )


@pytest.fixture
def run(folder: Path, checkpoint: Path) -> Path:
    """The folder of a run, with completions and trained weights."""
    shutil.copytree(checkpoint, folder / "run")
    values = {"model": str(checkpoint), "system_prompt": "", "delta": 0.25}
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(values))
    rows = [row(0), row(0, target=True), row(1, group="autonomous"), row(2, strategy=None, target=True)]
    save_completions(rows, folder / "run", 4)
    save_completions(rows[:1], folder / "run", 0)
    return folder / "run"


def test_completions_of_a_run(run: Path, folder: Path) -> None:
    assert main(["inspect", "--run", str(run)]) == 0
    data = data_of(folder / "inspection.html")
    assert len(data) == 2
    assert data["answer-0"]["delta"] == 0.25
    assert len(data["answer-0"]["texts"]) == 3
    assert data["answer-0"]["after_p"] is not None
    assert data["answer-0"]["facts"][:2] == ["guided completion after 4 updates", "target, α = 0.50"]
    assert main(["inspect", "--run", str(run), "--group", "all"]) == 0
    assert len(data_of(folder / "inspection.html")["index"]["answers"]) == 3


def test_steps_and_groups_that_are_not_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--run", str(run), "--step", "3"]) == 2
    assert "has no completions of step 3; there are 0, 4" in capsys.readouterr().err
    (run / "config.yaml").write_text("a: [\n")
    assert main(["inspect", "--run", str(run)]) == 2
    assert "config.yaml cannot be read" in capsys.readouterr().err


def test_an_answer_ends_with_the_context(folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = InspectedModel.load(str(checkpoint))
    model.model.generation_config.eos_token_id = len(model.tokenizer) - 1  # hardly ever sampled
    prompt = model.prompts(PROBLEMS[0], None)[1]
    monkeypatch.setattr(model.model.config, "max_position_embeddings", len(prompt) + 5)
    (answer,) = own_answers(model, PROBLEMS[:1], None, max_new_tokens=1024)
    assert len(answer.ids) <= 5
    monkeypatch.setattr(model.model.config, "max_position_embeddings", len(prompt))
    with pytest.raises(ValueError, match="give a shorter answer"):
        own_answers(model, PROBLEMS[:1], None, max_new_tokens=1024)


def test_completions_keep_the_tokens(run: Path) -> None:
    path = run / "completions" / "step-000004.parquet"
    assert [answer.ids for answer in read_completions(path, group="all")] == [[20, 30, 1], [20, 30, 1], [21, 30, 1]]
    with pytest.raises(ValueError, match="no target of p1 with a strategy; there are some of --group "):
        read_completions(path, ids=["p1"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give one of --problems, --prompt and --run, not none"),
        (["--problems", "problems.jsonl"], "no model: give --model, or --run"),
        (["--problems", "nowhere.jsonl", "--model", "m"], "there is no file nowhere.jsonl"),
        (["--prompt", "x", "--model", "m"], "--prompt needs --strategy"),
        (["--problems", "problems.jsonl", "--prompt", "x"], "not problems and prompt"),
        (["--problems", "problems.jsonl", "--step", "3"], "give --run"),
        (["--run", "nowhere"], "takes the folder of a run"),
        (["--problems", "problems.jsonl", "--delta", "-1"], "it must be 0 or more"),
        (["--problems", "problems.jsonl", "--dtype", "int8"], "choose one of float32"),
        (["--problems", "problems.jsonl", "--answer", "x", "--responses"], "give one of them"),
    ],
)
def test_refusals(folder: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "inspection.html").exists()


def test_a_problem_that_is_not_there(folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--model", str(checkpoint), "--problems", "problems.jsonl", "--id", "q"]) == 2
    assert "no problem with the id q; the first ids are p0, p1, p2" in capsys.readouterr().err


def test_an_answer_beyond_the_context(folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--prompt", "Compute 1+2", "--strategy", "add", "--answer", "1 " * 600]
    assert main(["inspect", "--model", str(checkpoint), *given]) == 2
    assert "has a context of 512: give a shorter answer" in capsys.readouterr().err
