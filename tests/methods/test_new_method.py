"""The example of docs/new-method.md: loaded from a file, its loss by hand, and trained with from the command line."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_cases import LAYOUT, distance, gradients, make_model
from group_cases import rollout_groups
from places import ROOT
from sgpo.methods.arguments import MethodArguments

from sgpo.cli import main
from sgpo.engine.update import add_head_task
from sgpo.methods.records import Assembly, Method, TrainingSequence, check_sequences
from sgpo.methods.registry import find_method
from sgpo.problems import Problem, save_problems

DOCS = ROOT / "docs" / "new-method.md"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    code = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[0]
    assert len(code.splitlines()) <= 60
    path = tmp_path / "rejection.py"
    path.write_text(code)
    return path


def test_loss_and_gradient_by_hand(file: Path) -> None:
    method, groups = find_method(f"{file}:METHOD"), rollout_groups()
    config = MethodArguments(num_autonomous=4, num_guided=3)
    model, plain = make_model(), make_model().double()
    add_head_task(model)
    loss, found = gradients(model, method.assemble(groups, lambda _: [], config).sequences, layout=LAYOUT)
    means = []
    for group in groups:
        rows = [r.completion_ids for r in group.rollouts if r.correct]
        of_rows = []
        for ids in rows:
            logits = plain(torch.tensor([group.prompt_ids + ids])).logits[0, len(group.prompt_ids) - 1 : -1]
            of_rows.append(-logits.log_softmax(-1)[range(len(ids)), ids].mean())
        means.append(torch.stack(of_rows).mean())
    total = torch.stack(means).mean()
    total.backward()
    assert loss == pytest.approx(total.item(), rel=1e-6)
    assert distance(found, [p.grad for p in plain.parameters() if p.grad is not None]) < 2e-6


@pytest.mark.integration
def test_the_commands_of_the_page_are_all_it_takes(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder with rejection.py; only fewer updates are made than the page says."""
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```bash\n(.*?)```", DOCS.read_text(), re.DOTALL)
    commands = [shlex.split(line)[1:] for line in block.splitlines()]
    assert [command[0] for command in commands] == ["miniworld", "sft", "train"]
    shorter = {"miniworld": [], "sft": ["--max_steps", "1"], "train": ["--max_steps", "2"]}
    for command in commands:
        assert main([*command, *shorter[command[0]]]) == 0
    lines = [json.loads(line) for line in (tmp_path / "runs" / "rejection" / "metrics.jsonl").read_text().splitlines()]
    assert {"reward/autonomous", "reward/guided"} <= lines[0].keys()


def test_it_trains_from_the_command_line(file: Path, checkpoint: Path, tmp_path: Path) -> None:
    problems = [Problem(str(n), f"Compute {n}+1", str(n + 1), strategy="Steps: (a) add") for n in range(4)]
    save_problems(problems, tmp_path / "problems.jsonl")
    arguments = [
        "--config",
        "miniworld/grpo",
        "--method",
        f"{file}:METHOD",
        "--model",
        str(checkpoint),
        "--use_cpu",
        "true",
    ]
    arguments += ["--problems", str(tmp_path / "problems.jsonl"), "--output_dir", str(tmp_path / "run")]
    arguments += ["--eval_problems", str(tmp_path / "problems.jsonl"), "--disable_tqdm", "true"]
    arguments += ["--problems_per_rollout", "2", "--max_steps", "2", "--max_completion_length", "8"]
    assert main(["train", *arguments]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert "length/guided" in lines[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ppo", "method is 'ppo'; choose one of grpo, hpt, luffy, sgpo, or name your own: path/to/file.py:METHOD"),
        ("nowhere.py:METHOD", "there is no file nowhere.py to take a method METHOD from"),
        ("math:METHOD", "method 'math:METHOD': math has no METHOD 'METHOD'"),
        ("math:pi", "method 'math:pi' is a float, not a sgpo.methods.registry.Method"),
    ],
)
def test_what_is_no_method_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        find_method(name)


def test_a_file_is_a_module_like_others(tmp_path: Path) -> None:
    """With a dataclass, which looks up its module, and executed once."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from sgpo.methods.registry import Method\nfrom sgpo.methods.grpo import assemble, group_sizes\n"
        "@dataclass\nclass Options:\n    size: int = 1\nMETHOD = Method(group_sizes, assemble)\n"
    )
    assert find_method(f"{path}:METHOD") is find_method(f"{path}:METHOD")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"term": "surogate"}, "term 'surogate'; the terms are surrogate, ratio,"),
        ({"term": "distillation"}, "a row of term distillation needs teacher_prompt_ids"),
        (
            {"term": "likelihood", "teacher_prompt_ids": [1]},
            "a row of term likelihood has no use for teacher_prompt_ids",
        ),
        ({"term": "shaped", "old_logprobs": [0.0]}, "a row of term shaped has no ratio, so no use for old_logprobs"),
        (
            {"term": "ratio", "old_logprobs": [0.0, 0.0]},
            "a row of term ratio has 2 old_logprobs for 1 completion tokens",
        ),
        (
            {"term": "surrogate", "sampler_logprobs": []},
            "a row of term surrogate has 0 sampler_logprobs for 1 completion tokens",
        ),
        (
            {"term": "distillation", "teacher_prompt_ids": [1], "entropy_bonus": 0.1},
            "a row of term distillation cannot have an entropy bonus",
        ),
    ],
)
def test_rows_that_do_not_fit_their_term_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_sequences([TrainingSequence(prompt_ids=[1], completion_ids=[2], weights=[1.0], **row)])


def test_what_a_method_uses_is_known() -> None:
    with pytest.raises(ValueError, match="a method uses 'strategy' or 'response' of a problem, not \\['responses'\\]"):
        Method(lambda p, c: (1, 0), lambda *a, **k: Assembly([]), uses=("responses",))
