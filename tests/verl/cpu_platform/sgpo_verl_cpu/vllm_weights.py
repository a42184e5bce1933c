"""vLLM for CPU packs linear weights after loading and cannot load them again; a plain linear layer keeps them."""

from __future__ import annotations

from typing import Any


def keep_weights() -> None:
    import torch
    import vllm.model_executor.layers.utils as layers

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    layers.dispatch_cpu_unquantized_gemm = plain
