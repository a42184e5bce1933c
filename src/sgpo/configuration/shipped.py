"""The recipes of this package as files: what each is for, and copies of them to change."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sgpo.configuration import RECIPES, files_of_config, nearest

SUFFIXES = (".yaml", ".sh")
COMMANDS_OF = (  # what the name of a file begins or ends with, and its command
    (r"prepare", "sgpo data prepare --config"),
    (r"strategies", "sgpo strategies extract --config"),
    (r"(\w+-)?sft(-\w+)?", "sgpo sft --config"),
    (r"eval", "sgpo eval --config"),
    (r"compare(-\w+)?", "sgpo compare --recipe"),
    (r".*", "sgpo train --config"),
)


@dataclass(frozen=True)
class ShippedRecipe:
    """Example: ``ShippedRecipe("own/cpu", "sgpo train --config", "A first run on a CPU, ...")``"""

    name: str
    command: str  # that takes it
    sentence: str  # the first of its comment


def shipped_recipes() -> list[ShippedRecipe]:
    """All recipes and launch files, folder by folder."""
    paths = sorted(path for path in RECIPES.rglob("*") if path.suffix in SUFFIXES)
    return [ShippedRecipe(_name_of(path), _command_of(path), first_sentence(path.read_text())) for path in paths]


def first_sentence(text: str) -> str:
    """Of the comment at the beginning of a file."""
    lines = []
    for line in text.removeprefix("#!/usr/bin/env bash\n").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return re.split(r"(?<=[.:]) (?=[A-Z])", " ".join(lines))[0]


def copy_recipes(names: list[str], output: Path) -> list[Path]:
    """Copy recipes, or whole folders of them, with the files that they extend; the layout stays that of the package.

    Args:
        names: such as ``qwen2.5-7b`` or ``qwen2.5-7b/sgpo``.

    Returns:
        The files that were written.

    Raises:
        ValueError: a name that there is not, or a file that is there already.
    """
    found = list(dict.fromkeys(path for name in names for path in _files_of(name)))
    targets = [output / path.relative_to(RECIPES) for path in found]
    if there := [str(target) for target in targets if target.exists()]:
        raise ValueError(f"{there[0]} is there already; name another --output, or delete it first")
    for path, target in zip(found, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return targets


def _files_of(name: str) -> Iterator[Path]:
    """The files of a folder or of one recipe, then what they extend."""
    place = RECIPES / name
    candidates = [RECIPES / f"{name}{suffix}" for suffix in SUFFIXES]
    if place.is_dir() and name:
        files = sorted(path for path in place.rglob("*") if path.is_file())
    else:
        files = [path for path in candidates if path.is_file()]
    if not files:
        known = [each.name for each in shipped_recipes()]
        folders = sorted({each.partition("/")[0] for each in known})
        raise ValueError(
            f"there is no recipe {name}{nearest(name, [*folders, *known])}; the folders are {', '.join(folders)}, and "
            "sgpo recipes lists what is in them"
        )
    for path in files:
        yield from files_of_config(path) if path.suffix == ".yaml" else [path]


def _name_of(path: Path) -> str:
    name = path.relative_to(RECIPES)
    return (name.with_suffix("") if path.suffix == ".yaml" else name).as_posix()


def _command_of(path: Path) -> str:
    if path.suffix == ".sh":
        return "bash"
    return next(command for pattern, command in COMMANDS_OF if re.fullmatch(pattern, path.stem))
