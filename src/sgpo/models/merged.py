"""The whole weights of a model in training, for an engine that knows neither adapters nor shards.

Of a model under an adapter they are base + delta, computed in float32.

Nothing is merged in place. Merging and unmerging a bfloat16 base for each synchronisation would round twice each time,
and the base would drift away from itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sgpo.models.adapters import has_adapter
from sgpo.sharding import whole


@torch.no_grad()
def full_parameters(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Names, as in a checkpoint, and values of all parameters, one at a time; tied ones once.

    Every process of a sharded model has to go through all of them, since each is gathered from all processes.
    """
    for name, value in merged_parameters(model) if has_adapter(model) else model.named_parameters():
        yield name.replace("_checkpoint_wrapped_module.", ""), whole(value).detach()


@torch.no_grad()
def merged_parameters(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the full model that a `peft.PeftModel` computes, one layer at a time.

    Parameters that the adapter does not touch come as they are, others in float32. Tied ones come once.
    """
    seen: set[int] = set()
    for name, value, original in _walk(model.get_base_model(), ""):
        if id(original) not in seen:
            seen.add(id(original))
            yield name, value


def _walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, value, and the parameter of the model that it stands for."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if isinstance(module, BaseTunerLayer):
        originals = dict(module.get_base_layer().named_parameters())
        for name, value in _merged_copy(module).named_parameters():
            yield f"{prefix}{name}", value, originals[name]
        return
    if isinstance(module, AuxiliaryTrainingWrapper):
        trained = getattr(module, "token_adapter", None) or module.modules_to_save[module.active_adapters[0]]
        yield from _walk(trained, prefix)
        return
    for name, parameter in module.named_parameters(recurse=False):
        yield f"{prefix}{name}", parameter, parameter
    for name, child in module.named_children():
        yield from _walk(child, f"{prefix}{name}.")


def _merged_copy(layer: Any) -> nn.Module:
    """The layer below a layer of an adapter, with the adapter in its weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    copies: dict[int, Any] = {  # in place of what deepcopy would make of a part of a parameter
        id(parameter): nn.Parameter(whole(parameter).detach().clone(), requires_grad=False)
        for parameter in layer.parameters()
    }
    twin = copy.deepcopy(layer, copies)
    twin.float()
    for module in list(twin.modules()):  # of adapters of several parameters, one lies in the other
        if isinstance(module, BaseTunerLayer):
            module.merge()
    return twin.get_base_layer()
