"""Checkpoints of a run: published whole or not at all.

unfinished/checkpoint-N/   being written, or cut off while it was
checkpoint-N/              whole: its checkpoint.json was written last, and names every file with its size
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "checkpoint.json"
UNFINISHED = "unfinished"


def publish(staging: Path, folder: Path, run: Mapping[str, Any]) -> Path:
    """Give a checkpoint that was written into ``unfinished`` its name, once all of it is on the device.

    A crash at any point leaves either no checkpoint of that name or a whole one.
    """
    files = {path.relative_to(staging).as_posix(): path.stat().st_size for path in _files(staging)}
    (staging / MANIFEST).write_text(json.dumps({**run, "files": files}, indent=2) + "\n")
    for path in _files(staging):
        _sync(path)
    for path in (staging, *(path for path in staging.rglob("*") if path.is_dir())):
        _sync(path)
    published = folder / staging.name
    if published.exists():  # of a run that went on from an earlier checkpoint and came by here again
        published.rename(staging.parent / f"replaced-{staging.name}")
    staging.rename(published)
    _sync(folder)
    shutil.rmtree(staging.parent)
    return published


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def broken(checkpoint: str | Path) -> str | None:
    """What is missing in a checkpoint; None if it is whole."""
    folder = Path(checkpoint)
    if not (folder / MANIFEST).is_file():
        return f"{MANIFEST} is missing"
    for name, size in json.loads((folder / MANIFEST).read_text())["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes of {size}"
    return None


def checkpoints_of(folder: str | Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return [path for path in _numbered(folder) if broken(path) is None]


def newest_checkpoint(folder: str | Path) -> Path:
    """The newest whole checkpoint; says which ones are not.

    Raises:
        ValueError: there is none.
    """
    for path in _numbered(Path(folder) / UNFINISHED):
        print(f"{path} was cut off while it was written, and is ignored.")
    for path in _numbered(folder):
        if (reason := broken(path)) is not None:
            print(f"{path} is not complete ({reason}), and is ignored.")
    found = checkpoints_of(folder)
    if not found:
        raise ValueError(f"there is no checkpoint in {folder} to resume from; leave out --resume")
    return found[-1]


def _numbered(folder: str | Path) -> list[Path]:
    numbered = [
        (int(found.group(1)), path)
        for path in Path(folder).glob("checkpoint-*")
        if (found := re.fullmatch(r"checkpoint-(\d+)", path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(numbered)]
