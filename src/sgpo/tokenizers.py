"""What training and evaluation need to know of a tokenizer."""

from __future__ import annotations

from typing import Any


def end_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends a completion: the tokenizer's and those of the model's generation configuration."""
    of_model = getattr(model.generation_config, "eos_token_id", None)
    ids = of_model if isinstance(of_model, list) else [of_model]
    return sorted({token for token in (*ids, tokenizer.eos_token_id) if token is not None})


def pad_token_id(tokenizer: Any) -> int:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


def check_tokenizer(tokenizer: Any) -> None:
    if tokenizer.chat_template is None:
        raise ValueError(
            "the tokenizer has no chat template; train an instruction-tuned checkpoint, or set tokenizer.chat_template "
            "and pass the tokenizer as processing_class"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no eos_token: nothing would end a completion; set tokenizer.eos_token")
