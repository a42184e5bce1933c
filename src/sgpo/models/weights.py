"""Models with their weights: of a full model, or of an adapter with all that it is an adapter of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sgpo.hub import hub_or_cache
from sgpo.models.adapters import chain_of, is_adapter, with_adapter


def load_weights(name: str, dtype: str = "float32", *, merged: bool = True) -> Any:
    """The model of a checkpoint that `open_checkpoint` has opened, its parameters of a type such as "bfloat16".

    The adapters of a chain are merged into the weights of the full model, once, in float32.

    Args:
        merged: whether the adapter of ``name`` itself is merged too; beside a base in a short type it is more exact.
    """
    import torch

    with _places(chain_of(name)):
        if merged or not is_adapter(name):
            return _merged(name).to(getattr(torch, dtype)) if is_adapter(name) else _full(name, dtype)
        from peft import PeftModel

        return PeftModel.from_pretrained(load_weights(chain_of(name)[1], dtype), name)


def load_policy(model: Any, peft_config: Any, args: Any) -> Any:
    """The model to train: a full one, or a frozen base with a new adapter or with that of the folder.

    Args:
        model: a name, or a model, which is changed in place if it gets an adapter.
        peft_config: of a new adapter; without one an adapter's folder goes on being trained.
        args: `TrainingArguments`; ``mixed_precision`` (by ``bf16``, or a launcher) decides the type of a frozen base,
            ``seed`` where the new adapter begins.
    """
    frozen = "bfloat16" if args.mixed_precision == "bf16" else "float32"
    if not isinstance(model, str):
        return model if peft_config is None else _with_new_adapter(model, peft_config, args.seed)
    if peft_config is not None:
        policy = _with_new_adapter(load_weights(model, frozen), peft_config, args.seed)
        # As the full path of a folder, so that it is found from wherever the adapter is loaded.
        named = str(Path(model).resolve()) if Path(model).is_dir() else model
        policy.active_peft_config.base_model_name_or_path = named
    elif is_adapter(model):
        from peft import PeftModel

        with _places(chain_of(model)):
            policy = PeftModel.from_pretrained(load_weights(chain_of(model)[1], frozen), model, is_trainable=True)
    else:
        return load_weights(model)
    return _saved_without_embedding(policy)


def _full(name: str, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype))


def _merged(name: str) -> Any:
    from peft import PeftModel

    *adapters, root = chain_of(name)
    model = _full(root, "float32")
    for adapter in reversed(adapters):
        wrapped = PeftModel.from_pretrained(model, adapter)
        _untie_adapted(wrapped)
        model = wrapped.merge_and_unload(safe_merge=True)
    return model


def _untie_adapted(wrapped: Any) -> None:
    """Where one weight is embedding and head, and an adapter changes one of both, or each by itself: make them two.

    Merged into the common weight, the change of one would be one of the other as well.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    embedding, head = wrapped.get_input_embeddings(), wrapped.get_output_embeddings()
    adapted = isinstance(embedding, BaseTunerLayer) or isinstance(head, BaseTunerLayer)
    if not adapted or head.weight is not embedding.weight:
        return
    below = getattr(head, "get_base_layer", None)
    layer: Any = head if below is None else below()
    layer.weight = nn.Parameter(layer.weight.detach().clone())
    model = wrapped.get_base_model()
    model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


@contextmanager
def _places(names: list[str]) -> Iterator[None]:
    """The Hub is asked, or where it is out of reach its cache, if a name is one of the Hub."""
    with nullcontext() if all(Path(name).is_dir() for name in names) else hub_or_cache():
        yield


def _with_new_adapter(model: Any, peft_config: Any, seed: int) -> Any:
    from transformers import set_seed

    set_seed(seed)  # an adapter begins with random numbers
    return with_adapter(model, peft_config)


def _saved_without_embedding(model: Any) -> Any:
    """PEFT asks the Hub at each save whether the vocabulary has changed; that of a loaded base has not."""
    save = model.save_pretrained
    model.save_pretrained = lambda *args, **kwargs: save(*args, **{"save_embedding_layers": False, **kwargs})
    return model
