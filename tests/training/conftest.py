"""Fixtures of the trainer that runs on given rollouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_setup import DELTA, FALSE, PLANS, RIGHT, MakeTrainer, Script, last_digit_reward
from transformers import AutoModelForCausalLM

from sgpo.problems import Problem
from sgpo.prompts import encode_prompts, guided_messages, student_messages
from sgpo.sampling.records import Rollout
from sgpo.training.config import SGPOConfig
from sgpo.training.trainer import SGPOTrainer


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    methods = ("add", "subtract", "multiply", "divide")
    return [
        Problem(
            id=f"p{number}",
            prompt=f"Compute {number}+{number + 3}",
            answer=str(2 * number + 3),
            strategy=f"Steps: (a) {methods[number % 4]}" if guided else None,
            extra={"level": number},
        )
        for number, (_, guided) in enumerate(PLANS)
    ]


@pytest.fixture(scope="module")
def script(problems: list[Problem], tokenizer: Any) -> Script:
    """Rollouts by prompt: words and numbers at random, then the token that tells the reward."""
    source = torch.Generator().manual_seed(1)
    words = [token for token in range(len(tokenizer)) if tokenizer.decode([token]).strip().isalnum()]
    right, false = (tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in (RIGHT, FALSE))
    found: Script = {}
    for problem, plans in zip(problems, PLANS, strict=True):
        conversations = [student_messages(problem.prompt)]
        if problem.strategy:
            conversations.append(guided_messages(problem.prompt, problem.strategy))
        for prompt, plan in zip(encode_prompts(tokenizer, conversations), plans, strict=False):
            rollouts = []
            for reward, length in plan:
                drawn = [words[i] for i in torch.randint(len(words), (length - 1,), generator=source).tolist()]
                ids = [*drawn, false if reward == 0 else right]
                if reward != "cut":
                    ids.append(tokenizer.eos_token_id)
                rollouts.append(Rollout(ids, torch.full((len(ids),), -1.0), truncated=reward == "cut"))
            found[tuple(prompt)] = rollouts
    return found


@pytest.fixture
def make_trainer(
    make_config: Callable[..., SGPOConfig],
    checkpoint: Path,
    tokenizer: Any,
    problems: list[Problem],
    script: Script,
    scripted_sampler: Any,
) -> MakeTrainer:
    """A trainer of the scripted rollouts; keywords change its configuration."""

    def make(train_dataset: Any = None, eval_dataset: Any = None, **changes: Any) -> SGPOTrainer:
        of_method = {"delta": DELTA} if changes.get("method", "sgpo") == "sgpo" else {}
        values = {"problems_per_rollout": 8, "learning_rate": 1e-3, "max_grad_norm": 0.0, **of_method, **changes}
        return SGPOTrainer(
            AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32),
            make_config(**values),
            train_dataset=train_dataset or problems,
            eval_dataset=eval_dataset,
            reward_funcs=last_digit_reward,
            processing_class=tokenizer,
            sampler=scripted_sampler(script),
        )

    return make
