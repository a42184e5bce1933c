"""Fixtures for what a command refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusal_cases import PROBLEMS, Refuse
from transformers import AutoModelForCausalLM

from sgpo.cli import main
from sgpo.problems import save_problems


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with problems; weights may not be loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("weights were loaded"))
    save_problems(PROBLEMS, "problems.jsonl")
    return tmp_path


@pytest.fixture
def refuse(folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """What a command says before it exits with status 2, without having written anything."""

    def run(command: str, *changes: str, model: Path | str = checkpoint, problems: str = "problems.jsonl") -> str:
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        arguments = [command, "--model", str(model), "--problems", problems]
        if command != "eval":
            arguments += ["--output_dir", "run", "--use_cpu", "true", "--report_to", "none"]
        if command == "train":
            arguments += ["--problems_per_rollout", "4", "--max_steps", "2", "--max_completion_length", "12"]
        capsys.readouterr()
        assert main([*arguments, *changes]) == 2
        after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert before == after
        start = f"sgpo {command}: "
        error = capsys.readouterr().err.strip()
        assert start in error
        return error[error.index(start) + len(start) :]

    return run
