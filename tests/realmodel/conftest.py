"""A pretrained chat model, and problems that are easy enough for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from sgpo.problems import Problem, load_problems

sys.path.insert(0, str(ROOT / "tools"))

import real_model as tool


@pytest.fixture(scope="session")
def real_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct, in the folder that SGPO_REAL_MODEL names, or in a new one."""
    named = os.environ.get(tool.VARIABLE)
    return tool.make(Path(named) if named else tmp_path_factory.mktemp("models") / "smollm2")


@pytest.fixture(scope="session")
def problems_file() -> Path:
    """16 problems of one step, with strategies and short solutions."""
    return Path(__file__).parent / "problems.jsonl"


@pytest.fixture(scope="session")
def problems(problems_file: Path) -> list[Problem]:
    return load_problems(problems_file)


@pytest.fixture(scope="session")
def real_tokenizer(real_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(real_model)
