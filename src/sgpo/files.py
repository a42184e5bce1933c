"""Files, and lines appended to them, that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, in place of `path`, which it becomes once it is complete and on the disk.

    Example: ``with replacing(Path("summary.json")) as partial: partial.write_text("{}")``
    """
    path.parent.mkdir(parents=True, exist_ok=True)
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


def check_folder_writable(folder: Path, option: str) -> None:
    """Refuse a folder into which nothing could be written later: after hours of work, say. Leaves no trace.

    Args:
        option: how the user named it, for the message.

    Raises:
        ValueError: a file, or a place where nothing can be made.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{option} {folder} is a file; write a folder's name")
    _check_place(folder, f"{option} {folder}")


def check_file_writable(path: Path, option: str, *, appended: bool = False) -> None:
    """As `check_folder_writable`, for a file that is made or replaced, or to which lines are appended."""
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder: name a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{option} {path} may not be written to; write another one")
    if not (appended and path.exists()):
        _check_place(path.parent, f"{option} {path}")


def free_space(path: Path) -> int | None:
    """Bytes free where a file or folder is, or would be made; None where the system does not count them."""
    usage = shutil.disk_usage(_existing(path.absolute()))
    return usage.free if usage.total else None


def _check_place(folder: Path, what: str) -> None:
    place = _existing(folder)
    if not place.is_dir():
        raise ValueError(f"{what} cannot be written: {place} is no folder; write another one")
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise ValueError(
            f"{what} cannot be written: nothing can be made in {place} ({error.strerror}); write another one"
        ) from error


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(each for each in (path, *path.parents) if each.exists())


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def readable_size(count: float) -> str:
    """Bytes as a text."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
