"""Fixtures of a small comparison: its recipe and its plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from recipe_cases import RECIPES, SIZES, SMALL, Write

from sgpo.comparison.plan import ComparisonPlan, make_plan
from sgpo.comparison.recipe import read_recipe


@pytest.fixture
def write_recipe(tmp_path: Path) -> Write:
    """A small comparison in a folder of its own, with the package's recipes beside it; keywords change it."""

    def write(**changes: Any) -> Path:
        folder = tmp_path / "recipes"
        folder.mkdir(exist_ok=True)
        for name in ("sft", "sft-all"):
            values = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
        for name in ("grpo", "sgpo"):
            values = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
            (folder / f"{name}.yaml").write_text(yaml.safe_dump({**values, **SMALL, "warmup_steps": 0}))
        values = {
            "world": {"seed": 5, "sizes": SIZES},
            "sft": "sft.yaml",
            "sft_all": "sft-all.yaml",
            "methods": ["sft", "grpo", "sgpo"],
            "baseline": "grpo",
            "sets": ["test"],
            "evaluation": {"k": 2, "max_completion_length": 24, "group_by": "family"},
            "options": {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1},
            **changes,
        }
        path = folder / "compare.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
        return path

    return write


@pytest.fixture
def plan(write_recipe: Write, tmp_path: Path) -> ComparisonPlan:
    return make_plan(read_recipe(str(write_recipe())), tmp_path / "out", [1, 2], [])
