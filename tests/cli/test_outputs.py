"""Outputs that cannot be written: each command says so in one line, before it loads, asks or makes anything."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from comparison_cases import ROWS
from transformers import AutoModelForCausalLM

from sgpo.cli import main
from sgpo.comparison.results import append_result
from sgpo.files import check_file_writable, check_folder_writable, free_space, replacing
from sgpo.miniworld.world import BASE_MODEL
from sgpo.problems import Problem, save_problems
from sgpo.runs.folder import check_space

PROBLEMS = [Problem(f"p{n}", f"Compute {n}+3", str(n + 3), "\\boxed{0}", "Steps: (a) add") for n in range(8)]
NOWHERE = {
    "/dev/null/x": "/dev/null is no folder",
    "file/a/b": "file is no folder",
    "/proc/x": f"nothing can be made in /proc ({os.strerror(errno.EACCES if os.geteuid() else errno.ENOENT)})",
}
RUN = ["--model", str(BASE_MODEL), "--problems", "problems.jsonl"]
SERVER = ["--problems", "problems.jsonl", "--base-url", "http://127.0.0.1:9/v1", "--model", "strong"]
COMMANDS = {
    "train": ["train", *RUN, "--output_dir"],
    "sft": ["sft", *RUN, "--output_dir"],
    "eval": ["eval", *RUN, "--output"],
    "compare": ["compare", "--recipe", "miniworld/compare", "--seeds", "1", "--output"],
    "solve": ["strategies", "solve", *SERVER, "--output"],
    "extract": ["strategies", "extract", *SERVER, "--output"],
    "quality": ["strategies", "quality", *SERVER, "--output"],
    "journal": ["strategies", "extract", *SERVER, "--journal"],
    "teacher": ["teacher", "serve", "--port", "0", "--log"],
    "create": ["miniworld", "create", "--output"],
    "pretrain": ["miniworld", "pretrain", "--output"],
    "quickstart": ["quickstart", "--fast", "--output"],
    "plot": ["plot", "results.jsonl", "--output"],
    "export": ["export", "--model", "adapter", "--output"],
}
FILES = {"solve": ".parquet", "extract": ".jsonl", "quality": ".json", "journal": ".jsonl", "teacher": ".jsonl"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, in which nothing may be computed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SGPO_API_KEY", "none")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("weights were loaded"))
    for name in ("miniworld.pretrain.build_model", "comparison.plan.make_plan", "comparison.pictures.draw_all"):
        monkeypatch.setattr(f"sgpo.{name}", lambda *a, name=name, **k: pytest.fail(f"{name} was called"))
    monkeypatch.setattr("sgpo.miniworld.teacher.server.serve_teacher", lambda *a: pytest.fail("it serves"))
    save_problems(PROBLEMS, "problems.jsonl")
    (tmp_path / "file").write_text("")
    append_result(tmp_path / "results.jsonl", ROWS[0])
    return tmp_path


@pytest.mark.parametrize("place", NOWHERE)
@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_cannot_be_written_is_refused_beforehand(
    command: str, place: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    arguments = COMMANDS[command]
    output = place + FILES.get(command, "")
    assert main([*arguments, output]) == 2
    option = arguments[-1].removeprefix("--") if command in ("train", "sft", "eval") else arguments[-1]
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == f"sgpo {arguments[0]}: {option} {output} cannot be written: {NOWHERE[place]}; write another one"
    assert sorted(folder.rglob("*")) == before


def test_what_can_be_written_leaves_no_trace(folder: Path) -> None:
    for path in (folder, folder / "new" / "deep"):
        check_folder_writable(path, "output")
        check_file_writable(path / "x.jsonl", "output")
    check_file_writable(folder / "file", "output")
    assert sorted(path.name for path in folder.rglob("*")) == ["file", "problems.jsonl", "results.jsonl"]
    with replacing(folder / "new" / "deep" / "x.jsonl") as partial:
        partial.write_text("x")
    assert (folder / "new" / "deep" / "x.jsonl").read_text() == "x"
    for check, path, message in (
        (check_folder_writable, "file", "output file is a file; write a folder's name"),
        (check_file_writable, "new", "output new is a folder: name a file"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            check(Path(path), "output")


def test_what_only_its_owner_may_write_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system says it to whoever may not; root may all."""

    def refused(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    check_file_writable(Path("file"), "output", appended=True)  # as /dev/null, whose folder is the system's
    nothing = "cannot be written: nothing can be made in . (Permission denied); write another one"
    for check, path in ((check_folder_writable, "a/b"), (check_file_writable, "a/b"), (check_file_writable, "file")):
        with pytest.raises(ValueError, match=f"^{re.escape(f'output {path} {nothing}')}$"):
            check(Path(path), "output")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for appended in (True, False):
        with pytest.raises(ValueError, match=r"^output file may not be written to; write another one$"):
            check_file_writable(Path("file"), "output", appended=appended)


def test_free_space_is_unknown_where_nothing_is_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_space(Path("/proc/x/y")) is None
    assert (free_space(folder / "new") or 0) > 0
    monkeypatch.setattr("sgpo.runs.folder.check_folder_writable", lambda *a: None)
    check_space("/proc/x", 10**12, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=100, free=0))
    with pytest.raises(ValueError, match="no space left for output_dir new: 1 x "):
        check_space("new", 10**12, 1)
