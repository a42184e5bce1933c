"""The example of docs/new-method.md: loaded from a file, its loss by hand, and trained with from the command line."""

from __future__ import annotations

import functools
import json
import math
import re
import shlex
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from engine_cases import LAYOUT, distance, gradients, make_model
from group_cases import rollout_groups
from places import ROOT
from torch import Tensor

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.cli import main
from sgpo.engine.update import add_head_task, completion_scores
from sgpo.methods.method import Method, all_autonomous
from sgpo.methods.options import MethodOptions
from sgpo.methods.records import Decision, ProblemRollouts, TrainingSequence, UpdateContext, check_rows, with_importance
from sgpo.methods.registry import find_method
from sgpo.methods.sgpo import SGPOOptions
from sgpo.methods.terms import Thresholds
from sgpo.problems import Problem, problems_from, save_problems
from sgpo.prompts import student_messages
from sgpo.training.teacher import frozen_copy

DOCS = ROOT / "docs" / "new-method.md"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fading.py"
    path.write_text(re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[0])
    return path


def two_experts() -> list[ProblemRollouts]:
    """The groups with a second solution, where they have one."""
    groups = rollout_groups()
    others = groups[1:] + groups[:1]
    return [
        replace(group, experts=[*group.experts, *other.experts]) for group, other in zip(groups, others, strict=True)
    ]


@pytest.mark.parametrize(("before", "imitates"), [(0.0, True), (0.9, False)])
def test_loss_and_gradient_by_hand(file: Path, before: float, imitates: bool) -> None:
    method, groups = find_method(f"{file}:METHOD"), two_experts()
    options = method.options(num_autonomous=4, num_guided=0, imitation_weight=0.3)
    model, plain = make_model(), make_model().double()
    add_head_task(model)
    state = {"pass_rate": before}
    scorer = functools.partial(completion_scores, model, layout=LAYOUT)
    decisions = method.decide(groups, options, UpdateContext(len(groups), scorer, state=state))
    # 9 of 20 completions are correct: 1 + 0 + 3 + 1 + 4
    assert state == {"pass_rate": pytest.approx(0.9 * before + 0.1 * 9 / 20, rel=1e-12)}
    rows = [row for decision in decisions for row in decision.rows]
    loss, found = gradients(model, rows, layout=LAYOUT)

    def logprobs(group: ProblemRollouts, ids: list[int]) -> Tensor:
        logits = plain(torch.tensor([group.prompt_ids + ids])).logits[0, len(group.prompt_ids) - 1 : -1]
        return logits.log_softmax(-1)[range(len(ids)), ids]

    total, chosen = torch.zeros((), dtype=torch.float64), []
    for group in groups:
        rewards = [rollout.reward for rollout in group.autonomous]
        spread = statistics.stdev(rewards) + 1e-6
        for reward, rollout in zip(rewards, group.autonomous, strict=True):
            own = logprobs(group, rollout.completion_ids)
            advantage = (reward - statistics.mean(rewards)) / spread
            total = total - advantage * (own - own.detach()).exp().mean() / 4
        means = torch.stack([logprobs(group, expert.completion_ids).mean() for expert in group.experts])
        chosen.append(int(means.argmax()))
        total = total - imitates * 0.3 * means[chosen[-1]]
    (total / len(groups)).backward()
    assert set(chosen) == {0, 1}  # guards the choice
    assert loss == pytest.approx(total.item() / len(groups), rel=1e-6, abs=1e-7)
    assert distance(found, [p.grad for p in plain.parameters() if p.grad is not None]) < 2e-6
    assert [f"solution {n + 1} of 2 is imitated" in d.reason for n, d in zip(chosen, decisions, strict=True)] == [
        imitates
    ] * len(groups)


def test_its_state_survives_a_resume(file: Path, checkpoint: Path, tmp_path: Path, tokenizer: Any) -> None:
    """To the bit: state, weights and what is logged, of a run with several solutions a problem."""
    problems = [
        Problem(str(n), f"Compute {n}+1", str(n + 1), f"\\boxed{{{n + 1}}}", more_responses=(f"{n}+1={n + 1}",))
        for n in range(8)
    ]

    def trainer(name: str, **changes: Any) -> SGPOTrainer:
        values: dict[str, Any] = {"max_steps": 8, "save_steps": 4, "save_strategy": "steps", **changes}
        config = SGPOConfig(
            output_dir=str(tmp_path / name),
            method=f"{file}:METHOD",
            method_options={"memory": 0.5, "imitate_until": 0.6},
            problems_per_rollout=4,
            num_autonomous=3,
            num_guided=0,
            max_completion_length=12,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            completions_steps=0,
            **values,
        )
        reward = lambda completions, **_: [float(len(text) % 2) for text in completions]  # noqa: E731
        return SGPOTrainer(str(checkpoint), config, problems, reward_funcs=reward, processing_class=tokenizer)

    straight = trainer("straight")
    straight.train()
    again = trainer("again")
    again.train(resume_from_checkpoint=str(shutil.copytree(tmp_path / "straight/checkpoint-4", tmp_path / "again/c-4")))
    saved = [json.loads((tmp_path / "straight" / f"checkpoint-{n}" / "method_state.json").read_text()) for n in (4, 8)]
    assert saved[0] != saved[1] == straight.method_state == again.method_state
    assert 0 < saved[1]["pass_rate"] < 1
    logged = [[line["moving_pass_rate"] for line in run.state.log_history[4:8]] for run in (straight, again)]
    assert len(set(logged[0])) > 1
    assert logged[0] == logged[1]
    for one, other in zip(straight.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.integration
def test_the_commands_of_the_page_are_all_it_takes(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder with fading.py; only fewer updates are made than the page says."""
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```bash\n(.*?)```", DOCS.read_text(), re.DOTALL)
    commands = [shlex.split(line)[1:] for line in block.splitlines()]
    assert [command[0] for command in commands] == ["miniworld", "sft", "train"]
    shorter = {"miniworld": [], "sft": ["--max_steps", "1"], "train": ["--max_steps", "2"]}
    for command in commands:
        assert main([*command, *shorter[command[0]]]) == 0
    lines = [json.loads(line) for line in (tmp_path / "runs" / "fading" / "metrics.jsonl").read_text().splitlines()]
    assert {"reward/autonomous", "reward/expert", "moving_pass_rate"} <= lines[0].keys()


def test_it_trains_from_the_command_line(
    file: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"Compute {n}+1", "answer": str(n + 1), "response": ["so", "and so"]} for n in range(4)]
    problems = problems_from(rows)
    assert problems[0].responses == ("so", "and so")
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
    arguments += [
        "--problems_per_rollout",
        "2",
        "--max_steps",
        "2",
        "--max_completion_length",
        "8",
        "--imitate_until",
        "0.75",
    ]
    assert main(["train", *arguments]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["length/expert"] > 0
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (saved["imitate_until"], saved["memory"]) == (0.75, 0.9)
    assert not {"method_options", "hpt_gate", "delta"} & saved.keys()
    # What was saved is taken again; an option that there is not is refused, and --help shows those that there are.
    again = ["train", "--config", str(tmp_path / "run" / "config.yaml"), "--output_dir", str(tmp_path / "again")]
    assert main(again) == 0
    assert main([*again, "--imitate_till", "0.5", "--overwrite"]) == 2
    assert "--imitate_till (did you mean --imitate_until?)" in capsys.readouterr().err
    assert main(["train", "--method", f"{file}:METHOD", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--imitate_until X" in shown
    assert "--hpt_gate" not in shown


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "ppo",
            "method is 'ppo'; choose one of ampo, grpo, hpt, luffy, opsd, scaf_grpo, sdpo, sgpo, srft, or name your "
            "own: ",
        ),
        ("nowhere.py:METHOD", "there is no file nowhere.py to take a method METHOD from"),
        ("math:METHOD", "method 'math:METHOD': math has no METHOD 'METHOD'"),
        ("math:pi", "method 'math:pi' is a float, not a sgpo.methods.method.Method"),
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
        "from sgpo.methods.method import Method, all_autonomous\nfrom sgpo.methods.grpo import GRPOOptions, decide\n"
        "@dataclass\nclass Mine(GRPOOptions):\n    size: int = 1\nMETHOD = Method(Mine, all_autonomous, decide)\n"
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
        (
            {"term": "shaped", "old_logprobs": torch.zeros(1)},
            "a row of term shaped has no ratio, so no use for old_logprobs",
        ),
        (
            {"term": "ratio", "old_logprobs": torch.zeros(2)},
            "a row of term ratio has 2 old_logprobs for 1 completion tokens",
        ),
        (
            {"term": "surrogate", "sampler_logprobs": torch.zeros(0)},
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
        check_rows([TrainingSequence(prompt_ids=[1], completion_ids=[2], weights=1.0, **row)], SGPOOptions())


def test_a_row_whose_threshold_is_no_option_is_refused() -> None:
    row = TrainingSequence("surrogate", [1], [2], 1.0)
    with pytest.raises(ValueError, match="a row of term surrogate reads eps_low, which the method's options lack"):
        check_rows([row], MethodOptions())


def test_what_a_method_uses_is_known() -> None:
    with pytest.raises(ValueError, match="a method uses strategy, response, responses or reference, not solutions"):
        Method(MethodOptions, all_autonomous, lambda *_: [], uses=("solutions",))


def test_named_prompts_and_the_reference_policy(make_config: Any, checkpoint: Path, tokenizer: Any) -> None:
    """A prompt of one's own is sampled, logged and distilled from; the reference stays while the policy moves."""

    def hinted(problem: Problem, system_prompt: str | None) -> Any:
        return student_messages(f"Easy! {problem.prompt}", system_prompt)

    asked: list[tuple[Any, Any]] = []

    def decide(groups: Any, options: Any, update: UpdateContext) -> list[Decision]:
        pair = ([5, 6], [7, 8])
        asked.append((update.policy([pair])[0], update.reference([pair])[0]))
        rows = [g.row("distillation", g.groups["hinted"][0], 0.1, teacher="hinted") for g in groups]
        return [Decision([row], "hinted") for row in rows]

    method = Method(
        SGPOOptions,
        lambda problem, options: {"autonomous": 2, "hinted": 1},
        decide,
        uses=("reference",),
        prompts={"hinted": hinted},
    )
    problems = [Problem(str(n), f"Compute {n}+1", str(n + 1)) for n in range(4)]
    trainer = SGPOTrainer(
        str(checkpoint),
        make_config(method="grpo", max_steps=4, learning_rate=1e-2, eval_strategy="no"),
        problems,
        processing_class=tokenizer,
    )
    trainer.method, trainer.options = method, SGPOOptions(delta=math.inf)
    trainer.thresholds = Thresholds()
    trainer.reference = frozen_copy(trainer.model)
    trainer.train()
    assert "length/hinted" in trainer.state.log_history[0]
    assert trainer.state.log_history[0]["divergence"] > 0
    (first, reference), (later, same) = asked[0], asked[-1]
    assert torch.equal(first.logprobs, reference.logprobs)
    assert torch.equal(same.logprobs, reference.logprobs)
    assert not torch.equal(later.logprobs, reference.logprobs)
    assert first.entropies.shape == (2,)
    with pytest.raises(ValueError, match="the method asks the reference policy: name it among what it uses"):
        UpdateContext(1).reference([])
    with pytest.raises(ValueError, match="samples the prompt 'guided', which problem 0 does not have"):
        replace(method, samples=lambda p, o: {"guided": 1}).sample_counts(problems[0], SGPOOptions())


@pytest.mark.parametrize("weights", [[0.5, 0.5], torch.tensor(0.5), torch.ones(2, 1), np.ones(2)])
def test_weights_that_are_neither_a_number_nor_a_vector_are_refused(weights: Any) -> None:
    row = TrainingSequence("likelihood", [1], [2, 3], weights)
    message = "weights of a row of term likelihood are a number for all tokens alike or a tensor [T], not"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_rows([row], MethodOptions())


def test_weights_of_another_device_are_corrected_there() -> None:
    """Such as those that a method makes of the policy's scores, on a GPU."""
    logprobs = torch.zeros(2)
    row = TrainingSequence("ratio", [1], [2, 3], torch.ones(2, device="meta"), logprobs, sampler_logprobs=logprobs)
    weights = with_importance(row, cap=2.0).weights
    assert isinstance(weights, Tensor)
    assert weights.device.type == "meta"


def test_a_prompt_cannot_have_the_name_of_another_group() -> None:
    for name in ("autonomous", "guided", "expert"):
        with pytest.raises(ValueError, match=f"a prompt of a method cannot be called {name}"):
            Method(SGPOOptions, all_autonomous, lambda *_: [], prompts={name: lambda problem, _: None})
