"""What can be known of a checkpoint before its weights are loaded."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgpo.errors import Refusals
from sgpo.hub import hub_or_cache
from sgpo.resuming import checkpoints_of
from sgpo.screen import amount
from sgpo.tokenizers import check_tokenizer


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

    Raises:
        ValueError: no such folder or model, or one without configuration or tokenizer.
    """
    check_place(name, with_tokenizer=tokenizer is None)
    from transformers import AutoConfig, AutoTokenizer

    try:
        with nullcontext() if Path(name).is_dir() else hub_or_cache():
            return AutoConfig.from_pretrained(name), tokenizer or AutoTokenizer.from_pretrained(name)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"the model {name!r} is no folder here, and cannot be read from the Hub: {reason}") from error


def load_weights(name: str, dtype: str = "float32") -> Any:
    """The model of a checkpoint that `open_checkpoint` has opened, its parameters of a type such as "bfloat16"."""
    import torch
    from transformers import AutoModelForCausalLM

    with nullcontext() if Path(name).is_dir() else hub_or_cache():
        return AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype))


def check_place(name: str, *, with_tokenizer: bool = True) -> None:
    """Refuse what is no checkpoint's folder and no name on the Hub, without importing transformers.

    Raises:
        ValueError: a file, a path that leads nowhere, or a folder without configuration or tokenizer.
    """
    folder = Path(name)
    if folder.is_dir():
        _check_folder(folder, with_tokenizer=with_tokenizer)
    elif folder.exists():
        raise ValueError(f"model {name} is a file; write the folder that holds it, or a model's name on the Hub")
    elif _is_path(folder, name):
        raise ValueError(f"there is no folder {name} to take the model from (looked in {Path.cwd()})")


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
    files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
    if with_tokenizer and not any((folder / name).is_file() for name in files):
        raise ValueError(f"model {folder} has no tokenizer; save one there with tokenizer.save_pretrained('{folder}')")


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


def say_loading(name: str, config: Any) -> None:
    """Before the weights are loaded, which may take minutes."""
    print(f"Loading {name}: {amount(count_parameters(config))} parameters", flush=True)


def count_parameters(config: Any) -> int:
    """Parameters of a causal language model, without making them."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())
