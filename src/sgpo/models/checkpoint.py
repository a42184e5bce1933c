"""What can be known of a checkpoint before its weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgpo.errors import Refusals, first_line
from sgpo.hub import hub_or_cache
from sgpo.models.adapters import ADAPTER_CONFIG, adapter_of, chain_of, is_adapter, with_adapter
from sgpo.runs.checkpoints import checkpoints_of
from sgpo.screen import amount
from sgpo.tokenizers import check_tokenizer

FLOATING_TYPES = ("float32", "bfloat16", "float16")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


@dataclass(frozen=True)
class Opened:
    """What is known of a checkpoint before its weights are loaded; None where it could not be read."""

    config: Any | None = None
    tokenizer: Any | None = None

    @property
    def context(self) -> int | None:
        """Positions of the model; None where they are not known, or not limited."""
        return None if self.config is None else context_length(self.config)

    @property
    def makes_prompts(self) -> bool:
        return self.tokenizer is not None and self.tokenizer.chat_template is not None


def open_checkpoint(name: str, tokenizer: Any = None) -> tuple[Any, Any]:
    """Configuration and tokenizer of a checkpoint in a folder or on the Hub; a given tokenizer stands for its own.

    Those of an adapter are the configuration of its full model, and the tokenizer beside the adapter if there is one.

    Raises:
        ValueError: no such folder or model, one without configuration or tokenizer, or an adapter that cannot be used.
    """
    check_place(name, with_tokenizer=tokenizer is None)
    from transformers import AutoConfig, AutoTokenizer

    chain = chain_of(name)
    *adapters, root = chain
    try:
        with nullcontext() if all(Path(each).is_dir() for each in chain) else hub_or_cache():
            if not adapters and _is_adapter_of_the_hub(name):
                return open_checkpoint(name, tokenizer)  # what it is an adapter of is known now
            holder = next((each for each in adapters if _holds_tokenizer(each)), root)
            found = AutoConfig.from_pretrained(root), tokenizer or AutoTokenizer.from_pretrained(holder)
    except OSError as error:
        reason = first_line(error)
        raise ValueError(f"the model {root!r} is no folder here, and cannot be read from the Hub: {reason}") from error
    if adapters:
        adapter_of(name)
    return found


def check_place(name: str, *, with_tokenizer: bool = True) -> None:
    """Refuse what is no checkpoint's folder and no name on the Hub, without importing transformers.

    Raises:
        ValueError: a file, a path that leads nowhere, a folder without configuration or tokenizer, or an adapter with
            such a base.
    """
    *adapters, root = chain_of(name)
    folder = Path(root)
    if folder.is_dir():
        others = any(not Path(each).is_dir() or _has_tokenizer(Path(each)) for each in adapters)
        _check_folder(folder, with_tokenizer=with_tokenizer and not others)
    elif folder.exists():
        raise ValueError(f"model {root} is a file; write the folder that holds it, or a model's name on the Hub")
    elif _is_path(folder, root):
        of = adapters[-1] if adapters else None
        hint = f"; it is the base of the adapter {of}: write its place into {Path(of) / ADAPTER_CONFIG}" if of else ""
        raise ValueError(f"there is no folder {root} to take the model from (looked in {Path.cwd()}){hint}")


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _holds_tokenizer(adapter: str) -> bool:
    from transformers.utils import cached_file

    if Path(adapter).is_dir():
        return _has_tokenizer(Path(adapter))
    return cached_file(adapter, "tokenizer_config.json", _raise_exceptions_for_missing_entries=False) is not None


def _is_adapter_of_the_hub(name: str) -> bool:
    """Whether the Hub has an adapter of that name, and no full model; its configuration is downloaded."""
    from transformers.utils import cached_file

    if Path(name).is_dir() or cached_file(name, "config.json", _raise_exceptions_for_missing_entries=False):
        return False
    cached_file(name, ADAPTER_CONFIG, _raise_exceptions_for_missing_entries=False)
    return is_adapter(name)


def _is_path(folder: Path, name: str) -> bool:
    """Whether a name means a folder and no model of the Hub, whose names are `organisation/model`."""
    return (
        folder.is_absolute()
        or name.startswith(".")
        or len(folder.parts) > 2
        or (len(folder.parts) == 2 and folder.parent.is_dir())
    )


def _check_folder(folder: Path, *, with_tokenizer: bool) -> None:
    if not (folder / "config.json").is_file():
        within = checkpoints_of(folder)
        hint = f"; its newest checkpoint is {within[-1]}" if within else ""
        raise ValueError(f"model {folder} has no config.json, so it is no checkpoint that transformers can load{hint}")
    if with_tokenizer and not _has_tokenizer(folder):
        raise ValueError(
            f"model {folder} has no tokenizer; copy there the tokenizer's files of the model that it was made from"
        )


def check_model(config: Any, tokenizer: Any, pad_token: str | None = None) -> None:
    """Refuse a tokenizer that cannot be used, or one that is not this model's.

    Raises:
        ValueError: see `check_tokenizer`; or token ids beyond the model's embedding.
    """
    refusals = Refusals()
    with refusals.collected():
        check_tokenizer(tokenizer, pad_token)
    rows = config.get_text_config().vocab_size
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        refusals.add(
            [
                f"the tokenizer has token ids up to {highest}, the model's embedding only {rows} rows; take the "
                "model's own tokenizer, or enlarge the model with model.resize_token_embeddings"
            ]
        )
    refusals.refuse()


def context_length(config: Any) -> int | None:
    """Positions of the model; None where its configuration sets no limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def floating_type(config: Any) -> str:
    """That of a checkpoint's weights; "float32" for one that says none, or one that is not computed with.

    Example: ``floating_type(AutoConfig.from_pretrained("Qwen/Qwen2.5-0.5B-Instruct")) == "bfloat16"``
    """
    named = str(config.get_text_config().dtype).removeprefix("torch.")
    return named if named in FLOATING_TYPES else "float32"


def say_loading(name: str, config: Any, dtype: str | None = None) -> None:
    """Before the weights are loaded, which may take minutes.

    Args:
        dtype: what the weights become; None where that is said elsewhere.
    """
    own = floating_type(config)
    other = "" if dtype in (None, own) else f", taken as {dtype}"
    print(f"Loading {name}: {amount(count_parameters(config))} parameters in {own}{other}", flush=True)


def count_parameters(config: Any, adapter: Any = None) -> int:
    """Parameters of a causal language model, or of an adapter of it (a `peft.PeftConfig`), without making them.

    Raises:
        ValueError: an adapter that does not fit the model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"), _not_partitioned():
        model = AutoModelForCausalLM.from_config(config)
        if adapter is not None:
            model = with_adapter(model, adapter)
    return sum(parameter.numel() for parameter in model.parameters() if adapter is None or parameter.requires_grad)


@contextmanager
def _not_partitioned() -> Iterator[None]:
    """Once a training's arguments ask for ZeRO-3, transformers divides whatever model it makes."""
    from transformers.integrations import deepspeed

    asked = deepspeed._hf_deepspeed_config_weak_ref  # which has a public way to be set only
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = asked
