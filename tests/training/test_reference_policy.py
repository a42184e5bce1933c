"""The reference policy of a method that uses it, and what a run with several solutions a problem says at its start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.problems import Problem
from sgpo.training.start_table import start_rows

FILE = """
from sgpo.methods.grpo import GRPOOptions, decide
from sgpo.methods.method import Method, all_autonomous

METHOD = Method(GRPOOptions, all_autonomous, decide, uses=("reference", "responses"))
"""
PROBLEMS = [Problem(str(n), f"Compute {n}+1", str(n + 1), "one", more_responses=("two", "three")) for n in range(4)]


def config(tmp_path: Path, **values: Any) -> SGPOConfig:
    (tmp_path / "mine.py").write_text(FILE)
    sizes: dict[str, Any] = {"problems_per_rollout": 2, "updates_per_rollout": 1, "max_completion_length": 12}
    sizes |= {"num_autonomous": 4, "num_guided": 0, "max_steps": 1}
    return SGPOConfig(
        str(tmp_path / "run"),
        method=f"{tmp_path}/mine.py:METHOD",
        use_cpu=True,
        report_to="none",
        **sizes,
        **values,
    )


def test_it_is_the_policy_before_training_to_the_bit(checkpoint: Path, tmp_path: Path, tokenizer: Any) -> None:
    """Also of a model in bfloat16, whose weights are trained in float32."""
    model = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=torch.bfloat16)
    trainer = SGPOTrainer(model, config(tmp_path), PROBLEMS, processing_class=tokenizer)
    pairs = [([5, 6], [7, 8, 9])]
    (policy,), (reference,) = (trainer._scores(model, pairs) for model in (trainer.model, trainer.reference))
    assert torch.equal(policy.logprobs, reference.logprobs)
    assert not any(parameter.requires_grad for parameter in trainer.reference.parameters())


def test_the_most_micro_batches_have_room_for_all_solutions(tmp_path: Path) -> None:
    args = config(tmp_path, max_tokens_per_microbatch=32)
    rows = dict(start_rows(args, PROBLEMS, longest_prompt=20, max_steps=1, first_step=0, evaluated=False))
    # 2 problems with 4 completions and 3 solutions each, of up to 32 tokens
    assert rows["micro-batches an update"].startswith("at most 14: together they hold up to 14 sequences")
