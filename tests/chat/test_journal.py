"""The journal: what was written is found again, whatever happened in between."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from limits import largest_file

from sgpo.chat.journal import Entry, Journal, JournalError, keys_of

ENTRIES = [
    Entry("k1", "strong", 100, 20, 1, 'a "quoted",\n"text": line', "thought", "stop"),
    Entry("k2", "strong", 0, 20, 0, "", None, "length"),
    Entry("k3", "judge", 7, 3, 1, 'half a pair: \ud835, ∑, ,"text":null}', None, None),
    Entry("", "strong", 500, 600, 1, None),  # perhaps billed, never answered
]


def write(path: Path) -> bytes:
    with Journal(path) as journal:
        journal.append(ENTRIES[:2])
        journal.append(ENTRIES[2:])
        assert journal.get("k1") == ENTRIES[0]
    return path.read_bytes()


def test_what_was_written_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "journal.jsonl"
    written = write(path)
    assert written.count(b"\n") == 4
    with Journal(path) as journal:
        assert [journal.get(entry.key) for entry in ENTRIES[:3]] == ENTRIES[:3]
        assert len(journal) == 3
        assert journal.get("") is None
        assert journal.get("other") is None
        strong, judge = journal.totals["strong"], journal.totals["judge"]
        assert (strong.requests, strong.prompt_tokens, strong.completion_tokens) == (2, 600, 640)
        assert (judge.requests, judge.prompt_tokens, judge.completion_tokens) == (1, 7, 3)
        assert journal.damaged == 0
    assert path.read_bytes() == written


def test_a_line_torn_anywhere_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written = write(path)
    last_line = written.rfind(b"\n", 0, -1) + 1
    second = written.index(b"\n") + 1
    third = written.index(b"\n", second) + 1
    for size in range(third + 1, last_line):
        path.write_bytes(written[:size])
        with Journal(path) as journal:
            assert journal.get("k2") == ENTRIES[1]
            assert journal.get("k3") is None
            journal.append([ENTRIES[2]])
        assert path.read_bytes() == written[:last_line]


def test_damaged_lines_in_the_middle_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first, *others = write(path).splitlines(keepends=True)
    path.write_bytes(b"\0\0\0\n" + others[0].replace(b'"length"', b'"len\0th"') + first + b"{}\n" + others[1])
    with Journal(path) as journal:
        assert journal.damaged == 2
        assert journal.get("k1") == ENTRIES[0]
        assert journal.get("k2") is None  # its head was whole
        assert journal.damaged == 3
        assert journal.get("k3") == ENTRIES[2]
        assert "k2" not in journal


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    code = f"from sgpo.chat.journal import Journal; Journal({str(path)!r})"
    with Journal(path):
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"another process is writing the journal {path}" in result.stderr
        with pytest.raises(JournalError, match="another process"):
            Journal(path)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append(ENTRIES[:1])
        size = path.stat().st_size
        with largest_file(size + 100), pytest.raises(JournalError, match="could not be written"):
            journal.append([Entry("k9", "strong", 1, 1, 1, "x" * 500, None, "stop")])
        assert path.stat().st_size == size
        assert "k9" not in journal
        journal.append(ENTRIES[1:2])
    with Journal(path) as journal:
        assert [journal.get("k1"), journal.get("k2")] == ENTRIES[:2]
        assert journal.damaged == 0


def test_an_empty_journal_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for before in (None, b"", b'{"key": "torn'):
        if before is not None:
            path.write_bytes(before)
        with Journal(path):
            assert path.exists()
            with pytest.raises(JournalError, match="another process"):
                Journal(path)
        assert not path.exists()
    path.write_bytes(b"damaged\n")
    with Journal(path):
        pass
    assert path.read_bytes() == b"damaged\n"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be written"):
        Journal(tmp_path / "file" / "journal.jsonl")
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(JournalError, match="cannot be written"):
            Journal(tmp_path / "journal.jsonl")


def test_keys_depend_on_everything_that_is_asked() -> None:
    messages, parameters = [{"role": "user", "content": "q"}], {"model": "m", "parameters": {"a": 1, "b": 2}}
    first, second = keys_of(messages, parameters, 2)
    assert first != second
    assert keys_of(messages, parameters, 1) == [first]
    assert keys_of(messages, parameters | {"parameters": {"b": 2, "a": 1}}, 1) == [first]
    for change in ({"model": "n"}, {"parameters": {"a": 1}}, {"prompt_version": "2"}):
        assert keys_of(messages, parameters | change, 1) != [first]
    for asked in ([], [{"role": "system", "content": "q"}], [{"role": "user", "content": "r"}], [*messages, *messages]):
        assert keys_of(asked, parameters, 1) != [first]
    assert len(first) == 32
