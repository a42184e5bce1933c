"""Whole runs through the package's own command, with Ray, vLLM and two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import verl_cases
from verl_runs import BASE, Run

from sgpo.integrations.verl.rows import decided
from sgpo.methods.registry import METHODS

pytest.importorskip("verl")

OPTIONS = METHODS["sgpo"].options(num_autonomous=4, num_guided=2, delta=0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two steps of SGPO on two processes, a checkpoint after each, and a third after it was resumed."""
    run = Run(tmp_path_factory.mktemp("v") / "run", processes=2)
    status = run.start("trainer.total_training_steps=2", "trainer.save_freq=1").wait()
    assert status == 0, run.said[-3000:]
    return run


def test_loss_and_its_parts_of_the_first_step_are_ours(finished: Run) -> None:
    rows = torch.load(finished.folder / "rows" / "1.pt", weights_only=False)
    assert len(rows) == 4 * 6
    expected = verl_cases.two_updates(BASE, rows, OPTIONS, packed=False, rate=1e-3)
    logged = finished.metrics()[1]
    for row, old in zip(rows, expected["old"], strict=True):
        torch.testing.assert_close(row.old_logprobs, old, rtol=1e-5, atol=1e-5)
    for name, *values in [(name, *(update[name] for update in expected["updates"])) for name in expected["updates"][0]]:
        place = "actor/grad_norm" if name == "grad_norm" else f"sgpo/{name}"
        assert logged[place] == pytest.approx(sum(values) / len(values), rel=2e-5, abs=1e-6), name
    found = decided(rows, METHODS["sgpo"], OPTIONS, 2)
    alphas = [decision.alpha for update in found.updates for decision in update.decisions]
    assert logged["sgpo/alpha"] == pytest.approx(sum(alphas) / len(alphas))


def test_a_run_goes_on_from_its_checkpoint(finished: Run) -> None:
    status = finished.start("trainer.total_training_steps=3", "trainer.resume_mode=auto").wait()
    assert status == 0, finished.said[-3000:]
    assert "global step to 2" in finished.said
    assert list(finished.metrics()) == [3]


def test_a_failing_reward_function_ends_the_run_with_its_error(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", reward='raise RuntimeError("the reward broke")')
    assert run.start("trainer.total_training_steps=1").wait() == 1
    assert "EngineError: a completion could not be sampled or judged" in run.said
    assert "RuntimeError: the reward broke" in run.said


def test_grpo_samples_without_strategies_and_distils_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    own = ["sgpo.method=grpo", "sgpo.num_guided=4", "sgpo.delta=1.0"]  # of SGPO's options, so at their defaults
    assert run.start(*own, "trainer.total_training_steps=1").wait() == 0, run.said[-3000:]
    rows = torch.load(run.folder / "rows" / "1.pt", weights_only=False)
    assert len(rows) == 4 * (4 + 4)  # as many as SGPO samples in all
    assert not any(row.guided_prompt_ids for row in rows)
    logged = run.metrics()[1]
    assert "sgpo/divergence" not in logged
    assert "sgpo/alpha" not in logged
    assert logged["actor/grad_norm"] > 0


@pytest.mark.parametrize("name", ["VLLM::EngineCore", "ray::WorkerDict", "ray::SGPOAgentLoopWorker"])
def test_a_process_that_is_killed_ends_the_run(tmp_path: Path, name: str) -> None:
    run = Run(tmp_path / "run", reward="import time; time.sleep(1)")
    run.start("trainer.total_training_steps=50", "sgpo.stall_minutes=3")
    run.wait_for("step:1 ")
    assert run.kill(name) > 0
    assert run.wait() == 1
    assert "Error" in run.said
