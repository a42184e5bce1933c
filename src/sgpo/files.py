"""Files, and lines appended to them, that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, in place of `path`, which it becomes once it is complete and on the disk.

    Example: ``with replacing(Path("summary.json")) as partial: partial.write_text("{}")``
    """
    partial = _partial(path)
    yield partial
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(path)


def append_whole(file: int, data: bytes) -> None:
    """Append all of `data` to a file that is open for appending; one call of the system may write a part of it only.

    Raises:
        OSError: it could not be written (a full device, say); the file is as it was.
    """
    size, left = os.fstat(file).st_size, memoryview(data)
    try:
        while left:
            left = left[os.write(file, left) :]
    except OSError:
        os.ftruncate(file, size)
        raise


def check_writable(path: Path) -> None:
    """Raise ValueError or OSError where the file could not be written later: after hours of work, say."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    partial.touch()
    partial.unlink()


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")
