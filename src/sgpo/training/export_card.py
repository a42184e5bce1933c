"""The README.md of a merged checkpoint: of what it was made, as far as the folders of its adapters tell."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData
from peft import PeftConfig

from sgpo.methods.registry import DEFAULTS, METHODS
from sgpo.models.adapters import chain_of, describe_adapter
from sgpo.models.checkpoint import floating_type
from sgpo.models.export import Export, file_beside
from sgpo.training.model_card import (
    CITATION,
    SHOWN,
    SHOWN_OF_RL,
    WAYS,
    data_rows,
    rows_as_table,
    usage,
    versions_of,
    versions_section,
    way_of,
)

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
VERSIONS = ("torch", "transformers", "peft")


def export_card(export: Export) -> str:
    """Markdown with the Hub's metadata. There is no license in it: that of base and data is for the user to judge.

    Raises:
        ValueError: a record beside an adapter that cannot be read.
    """
    *adapters, root = chain_of(export.model)
    records = [_Record(adapter) for adapter in adapters]
    methods = [each.method for each in reversed(records) if each.method]
    name = export.output.absolute().name
    head = ModelCardData(
        base_model=None if Path(root).exists() else root,  # a folder of this machine says nothing elsewhere
        library_name="transformers",
        model_name=name,
        tags=list(dict.fromkeys(["sgpo", *(name for name in methods if name in WAYS or name in METHODS)])),
        pipeline_tag="text-generation",
    )
    parts = [
        f"---\n{head.to_yaml()}\n---",
        f"# {name}",
        _introduction(root, records),
        usage(name, system_turn=records[0].configuration.get("system_prompt")),
        "## Merging\n\n" + _merging(export, root, records),
        *(each.section() for each in reversed(records)),  # in the order in which they were trained
        versions_section(versions_of(VERSIONS)),
        *([CITATION] if methods else []),
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(root: str, records: list[_Record]) -> str:
    several = "the adapters" if len(records) > 1 else "the adapter"
    names = " and ".join(f"`{each.name}`" for each in reversed(records))
    trained = f", {way_of(records[0].method)}" if records[0].method else ""
    return f"This is `{_shown(root)}` with {several} {names} merged into its weights{trained}."


def _merging(export: Export, root: str, records: list[_Record]) -> str:
    rows = {"base model": f"`{_shown(root)}`, {floating_type(export.config)}"}
    rows |= {f"adapter `{each.name}`": describe_adapter(each.adapter) for each in reversed(records)}
    rounding = "" if export.dtype == "float32" else f", then rounded once to {export.dtype}"
    rows |= {"merged in": f"float32{rounding}", "dtype of the weights": export.dtype}
    return rows_as_table(rows)


class _Record:
    """What stands beside an adapter about its training; a checkpoint's is in the folder of its run.

    Raises ValueError for a file that is there and cannot be read.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.adapter = PeftConfig.from_pretrained(place)
        self.name = _shown(place)
        self.configuration: dict[str, Any] = self._read("config.yaml")
        self.data: dict[str, Any] = self._read("data.json")

    @property
    def method(self) -> str | None:
        """Its name; of a user's own, the file's without the folder."""
        return Path(self.configuration.get("method", "sft")).name if self.configuration else None

    def section(self) -> str:
        title = f"## Training of `{self.name}`\n\n"
        rows = {"method": self.method} if self.method else {}
        rows |= {"updates": str(found)} if (found := self._updates()) else {}
        length = "max_steps" if self.configuration.get("max_steps", -1) > 0 else "num_train_epochs"
        names = (length, *SHOWN, *SHOWN_OF_RL, *DEFAULTS)
        rows |= {name: str(self.configuration[name]) for name in names if name in self.configuration}
        rows |= data_rows(self.data)
        if not rows:
            return f"{title}Data and recipe are not recorded beside this adapter."
        return title + rows_as_table(rows)

    def _updates(self) -> int | None:
        if found := CHECKPOINT.fullmatch(Path(self.place).resolve().name):
            return int(found[1])
        path = file_beside(self.place, "metrics.jsonl")
        lines = path.read_text(encoding="utf-8").splitlines() if path else []
        return json.loads(lines[-1]).get("step") if lines else None

    def _read(self, name: str) -> Any:
        path = file_beside(self.place, name)
        if path is None and Path(self.place).is_dir() and CHECKPOINT.fullmatch(Path(self.place).resolve().name):
            path = file_beside(str(Path(self.place).resolve().parent), name)
        if path is None:
            return {}
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))  # of JSON, too
        except yaml.YAMLError as error:
            said = " ".join(str(error).split())
            raise ValueError(f"{path} cannot be read ({said}); mend it, or move it elsewhere") from error
        return found if isinstance(found, dict) else {}


def _shown(place: str) -> str:
    """A name on the Hub, or of a folder; of a checkpoint with the folder of its run."""
    folder = Path(place)
    if not folder.exists():
        return place
    folder = folder.resolve()
    return f"{folder.parent.name}/{folder.name}" if CHECKPOINT.fullmatch(folder.name) else folder.name
