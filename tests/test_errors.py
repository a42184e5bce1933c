"""One way from an error to the exit status: `sgpo.cli.main`, by the error's type."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sgpo
from sgpo.chat.journal import JournalWriteError, NoJournalError
from sgpo.chat.session import NotReadyError
from sgpo.cli import main
from sgpo.command_runner import CommandFailed
from sgpo.distributed import ProcessError
from sgpo.engine.not_finite import NotFiniteError
from sgpo.errors import EngineError, NoSpaceError, UnfinishedError, UsageError, usage_errors


def test_nothing_else_decides_on_the_exit_status() -> None:
    source = Path(sgpo.__file__).parent
    ending = {"SystemExit", "exit", "_exit"}
    names = [
        (str(path.relative_to(source)), node.attr if isinstance(node, ast.Attribute) else node.id)
        for path in sorted(source.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute | ast.Name)
    ]
    assert len(names) > 10_000
    # The commands themselves, a run on veRL that stands still, and a worker whose parent has ended.
    assert [each for each in names if each[1] in ending] == [
        ("__main__.py", "exit"),
        ("integrations/verl/__main__.py", "SystemExit"),
        ("integrations/verl/runner.py", "_exit"),
        ("verification/worker.py", "_exit"),
    ]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UsageError("write another"), 2, "write another"),
        (NotReadyError("no server answers"), 2, "no server answers"),
        (NoJournalError("another process writes it"), 2, "another process writes it"),
        (UnfinishedError("go on"), 1, "go on"),
        (JournalWriteError("make room"), 1, "make room"),
        (EngineError("vLLM failed"), 1, "vLLM failed"),
        (NoSpaceError(28, "free some"), 1, "free some"),
        (NotFiniteError("the loss is NaN"), 1, "the loss is NaN"),
        (ProcessError("process 1 failed"), 1, "process 1 failed"),
        (CommandFailed("sgpo ended"), 1, "sgpo ended"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_reported_error_has_its_exit_status_also_while_input_is_read(
    error: Exception, status: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        with usage_errors():
            raise error

    monkeypatch.setattr("sgpo.cli.miniworld.quickstart", fails)
    assert main(["quickstart"]) == status
    assert capsys.readouterr().err == f"sgpo quickstart: {message}\n"


def test_a_bug_travels_through_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgpo.cli.miniworld.quickstart", lambda: {}["alpha"])
    with pytest.raises(KeyError, match="alpha"):
        main(["quickstart"])


def test_ctrl_c_gives_exit_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sgpo.cli.miniworld.quickstart", stopped)
    assert main(["quickstart"]) == 130
    assert capsys.readouterr().err == "\nsgpo quickstart: stopped by Ctrl-C\n"
