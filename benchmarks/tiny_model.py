"""A Qwen2 of random weights, by default of a size that a CPU updates in seconds."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 2048


def build_model(hidden: int, layers: int, vocabulary: int = VOCABULARY, **options: Any) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            num_key_value_heads=max(1, hidden // 128),
            intermediate_size=hidden * 3,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            **options,
        )
    )
