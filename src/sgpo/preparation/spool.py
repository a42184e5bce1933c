"""Texts that are kept on the disk until they are needed again: the responses of a large set do not fit in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple


class Stored(NamedTuple):
    """Where a text is, in bytes. Example: ``Stored(start=0, size=120)``"""

    start: int
    size: int


class Spool:
    """A file without a name in `folder`, which goes with the process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - close() does
        self._end = 0

    def add(self, text: str) -> Stored:
        data = text.encode("utf-8", errors="replace")  # halves of surrogate pairs are in no file format
        self._file.seek(self._end)
        self._file.write(data)
        place = Stored(self._end, len(data))
        self._end += len(data)
        return place

    def text(self, place: Stored) -> str:
        self._file.seek(place.start)
        return self._file.read(place.size).decode()

    def close(self) -> None:
        self._file.close()
