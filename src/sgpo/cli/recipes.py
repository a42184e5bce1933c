"""`sgpo recipes` and `sgpo recipes copy`."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from sgpo.configuration.shipped import copy_recipes, shipped_recipes
from sgpo.errors import usage_errors
from sgpo.files import check_folder_writable


@dataclass(frozen=True)
class ListArguments:
    """Which recipes are listed."""

    folder: str | None = field(default=None, metadata={"help": "Only those of one folder."})


@dataclass(frozen=True)
class CopyArguments:
    """Which recipes are copied, and where."""

    names: list[str] = field(metadata={"help": "Folders or recipes: qwen2.5-7b, own/cpu.", "positional": True})
    output: Path = field(default=Path("recipes"), metadata={"help": "Folder."})


def list_recipes(options: ListArguments) -> None:
    """Print each recipe with the command that takes it and what it is."""
    found = shipped_recipes()
    folders = sorted({each.name.partition("/")[0] for each in found})
    with usage_errors():
        if options.folder is not None and options.folder not in folders:
            raise ValueError(f"there is no folder {options.folder}; the folders are {', '.join(folders)}")
    for folder, recipes in groupby(found, lambda each: each.name.partition("/")[0]):
        if options.folder in (None, folder):
            print(folder)
            for recipe in recipes:
                print(f"  {recipe.command} {recipe.name}\n      {recipe.sentence}")
    print("sgpo recipes copy NAME ... copies them, to be changed.")


def recipes_copy(options: CopyArguments) -> None:
    with usage_errors():
        check_folder_writable(options.output, "--output")
        for path in copy_recipes(options.names, options.output):
            print(f"Written to {path}")
