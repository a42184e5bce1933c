"""Every answer that was paid for, in one append-only file, so that none is asked for twice.

A line is one answer (one sample of one request): `{"key": ..., "model": ..., "in": ..., "out": ..., "requests": ...,
"text": ...}`. The key is a hash of what was asked. `requests` is 1 for the first sample of a request and 0 for the
others, so that requests and tokens add up.

A line is handed to the operating system before its answer is used, so a killed process loses nothing; it is
synchronised with the disk about once a second, so a power cut loses a second at most. A line that a crash tore off is
cut away when the journal is next opened. Only keys and places are held in memory, texts are read when needed.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from sgpo.errors import UnfinishedError, UsageError
from sgpo.files import append_whole
from sgpo.prompts import Messages

SYNC_SECONDS = 1.0


class JournalError(OSError):
    """The journal cannot be opened or written; the message says why and what to do."""


class NoJournalError(JournalError, UsageError):
    """The journal cannot be opened: a wrong place, or another process writes it."""


class JournalWriteError(JournalError, UnfinishedError):
    """An answer could not be written (disk full, say); what was written before is kept."""


@dataclass(frozen=True)
class Entry:
    """One answer, or (with ``text`` None) tokens that may have been billed without an answer.

    Example: ``Entry(key="9f...", model="deepseek-chat", prompt_tokens=812, completion_tokens=164, requests=1,
    text="Problem type: ...", reasoning=None, finish_reason="stop")``
    """

    key: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    requests: int
    text: str | None
    reasoning: str | None = None
    finish_reason: str | None = None


@dataclass
class Totals:
    """What a journal holds of one model."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


def keys_of(messages: Messages, parameters: Mapping[str, Any], samples: int) -> list[str]:
    """For each sample, 32 hexadecimal digits that stand for what is asked (model, messages, ...) and its number."""
    # Each content by its own hash: writing long ones as JSON first would take twice the time.
    said = [(message["role"], _hash(message["content"]).hexdigest()) for message in messages]
    asked = _hash(json.dumps([said, parameters], sort_keys=True, separators=(",", ":")))
    return [_with_number(asked.copy(), sample).hexdigest()[:32] for sample in range(samples)]


def _hash(text: str) -> Any:
    return sha256(text.encode("utf-8", errors="surrogatepass"))


def _with_number(digest: Any, sample: int) -> Any:
    digest.update(f"\n{sample}".encode())
    return digest


class Journal:
    """The journal at ``path``, created if it is not there, locked against a second writer until closed.

    One to which nothing is written leaves no file.

    ``damaged`` counts lines that could not be read; their answers are asked for again. Raises ``JournalError``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.damaged = 0
        self.totals: dict[str, Totals] = {}
        self._places: dict[str, tuple[int, int]] = {}  # key -> offset and length of its line
        self._file = _open_locked(self.path)
        self._size = self._load()
        self._written, self._closing = threading.Event(), threading.Event()
        self._syncing = threading.Thread(target=self._sync_now_and_then, name="sgpo-journal", daemon=True)
        self._syncing.start()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def get(self, key: str) -> Entry | None:
        """The answer to what ``key`` stands for; None if it has not been given."""
        place = self._places.get(key)
        if place is None:
            return None
        offset, length = place
        try:
            return _entry(json.loads(os.pread(self._file, length, offset).decode("ascii")))
        except (ValueError, KeyError):  # the head could be read, the rest was damaged on the disk
            self.damaged += 1
            del self._places[key]
            return None

    def append(self, entries: Iterable[Entry]) -> None:
        """Write entries, all or none. Raises ``JournalWriteError`` (disk full, say), leaving the file as it was."""
        added = list(entries)
        lines = [_line(entry) for entry in added]
        try:
            append_whole(self._file, b"".join(lines))
        except OSError as error:
            raise JournalWriteError(
                f"{self.path} could not be written ({error.strerror}): make room or repair the disk, then run the same "
                "command again; every answer that was written is kept"
            ) from error
        for entry, line in zip(added, lines, strict=True):
            self._remember(entry.key, entry.model, entry, len(line), has_text=entry.text is not None)
        self._written.set()

    def close(self) -> None:
        """Synchronise with the disk and let others write; an empty file is deleted. Closing twice does nothing."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._written.set()
        self._syncing.join()
        if not self._size:
            self.path.unlink(missing_ok=True)  # while the lock is held: nobody else has written to it
        os.close(self._file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _load(self) -> int:
        self._size = 0
        with open(os.dup(self._file), "rb", buffering=1 << 20) as lines:
            lines.seek(0)
            for line in lines:
                if not line.endswith(b"\n"):  # torn off by a crash
                    break
                self._take_line(line)
        os.ftruncate(self._file, self._size)
        return self._size

    def _take_line(self, line: bytes) -> None:
        head, found, _ = line.partition(b',"text":')  # texts may be long; the head alone says what is here
        try:
            if not found or not line.endswith(b"}\n"):
                raise ValueError("not a line of a journal")
            values = json.loads(head.decode("ascii") + "}")
            entry = Entry(values["key"], values["model"], values["in"], values["out"], values["requests"], None)
        except (ValueError, KeyError, TypeError):
            self.damaged += 1
            self._size += len(line)
            return
        self._remember(entry.key, entry.model, entry, len(line), has_text=not line.endswith(b',"text":null}\n'))

    def _remember(self, key: str, model: str, entry: Entry, length: int, *, has_text: bool) -> None:
        if has_text:
            self._places[key] = (self._size, length)
        self._size += length
        totals = self.totals.setdefault(model, Totals())
        totals.requests += entry.requests
        totals.prompt_tokens += entry.prompt_tokens
        totals.completion_tokens += entry.completion_tokens

    def _sync_now_and_then(self) -> None:
        while not self._closing.is_set():
            self._written.wait()
            self._written.clear()
            os.fdatasync(self._file)
            self._closing.wait(SYNC_SECONDS)
        os.fdatasync(self._file)


def _open_locked(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise NoJournalError(
            f"the journal {path} cannot be written ({error.strerror}); choose another place"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise NoJournalError(
            f"another process is writing the journal {path}: wait until it ends, or name another one with --journal"
        ) from error
    return file


def _line(entry: Entry) -> bytes:
    head = {
        "key": entry.key,
        "model": entry.model,
        "in": entry.prompt_tokens,
        "out": entry.completion_tokens,
        "requests": entry.requests,
    }
    rest: dict[str, Any] = {"text": entry.text}
    if entry.text is not None:
        rest |= {"reasoning": entry.reasoning, "finish_reason": entry.finish_reason}
    # ASCII only: texts of models may hold half of a surrogate pair, which UTF-8 cannot write.
    return (json.dumps(head | rest, separators=(",", ":")) + "\n").encode("ascii")


def _entry(values: Mapping[str, Any]) -> Entry:
    return Entry(
        key=values["key"],
        model=values["model"],
        prompt_tokens=values["in"],
        completion_tokens=values["out"],
        requests=values["requests"],
        text=values["text"],
        reasoning=values["reasoning"],
        finish_reason=values["finish_reason"],
    )
