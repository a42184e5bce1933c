"""Without chance: teacher, old policy, current policy and sampler are one function, without dropout.

Train mode would switch dropout on wherever a model or an adapter is configured with it, and each pass would be another
function: with the same prompt on both sides the divergence would not be 0. But transformers asks a layer for train mode
before it checkpoints it. So those layers alone stay in train mode until their own code runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module has its own earlier mode (some may be frozen)."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """As evaluation mode, for passes with gradients: gradient checkpointing goes on, where it is on.

    Backward passes belong inside too, as checkpointed layers run again in them.

    Raises:
        ValueError: a layer that checkpoints itself in a way of its own, as old code on the Hub does.
    """
    with evaluation_mode(model):
        layers = _checkpointed(model)
        functions = [layer._gradient_checkpointing_func for layer in layers]
        for layer, function in zip(layers, functions, strict=True):
            layer.training, layer._gradient_checkpointing_func = True, _evaluated(layer, function)
        try:
            yield
        finally:
            for layer, function in zip(layers, functions, strict=True):
                layer.training, layer._gradient_checkpointing_func = False, function


def _checkpointed(model: nn.Module) -> list[Any]:
    """The layers themselves: the modules around them have the mark too."""
    marked = {module for module in model.modules() if getattr(module, "gradient_checkpointing", False)}
    layers: list[Any] = [module for module in marked if len(marked.intersection(module.modules())) == 1]
    for layer in layers:
        if not hasattr(layer, "_gradient_checkpointing_func"):
            raise ValueError(
                f"{type(layer).__name__} checkpoints its activations in a way of its own, which needs train mode, and "
                "with it dropout; leave activation_checkpointing out"
            )
    return layers


def _evaluated(layer: Any, checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """The checkpointing function of a layer, whose code it runs in evaluation mode, in both passes."""

    def checkpointed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def run(*inputs: Any, **options: Any) -> Any:
            layer.training = False
            try:
                return function(*inputs, **options)
            finally:
                layer.training = True

        return checkpoint(run, *args, **kwargs)

    return checkpointed
