"""Tiny models, rows of all terms, and their gradients."""

from __future__ import annotations

import functools
import random
from typing import Any

import torch
from method_cases import decided, group_of
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sgpo.engine.batching import BatchLayout
from sgpo.engine.update import accumulate_gradients, completion_scores
from sgpo.methods.records import ProblemRollouts, TrainingSequence
from sgpo.methods.registry import METHODS
from sgpo.methods.sgpo import SGPOOptions
from sgpo.methods.terms import Thresholds
from sgpo.problems import Problem
from sgpo.sampling.records import Rollout

VOCABULARY = 40


THRESHOLDS = Thresholds(eps_low=0.2, eps_high=0.28, delta=1.0)


LAYOUT = BatchLayout(max_tokens=60, pad_token_id=0)


SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "max_position_embeddings": 64,
}


ARCHITECTURES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SMALL)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SMALL, tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SMALL, head_dim=8)),
}


def make_model(name: str = "qwen2") -> Any:
    torch.manual_seed(0)
    model_class, config = ARCHITECTURES[name]
    return model_class(config)


def rollout_groups() -> list[ProblemRollouts]:
    """Two problems with both groups; lengths from 1 to 20."""
    source = random.Random(0)

    def ids(length: int) -> list[int]:
        return [source.randrange(1, VOCABULARY) for _ in range(length)]

    def rollout(reward: float) -> Rollout:
        completion = ids(source.randint(1, 20))
        return Rollout(
            completion, torch.full((len(completion),), -2.0), truncated=False, reward=reward, correct=reward == 1
        )

    def group(name: str) -> ProblemRollouts:
        autonomous = [rollout(reward) for reward in (1.0, 0.0, 0.0, 0.0)]
        guided = [rollout(reward) for reward in (1.0, 1.0, 0.0)]
        return group_of(Problem(name, "?", "1", strategy="s"), ids(5), ids(9), autonomous, guided)

    return [group("a"), group("b")]


def sequences_for(model: Any) -> list[TrainingSequence]:
    """As the documentation shows it: completions and rewards in, training sequences out."""
    options = SGPOOptions(num_autonomous=4, num_guided=3)
    scorer = functools.partial(completion_scores, model, layout=LAYOUT)
    return decided(METHODS["sgpo"], rollout_groups(), options, scorer).sequences


def gradients(model: Any, sequences: list[TrainingSequence], **options: Any) -> tuple[float, list[Tensor]]:
    model.zero_grad()
    found = accumulate_gradients(model, sequences, options.pop("layout", LAYOUT), THRESHOLDS, **options)
    return found.loss, [p.grad.clone() for p in model.parameters() if p.grad is not None]


def distance(left: list[Tensor], right: list[Tensor]) -> float:
    assert len(left) == len(right)
    one, other = (torch.cat([g.double().flatten() for g in some]) for some in (left, right))
    assert other.norm() > 1e-2
    return float((one - other).norm() / other.norm())
