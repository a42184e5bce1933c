"""The targets that a run keeps token by token: their numbers are those of the loss, and there are few of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from trainer_setup import DELTA, MakeTrainer, Recorder, Reference, Script, in_float64, lines_of, updates_of
from view_cases import views_of

from sgpo.problems import Problem
from sgpo.runs.folder import completions_path
from sgpo.training import token_views


def test_divergences_are_those_of_the_loss(
    make_trainer: MakeTrainer, problems: list[Problem], tokenizer: Any, script: Script
) -> None:
    trainer, recorder = make_trainer(), Recorder()
    trainer.add_callback(recorder)
    trainer.train()
    views, rows = (
        views_of(trainer.args.output_dir),
        pq.read_table(completions_path(trainer.args.output_dir, 0)).to_pylist(),
    )
    texts = {row["problem"]: row["completion"] for row in rows if row["target"]}
    first, second = updates_of(trainer, problems, tokenizer)
    sampled = in_float64(recorder.policies[0])  # that policy made the first update, and sampled for both
    targets = [p for p in (*first, *second) if p.id in views]
    assert set(views) == {problem.id for problem in targets} == {"p0", "p1", "p4", "p6"}  # p5 has alpha 0
    for problem in targets:
        reference = Reference(tokenizer, script, trainer.args)
        with torch.no_grad():
            reference.loss(sampled, sampled, [problem])
        view = views[problem.id]
        assert view["answer"]["divergence"] == pytest.approx(reference.divergences, rel=1e-3, abs=2e-5)
        masked = [place for place, value in enumerate(reference.divergences) if value > DELTA]
        assert view["answer"]["masked"] == masked
        assert f"target, α = {reference.alphas[0]:.2f}" in view["answer"]["facts"]
        assert "".join(view["answer"]["texts"]).startswith(texts[problem.id])
    # Over the tokens of all targets of the update: the metric that the engine logged.
    values = [value for p in first if p.id in views for value in views[p.id]["answer"]["divergence"]]
    line = next(line for line in lines_of(trainer) if "loss" in line)
    assert line["divergence"] == pytest.approx(sum(values) / len(values), rel=1e-3)


def test_few_and_short_ones_are_kept(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_views, "TARGETS", 2)
    monkeypatch.setattr(token_views, "LONGEST", 3)
    trainer = make_trainer()
    trainer.train()
    whole = pq.read_table(completions_path(trainer.args.output_dir, 0)).to_pylist()
    alphas = sorted((row["alpha"] for row in whole if row["target"]), reverse=True)
    views = views_of(trainer.args.output_dir)
    assert len(views) == 2
    for view in views.values():
        tokens = next(row["tokens"] for row in whole if row["problem"] == view["id"] and row["target"])
        assert len(view["answer"]["texts"]) == min(3, tokens)
        assert (f"shown are the first 3 of {tokens} tokens" in view["answer"]["facts"]) == (tokens > 3)
    kept = [row["alpha"] for row in whole if row["target"] and row["problem"] in views]
    assert sorted(kept, reverse=True) == alphas[:2]


@pytest.mark.parametrize("changes", [{"method": "grpo", "num_guided": 0}, {"completions_steps": 0}])
def test_nothing_is_kept(make_trainer: MakeTrainer, changes: dict[str, Any]) -> None:
    trainer = make_trainer(**changes)
    trainer.train()
    assert not list(Path(trainer.args.output_dir).glob("completions/*.json"))


def test_without_a_threshold_nothing_is_masked(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(delta=float("inf"))
    trainer.train()
    assert all(
        view["answer"]["delta"] is None and not view["answer"]["masked"]
        for view in views_of(trainer.args.output_dir).values()
    )
