"""Adapters (LoRA and others of PEFT): a folder with one stands wherever a model does.

A folder with `adapter_config.json` and without `config.json` holds an adapter; the file names its base, which may be an
adapter again. `chain_of` follows them down to the full model; `sgpo.models.weights` loads it.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgpo.models.arguments import AdapterArguments

ADAPTER_CONFIG = "adapter_config.json"
# They take from the base what they put into the adapter, and a checkpoint of an adapter does not hold the base.
INITS_THAT_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Not what a run computes; or the base, which is compared by its name.
NOT_COMPARED = ("inference_mode", "peft_version", "revision", "base_model_name_or_path", "auto_mapping")


# ---------------------------------------------------------------------- which adapters there are


def chain_of(name: str) -> list[str]:
    """The adapter, its base, the base of that, and so on to the full model; of a full model its name alone.

    Raises:
        ValueError: an adapter that names no base, or a circle of them; or PEFT is not installed.
    """
    chain = [name]
    while (base := _base_of(chain[-1])) is not None:
        require_peft()
        if base in chain:
            raise ValueError(f"the adapter {chain[-1]} has the base {base}, which is an adapter of it")
        chain.append(base)
    return chain


def is_adapter(name: str) -> bool:
    """Whether a folder, or what is known here of a model of the Hub, is an adapter."""
    return adapter_file(name) is not None


def _base_of(name: str) -> str | None:
    path = adapter_file(name)
    if path is None:
        return None
    try:
        base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not base:
        raise ValueError(f"the adapter {name} names no base model; write base_model_name_or_path into {path}")
    return base


def adapter_file(name: str) -> Path | None:
    """The configuration of an adapter; None for a full model, also for one with an adapter beside its weights."""
    folder = Path(name)
    if folder.is_dir():
        return folder / ADAPTER_CONFIG if _has(folder, ADAPTER_CONFIG) and not _has(folder, "config.json") else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return None
        found = try_to_load_from_cache(name, ADAPTER_CONFIG)
    except HFValidationError:  # no name of the Hub
        return None
    return Path(found) if isinstance(found, str) else None


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def require_peft() -> None:
    """Raises ValueError where PEFT is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise ValueError("an adapter needs the package peft, which is not installed here: pip install 'sgpo[peft]'")


# ---------------------------------------------------------------------- the adapter of a run


def adapter_from(args: AdapterArguments) -> Any:
    """The `peft.LoraConfig` that the options describe; None without ``use_peft``.

    Raises:
        ValueError: options of an adapter without ``use_peft``, or values that are out of range.
    """
    args.check_adapter_arguments()
    if not args.use_peft:
        return None
    require_peft()
    from trl import get_peft_config

    return get_peft_config(replace(args, lora_target_modules=_modules(args.lora_target_modules)))


def _modules(given: list[str] | str | None) -> Any:
    """PEFT takes a list as names, and a text as a regular expression or as all-linear."""
    names = [given] if isinstance(given, str) else given
    if names is not None and len(names) == 1 and not re.fullmatch(r"[\w.]+", names[0]):
        return names[0]
    return names


def options_of(peft_config: Any) -> dict[str, Any] | None:
    """The options that describe an adapter (`AdapterArguments`); None if it has settings beyond them."""
    from sgpo.models.arguments import AdapterArguments

    if peft_config.peft_type.value != "LORA":
        return None
    names = ("r", "lora_alpha", "lora_dropout", "target_modules", "target_parameters", "modules_to_save")
    options = {"use_peft": True, **{f"lora_{name.removeprefix('lora_')}": getattr(peft_config, name) for name in names}}
    options |= {name: getattr(peft_config, name) for name in ("use_rslora", "use_dora")}
    if isinstance(modules := options["lora_target_modules"], set):
        options["lora_target_modules"] = sorted(modules)
    same = adapter_from(AdapterArguments(**options))
    ours, theirs = (identity_of(each) | {"adapter's task_type": None} for each in (same, peft_config))
    return options if ours == theirs else None


def adapter_of(model: Any, peft_config: Any = None) -> Any:
    """The configuration of the adapter that will be trained; None where all weights are.

    Args:
        model: a name, or a model.
        peft_config: of a new adapter.

    Raises:
        ValueError: what cannot be trained as an adapter here; the message says what to write instead.
    """
    if peft_config is not None:
        require_peft()
        _check_new(model, peft_config)
        adapter = copy.deepcopy(peft_config)
        adapter.base_model_name_or_path = model if isinstance(model, str) else model.config._name_or_path
        return adapter
    if isinstance(model, str):
        if not is_adapter(model):
            return None
        require_peft()
        from peft import PeftConfig

        stored = PeftConfig.from_pretrained(model)
        _check_kind(stored)
        return stored
    if has_adapter(model):
        _check_kind(model.active_peft_config)
        return model.active_peft_config
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            "the model has an adapter inside (model.add_adapter, or from_pretrained of an adapter's folder), which is "
            "not trained like this: wrap the base by peft.get_peft_model, load the adapter by "
            "peft.PeftModel.from_pretrained(base, folder, is_trainable=True), or give the folder's name as the model"
        )
    return None


def has_adapter(model: Any) -> bool:
    """Whether it is a `peft.PeftModel`."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def _check_new(model: Any, peft_config: Any) -> None:
    from peft import PeftConfig

    if not isinstance(peft_config, PeftConfig):
        raise ValueError(
            f"peft_config is a {type(peft_config).__name__}; give a configuration of PEFT, such as "
            "peft.LoraConfig(r=16)"
        )
    _check_kind(peft_config)
    if has_adapter(model):
        raise ValueError(
            "the model has an adapter, and peft_config describes another one: leave out peft_config to train the "
            "adapter, or merge it first with model.merge_and_unload()"
        )
    init = getattr(peft_config, "init_lora_weights", True)
    if isinstance(init, str) and init.startswith(INITS_THAT_CHANGE_THE_BASE):
        raise ValueError(
            f"init_lora_weights {init} changes the weights of the base model, which an adapter's checkpoint does not "
            "hold; take True or 'gaussian'"
        )


def _check_kind(peft_config: Any) -> None:
    if peft_config.is_prompt_learning:
        raise ValueError(
            f"{peft_config.peft_type.value} puts tokens of its own before the prompt, which sampler and losses do not "
            "know; take an adapter of weights, such as LoRA"
        )


def identity_of(adapter: Any) -> dict[str, Any]:
    """What a run and its continuation have in common, flat and as JSON has it. Example: ``{"adapter": "LORA", ...}``"""
    if adapter is None:
        return {"adapter": "none"}
    values = {name: value for name, value in adapter.to_dict().items() if name not in NOT_COMPARED}
    base = Path(adapter.base_model_name_or_path or "").name  # the folder may lie elsewhere later
    kind = values.pop("peft_type")
    found = {"adapter": getattr(kind, "value", kind), "adapter's base": base}
    plain = json.loads(json.dumps(values, default=_plain))
    return found | {f"adapter's {name}": value for name, value in plain.items()}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(getattr(value, "value", value))


def describe_adapter(adapter: Any) -> str:
    """Example: ``LoRA, r 16, alpha 32, on q_proj, v_proj``"""
    shown: Mapping[str, str] = {"r": "r", "lora_alpha": "alpha"}
    parts = [f"{text} {getattr(adapter, name)}" for name, text in shown.items() if hasattr(adapter, name)]
    modules = getattr(adapter, "target_modules", None)
    if modules:
        parts.append(f"on {modules if isinstance(modules, str) else ', '.join(sorted(modules))}")
    return ", ".join([adapter.peft_type.value.replace("LORA", "LoRA"), *parts])


def with_adapter(model: Any, peft_config: Any) -> Any:
    """The model, in place, under a new adapter. What the configuration leaves open is filled in in a copy of it.

    Raises:
        ValueError: an adapter that does not fit the model, or one on an embedding that is the head too.
    """
    from peft import get_peft_model
    from torch import nn

    own = copy.deepcopy(peft_config)
    own.base_model_name_or_path = None  # PEFT writes the name of the model that it is given
    wrapped = get_peft_model(model, own)
    if model.config.get_text_config().tie_word_embeddings and type(wrapped.get_input_embeddings()) is not nn.Embedding:
        raise ValueError(
            "the adapter changes the embedding, which in this model is the head too: leave it out of target_modules "
            "and modules_to_save"
        )
    return wrapped
