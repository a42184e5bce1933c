"""Attention over rows with shared prefixes (`sgpo.engine.prefix_trie`), as an attention implementation of transformers.

Each batch of segments goes through scaled_dot_product_attention with a mask, its keys and values being collected from
the input's. Their gradients are added in the order of the places, so that a run can be repeated to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import embedding
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sgpo.engine.prefix_trie import SharedPrefixes
from sgpo.sharding import is_partitioned

NAME = "sgpo_shared_prefixes"
# Their attention is causal over the whole row and found by its name; positions enter through position_ids alone.
EXACT = tuple(f"transformers.models.{name}.modeling_{name}" for name in ("llama", "qwen2", "qwen3"))
# Of other kinds, such as "dynamic", the angles depend on the longest row of a batch.
EXACT_ROPE = ("default", "linear", "yarn", "llama3")


def can_share_prefixes(model: Any) -> bool:
    """Whether loss and gradient are the same with shared prefixes: for these architectures, with sdpa in all layers.

    Not of a model that ZeRO-3 divides. Each process decides for itself whether its rows share anything, which changes
    how many outputs a pass has, and so what DeepSpeed records of the modules in the backward pass. It compares the
    records of the processes, which would wait for each other forever.
    """
    bare = _pretrained(model)
    if bare is None or is_partitioned(bare):
        return False
    config, kind = bare.config, type(bare)
    if issubclass(kind, FSDPModule):  # fully_shard makes a class of its own for each class that it shards
        kind = kind.__bases__[1]
    return (
        kind.__module__ in EXACT
        and config._attn_implementation == "sdpa"
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and (config.rope_parameters or {}).get("rope_type", "default") in EXACT_ROPE
    )


@contextmanager
def prefix_attention(model: Any, shared: bool = True) -> Iterator[None]:
    """Inside, the model takes ``shared_prefixes``; passes without are as ever. Backward passes belong inside too.

    Layers that were checkpointed run again in them, and ask the configuration again which attention they have.

    Raises:
        ValueError: shared, and the model would compute something else.
    """
    if not shared:
        yield
        return
    if not can_share_prefixes(model):
        raise ValueError(
            f"{type(model).__name__} cannot share prefixes: Llama, Qwen2 and Qwen3 can, with sdpa, "
            "without sliding windows, and not divided by ZeRO-3; set share_prefixes: false"
        )
    config = _pretrained(model).config
    before, config._attn_implementation = config._attn_implementation, NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _pretrained(model: Any) -> Any:
    """The transformers model within wrappers; its configuration is that of all its layers."""
    return next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)


def take(values: Tensor, places: Tensor) -> Tensor:
    """values[places], with a gradient that is added up in one order. [T, C], [...] -> [..., C]"""
    return embedding(places, values)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared_prefixes: SharedPrefixes | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """[1, heads, T, D] each -> [1, T, heads, D], as transformers' attention functions."""
    if shared_prefixes is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    heads, size = query.shape[1], query.shape[3]
    rows = [states[0].transpose(0, 1).flatten(1) for states in (query, key, value)]  # [T, heads * D]
    found = []
    for batch in shared_prefixes.batches:
        places = (batch.queries, batch.keys, batch.keys)
        parts = [
            take(states, where).unflatten(-1, (-1, size)).transpose(1, 2)
            for states, where in zip(rows, places, strict=True)
        ]
        result, _ = sdpa_attention_forward(module, *parts, batch.mask, **kwargs)
        found.append(result.flatten(2).flatten(0, 1))  # [n * Q, heads * D]
    return take(torch.cat(found), shared_prefixes.places).unflatten(-1, (heads, size))[None], None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
