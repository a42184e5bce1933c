"""An ordinary checkpoint of base and adapter together, for programs that know no adapters, such as vLLM.

The weights are merged in float32 and rounded once. Where an adapter changes an embedding that is the head too, or such
a head, the exported model has two matrices.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgpo.files import check_folder_writable, free_space, readable_size
from sgpo.hub import hub_or_cache
from sgpo.models.adapters import chain_of
from sgpo.models.checkpoint import check_place, count_parameters, floating_type, open_checkpoint, say_loading
from sgpo.models.weights import load_weights

DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes of a weight
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
GENERATION = "generation_config.json"


@dataclass(frozen=True)
class Export:
    """What will be written. Example: ``Export("runs/sgpo", Path("merged"), "bfloat16", config, tokenizer)``"""

    model: str
    output: Path
    dtype: str
    config: Any
    tokenizer: Any


def prepare_export(model: str, output: Path, dtype: str | None = None) -> Export:
    """Everything that can be refused before weights are loaded.

    Args:
        model: an adapter: the folder of a run, a checkpoint of it, or a name on the Hub.
        dtype: of the written weights; None for that of the base.

    Raises:
        ValueError: a model that is no adapter, or whose weights are missing or quantized; an output that is not empty
            or has too little room.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"--dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    check_folder_writable(output, "--output")
    if output.is_dir() and any(output.iterdir()):
        raise ValueError(f"--output {output} is not empty; write another folder, or empty this one")
    check_place(model)
    if Path(model).is_dir():
        _check_adapters(model)  # before transformers is imported
    config, tokenizer = open_checkpoint(model)
    _check_adapters(model)
    root = chain_of(model)[-1]
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            f"the base {root} is quantized, so an adapter cannot be merged into its weights; write the place of the "
            "unquantized base into adapter_config.json"
        )
    found = dtype or floating_type(config)
    _check_room(output, count_parameters(config) * DTYPES[found])
    return Export(model, output, found, config, tokenizer)


def _check_adapters(model: str) -> None:
    *adapters, _ = chain_of(model)
    if not adapters:
        raise ValueError(f"{model} is an ordinary checkpoint, without an adapter to merge: take it as it is")
    for adapter in adapters:
        if Path(adapter).is_dir() and not any((Path(adapter) / name).is_file() for name in ADAPTER_WEIGHTS):
            raise ValueError(f"the adapter {adapter} has no weights: there is no {' or '.join(ADAPTER_WEIGHTS)}")


def _check_room(output: Path, needed: int) -> None:
    free = free_space(output)
    if free is not None and needed > free:
        raise ValueError(
            f"no space left for --output {output}: the weights need {readable_size(needed)}, {readable_size(free)} are "
            "free; name a folder on another device"
        )


def write_export(export: Export, card: str | None = None) -> None:
    """Merge and write; the output is there once it is whole.

    Args:
        card: what README.md will say.

    Raises:
        OSError: it could not be written.
    """
    say_loading(export.model, export.config, export.dtype)
    model = load_weights(export.model, export.dtype)
    export.output.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".sgpo-export-", dir=export.output.absolute().parent) as place:
        folder = Path(place) / "model"
        _save(model, chain_of(export.model)[-1], folder)
        export.tokenizer.save_pretrained(folder)
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")
        folder.replace(export.output)


def _save(model: Any, root: str, folder: Path) -> None:
    """Weights and configuration; how the base generates is copied as it is, valid for transformers or not."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig.from_model_config(model.config)
    model.save_pretrained(folder)
    if (path := file_beside(root, GENERATION)) is not None:
        shutil.copyfile(path, folder / GENERATION)


def file_beside(model: str, name: str) -> Path | None:
    """A file of a model's folder, or of its repository on the Hub; None if there is none."""
    from transformers.utils import cached_file

    if Path(model).is_dir():
        path = Path(model) / name
        return path if path.is_file() else None
    with hub_or_cache():
        found = cached_file(model, name, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)
