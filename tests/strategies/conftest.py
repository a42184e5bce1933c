"""The environment of `sgpo strategies`: a key, a folder, a file of problems."""

from __future__ import annotations

from pathlib import Path

import pytest
from extraction_cases import PROBLEMS, SECRET

from sgpo.problems import save_problems


@pytest.fixture
def strategies_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SGPO_API_KEY", SECRET)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def problems_file(tmp_path: Path) -> Path:
    save_problems(PROBLEMS[:6], tmp_path / "problems.jsonl")
    return tmp_path / "problems.jsonl"
