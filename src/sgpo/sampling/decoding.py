"""A model's forward pass of one token a row, made faster on a CPU without touching the model's code.

    fast_decoding      inside, linear layers and attention are computed by the functions below
    may_share_prompts  whether the cache may be `SharedPrompts`
    inference          less to be done for each operation

Linear layers: a float32 product of some dozen rows is up to twice as fast with oneDNN as with PyTorch's default (MKL,
which on AMD does not use AVX-512). Attention: PyTorch's fused kernel works row by row and head by head; with one query
a row, batched products of matrices are faster. Both give the same numbers as before, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sgpo.sampling.cache import SharedPrompts

FEWEST_ROWS = 16  # with less, calling oneDNN costs more than it saves


@contextmanager
def fast_decoding(model: nn.Module) -> Iterator[None]:
    """Around forward passes without gradients, in one thread of Python at a time.

    Changes nothing for layers that are not on a CPU in float32, nor under autocast, nor for layers of classes derived
    from ``nn.Linear``, nor for attention other than ``sdpa``.
    """
    with ExitStack() as inside:
        if torch.backends.mkldnn.is_available():
            inside.enter_context(_linears_of_onednn(model))
        inside.enter_context(_attention_of_one_query())
        yield


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """PyTorch's inference mode, which costs less than `torch.no_grad`.

    Tensors that a module makes inside and keeps, such as frequencies of a longer text, are usable in training after it.
    """
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in model.modules():
            for kept in (module._buffers, vars(module)):
                for name, value in kept.items():
                    if isinstance(value, Tensor) and value.is_inference():
                        kept[name] = value.clone()


@contextmanager
def _linears_of_onednn(model: nn.Module) -> Iterator[None]:
    linears = [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and type(module.weight) is nn.Parameter  # not one that is sharded or quantised
        and _is_plain(module.weight)
        and "forward" not in vars(module)  # or another library has replaced it
    ]
    for module in linears:
        vars(module)["forward"] = _linear_of_onednn(module)
    try:
        yield
    finally:
        for module in linears:
            del module.forward


def _linear_of_onednn(module: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight, bias, product = module.weight, module.bias, torch.ops.mkldnn._linear_pointwise.default

    def forward(input: Tensor) -> Tensor:
        if input.numel() < FEWEST_ROWS * input.shape[-1] or not _is_plain(input):
            return nn.functional.linear(input, weight, bias)
        return product(input, weight, bias, "none", [], "")

    return forward


def _is_plain(tensor: Tensor) -> bool:
    """Asked inside the forward pass, since accelerate turns autocast on there."""
    exact = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    return exact and not torch.is_autocast_enabled("cpu")


@contextmanager
def _attention_of_one_query() -> Iterator[None]:
    before = ALL_ATTENTION_FUNCTIONS._local_mapping.get("sdpa")
    ALL_ATTENTION_FUNCTIONS["sdpa"] = attention_of_one_query
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]
        if before is not None:
            ALL_ATTENTION_FUNCTIONS["sdpa"] = before


def attention_of_one_query(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' ``sdpa_attention_forward``, computed by products of matrices where each row has one query.

    Args:
        query: [B, heads, queries, D].
        key, value: [B, H, T, D], with heads a multiple of H; of `SharedPrompts` only what was drawn.
        attention_mask: [B, 1, queries, T], true where to attend, or what is added; None: everywhere. Not read with
            `SharedPrompts`, where `may_share_prompts` has found that it masks nothing but padding.

    Returns:
        [B, queries, heads, D], and None for the weights.
    """
    special = dropout or any(options.get(name) is not None for name in ("position_bias", "cache", "softcap"))
    special = special or not _is_plain(query) or (attention_mask is not None and attention_mask.shape[1] != 1)
    one_query = query.shape[2] == 1 and not special
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    shared: SharedPrompts | None = key.shared() if hasattr(key, "shared") else None
    if one_query and shared is not None:
        return shared.attend(query, scale)[:, None], None
    if one_query:
        return _attend(query, key, value, attention_mask, scale)[:, None], None
    if not special:
        key.plain_mask = attention_mask  # type: ignore[attr-defined]  # read by `may_share_prompts`
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
    )


def may_share_prompts(layer: DynamicLayer, padding: Tensor) -> bool:
    """Whether, in the pass over the prompts, each token attended to all before it but padding, by the function above.

    Args:
        padding: [Q, W] true for padding.
    """
    if not hasattr(layer.keys, "plain_mask"):
        return False  # another attention function, or the model did something with the keys before it
    mask = layer.keys.plain_mask
    if mask is None:
        return not bool(padding.any())
    causal = torch.ones(2 * padding.shape[-1:], dtype=torch.bool, device=padding.device).tril()
    expected = causal & ~padding[:, None, :]
    same_shape = mask.dtype == torch.bool and mask.shape == (len(padding), 1, *causal.shape)
    return same_shape and bool(((mask[:, 0] == expected) | padding[:, :, None]).all())


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The attended values [B, heads, D] of one query a row [B, heads, 1, D]."""
    rows, heads, _, dimension = query.shape
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], dimension) * scale
    scores = grouped @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill_(~mask, float("-inf")) if mask.dtype == torch.bool else scores.add_(mask)
    return (scores.softmax(-1) @ value).view(rows, heads, -1)
