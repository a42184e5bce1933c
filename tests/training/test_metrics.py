"""metrics.jsonl: each number by hand, and whose lines it holds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from trainer_setup import PLANS, MakeTrainer, Recorder, Reference, Script, full_reward, in_float64, lines_of, updates_of

from sgpo.means import Means
from sgpo.problems import Problem
from sgpo.prompts import student_messages
from sgpo.training.metrics import Logbook, cut_lines


def test_an_occasion_that_goes_on() -> None:
    """Its values weigh alike; occasions weigh alike, however many values they have."""
    parts = [Means(), Means()]
    parts[0].add("a", [1.0])
    parts[1].add("a", [0.0, 0.0, 0.0])
    for goes_on, mean in ((False, 0.5), (True, 0.25)):
        book = Logbook()
        book.record(parts[0])
        book.record(parts[1], goes_on=goes_on)
        assert book.take() == {"a": mean}
    assert parts[0].values() == {"a": 1.0}


def test_metrics_file_by_hand(
    make_trainer: MakeTrainer, problems: list[Problem], tokenizer: Any, script: Script
) -> None:
    trainer, recorder = make_trainer(), Recorder()
    trainer.add_callback(recorder)
    trainer.train()
    lines = [line for line in lines_of(trainer) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    for line, part, policy in zip(lines, updates_of(trainer, problems, tokenizer), recorder.policies, strict=True):
        plans = [PLANS[int(problem.id[1:])] for problem in part]
        reference = Reference(tokenizer, script, trainer.args)
        reference.loss(policy, recorder.policies[0], part)
        for group, completions in (("autonomous", 0), ("guided", 1)):
            flat = [completion for plan in plans for completion in plan[completions]]
            rate = sum(map(full_reward, flat)) / len(flat)
            assert line[f"reward/{group}"] == pytest.approx(rate, rel=1e-12)
            assert line[f"pass_rate/{group}"] == pytest.approx(rate, rel=1e-12)
            tokens = [length + (reward != "cut") for reward, length in flat]
            assert line[f"length/{group}"] == pytest.approx(sum(tokens) / len(flat), rel=1e-12)
            cut = [reward == "cut" for reward, _ in flat]
            assert line[f"truncated/{group}"] == pytest.approx(sum(cut) / len(flat), rel=1e-12)
        equal = [len({full_reward(plan) for plan in autonomous}) == 1 for autonomous, _ in plans]
        assert line["zero_variance_share"] == sum(equal) / 4
        has_target = [any(reward == 1 for reward, _ in guided) for _, guided in plans]
        assert line["target_share"] == sum(has_target) / 4
        assert line["alpha"] == pytest.approx(sum(reference.alphas) / 4, rel=1e-12)
        assert line["alpha_with_target"] == pytest.approx(sum(reference.alphas) / sum(has_target), rel=1e-12)
        distilled = [plan for plan, alpha in zip(plans, reference.alphas, strict=True) if alpha]
        assert distilled
        assert line["learning_rate"] == 1e-3
    first, second = lines
    assert first["clipped_share"] == 0.0
    assert second["clipped_share"] > 0.0
    # The seconds of sampling, verifying and assembling stand in the line of the update that did them.
    phases = {"seconds/sample", "seconds/verify", "seconds/assemble"}
    assert phases <= set(first)
    assert phases.isdisjoint(second)
    assert "seconds/optimise" in first.keys() & second.keys()
    common = {"loss", "grad_norm", "learning_rate", "epoch", "step", "entropy", "divergence", "divergence_masked_share"}
    assert common <= set(first) & set(second)
    assert 0.0 < first["entropy"] < math.log(len(tokenizer))


def test_metrics_of_tokens_by_hand(
    make_trainer: MakeTrainer, problems: list[Problem], tokenizer: Any, script: Script
) -> None:
    """One update of the two problems of which both terms have weight."""
    chosen = [problems[0], problems[4]]
    trainer = make_trainer(train_dataset=chosen, problems_per_rollout=2, updates_per_rollout=1, max_steps=1)
    policy = in_float64(trainer.model)
    reference = Reference(tokenizer, script, trainer.args)
    reference.loss(policy, policy, chosen)
    trainer.train()
    line = lines_of(trainer)[0]
    divergences = reference.divergences
    assert line["divergence"] == pytest.approx(sum(divergences) / len(divergences), rel=1e-4)
    masked = [d > trainer.args.delta for d in divergences]
    assert line["divergence_masked_share"] == pytest.approx(sum(masked) / len(masked), rel=1e-6)
    entropies = []
    for problem in chosen:
        prompt = reference.encode(student_messages(problem.prompt))
        for rollout in script[tuple(prompt)]:
            logprobs = reference.distributions(policy, prompt, rollout.completion_ids)
            entropies += (-(logprobs.exp() * logprobs).sum(-1)).tolist()
    assert line["entropy"] == pytest.approx(sum(entropies) / len(entropies), rel=1e-4)


def test_logging_every_other_step_gives_means(make_trainer: MakeTrainer) -> None:
    each = make_trainer(max_steps=2)
    each.train()
    lines = [line for line in lines_of(each) if "loss" in line]
    other = make_trainer(max_steps=2, logging_steps=2, overwrite=True)
    other.train()
    (joined,) = [line for line in lines_of(other) if "loss" in line]
    for name in ("reward/autonomous", "alpha", "loss", "divergence"):
        assert joined[name] == pytest.approx((lines[0][name] + lines[1][name]) / 2, rel=1e-4), name


def test_a_run_that_replaces_another_starts_its_metrics_anew(make_trainer: MakeTrainer) -> None:
    for _ in range(2):
        trainer = make_trainer(overwrite=True)
        trainer.train()
        assert [line["step"] for line in lines_of(trainer) if "loss" in line] == [1, 2]


def test_lines_after_a_step_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    cut_lines(tmp_path, 3)
    assert not path.exists()
    rows = [{"step": 1}, {"step": 2, "eval": 1}, {"step": 3}, {"step": 4}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cut_lines(tmp_path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2, "eval": 1}\n'
    cut_lines(tmp_path, 0)
    assert path.read_text() == ""
