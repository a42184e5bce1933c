"""LUFFY and HPT through the trainer: what the expert's response becomes, and runs of a few updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from method_cases import weights_of
from transformers import AutoModelForCausalLM

from sgpo.methods.records import Decision, ProblemRollouts, UpdateContext, response_ids
from sgpo.problems import Problem
from sgpo.prompts import encode_prompts, response_messages, student_messages
from sgpo.sampling.records import Rollout, SampleRequest
from sgpo.training.config import SGPOConfig
from sgpo.training.trainer import SGPOTrainer

PROBLEMS = [
    Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), f"\\boxed{{{2 * n + 3 + n % 2}}}" if n < 3 else None)
    for n in range(4)
]


class NeverRight:
    """A sampler whose completions are all wrong."""

    def sample(self, requests: list[SampleRequest], sampling: Any, *, seed: int) -> list[list[Rollout]]:
        return [[Rollout([7, 9, 1], torch.full((3,), -1.0), truncated=False) for _ in range(r.count)] for r in requests]


@pytest.fixture
def make_trainer(make_config: Callable[..., SGPOConfig], checkpoint: Path, tokenizer: Any) -> Callable[..., Any]:
    def make(problems: list[Problem] | None = None, **changes: Any) -> SGPOTrainer:
        return SGPOTrainer(
            AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32),
            make_config(**{"updates_per_rollout": 1, "max_steps": 1, "completions_steps": 1, **changes}),
            train_dataset=problems or PROBLEMS,
            processing_class=tokenizer,
            sampler=NeverRight(),  # type: ignore[arg-type]
        )

    return make


def test_the_experts_tokens_are_those_that_sft_learns(tokenizer: Any) -> None:
    text = "(a) add: 1+2=3 \\boxed{3}"
    (prompt,) = encode_prompts(tokenizer, [student_messages("Compute 1+2")])
    whole = tokenizer.apply_chat_template(
        student_messages("Compute 1+2") + response_messages(text), tokenize=True, return_dict=False
    )
    ids = response_ids(text, tokenizer)
    assert whole[: len(prompt) + len(ids)] == prompt + ids
    assert ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("method", ["luffy", "hpt", "srft", "ampo"])
def test_groups_and_metrics(make_trainer: Callable[..., Any], method: str) -> None:
    """Three of four problems have a response, and that of p1 is wrong."""
    trainer = make_trainer(method=method)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    line = trainer.state.log_history[0]
    assert line["reward/autonomous"] == 0.0
    assert line["reward/expert"] == pytest.approx(2 / 3)
    assert line["imitated_share"] == 0.75
    assert line["imitated_surprisal"] > 0
    assert line["surprisal"] == 1.0
    assert any((p != before[name]).any() for name, p in trainer.model.named_parameters())


def test_group_sizes_and_terms(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(method="luffy")
    groups = trainer._verify(trainer._sample(PROBLEMS))
    assert [len(group.autonomous) for group in groups] == [4, 4, 4, 5]  # of G1 + G2 = 5
    assert [[expert.reward for expert in group.experts] for group in groups] == [[1.0], [0.0], [1.0], []]
    (update,) = trainer._decide(groups)
    rows = {row.term for row in update.rows if row.weights}
    assert rows == {"ratio", "shaped"}


@pytest.mark.parametrize("cap", [None, 1.5])
def test_an_expert_may_have_a_ratio(make_trainer: Callable[..., Any], cap: float | None) -> None:
    """pi_old of its tokens is recomputed, or what the row says; only what was sampled is corrected for the sampler."""

    def decide(groups: Sequence[ProblemRollouts], options: Any, update: UpdateContext) -> list[Decision]:
        decisions = []
        for group in groups:
            rows = [group.row("ratio", group.autonomous[0], 0.25)]
            for expert in group.experts:
                behaviour = torch.full((len(expert.completion_ids),), -0.5)
                rows.append(group.row("ratio", expert, 0.5))
                rows.append(replace(group.row("ratio", expert, 0.125), old_logprobs=behaviour))
            decisions.append(Decision(rows, "all of it"))
        return decisions

    trainer = make_trainer(method="luffy", updates_per_rollout=2, max_steps=2, importance_cap=cap)
    trainer.method = replace(trainer.method, decide=decide)
    updates = trainer._decide(trainer._verify(trainer._sample(PROBLEMS)))
    for number, update in enumerate(updates):
        assert len(update.rows) == (6 if number == 0 else 4)  # the last problem has no expert
        expected = 0.0
        for row in update.rows:
            pair = (row.prompt_ids, row.completion_ids)
            logprobs = trainer._scores(trainer.model, [pair])[0].logprobs.tolist()
            recomputed = number > 0 or cap is not None
            weights = weights_of(row)
            if weights[0] == 0.125:
                assert row.old_logprobs.tolist() == [-0.5] * len(logprobs)
                expected -= sum(0.125 * math.exp(value + 0.5) for value in logprobs)
                continue
            assert (row.old_logprobs is not None) == recomputed
            if recomputed:
                assert row.old_logprobs.tolist() == pytest.approx(logprobs, abs=1e-5)
            by_hand = [0.5] * len(logprobs)
            if row.completion_ids == [7, 9, 1]:
                by_hand = [0.25 * (1.0 if cap is None else min(cap, math.exp(value + 1.0))) for value in logprobs]
            assert weights == pytest.approx(by_hand, rel=1e-5)
            expected -= sum(by_hand)
        trainer.model.zero_grad()
        assert float(trainer._optimise(trainer.model, update)) == pytest.approx(expected, rel=1e-5)
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize(("share", "skipped"), [(0.99, True), (1.01, False)])
def test_updates_of_large_gradients_are_skipped(
    make_trainer: Callable[..., Any], tmp_path: Path, share: float, skipped: bool
) -> None:
    """Just below and just above the norm of the update."""
    unbounded = make_trainer(method="hpt", output_dir=str(tmp_path / "unbounded"))
    unbounded.train()
    norm = unbounded.state.log_history[0]["grad_norm"]
    trainer = make_trainer(method="hpt", skip_grad_norm=share * norm, weight_decay=0.1)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    line = trainer.state.log_history[0]
    assert (line["grad_norm"], line["skipped_updates"]) == (norm, float(skipped))
    same = all((p == before[name]).all() for name, p in trainer.model.named_parameters())
    assert same == skipped


def test_problems_without_any_response_are_refused(make_trainer: Callable[..., Any]) -> None:
    message = "method luffy learns from strong-model responses, and no problem has one; fill the column 'response'"
    with pytest.raises(ValueError, match=message):
        make_trainer([replace(problem, response=None) for problem in PROBLEMS], method="luffy")


def test_a_response_that_is_no_completion_is_refused(make_trainer: Callable[..., Any]) -> None:
    problems = [replace(PROBLEMS[0], response="1+2=3 " * 10), *PROBLEMS[1:]]
    with pytest.raises(ValueError, match=r"p0.*has \d+ tokens, max_completion_length leaves 12"):
        make_trainer(problems, method="hpt")
    make_trainer(problems, method="grpo")


def test_a_solution_that_the_method_does_not_read_may_be_long(make_trainer: Callable[..., Any]) -> None:
    """luffy and hpt learn from the first solution of a problem; the others are not in their groups either."""
    problems = [replace(PROBLEMS[0], more_responses=("1+2=3 " * 10,)), *PROBLEMS[1:]]
    trainer = make_trainer(problems, method="luffy")
    (group,) = trainer._sample(problems[:1])
    assert [expert.completion_ids for expert in group.experts] == [
        response_ids(str(PROBLEMS[0].response), trainer.processing_class)
    ]
