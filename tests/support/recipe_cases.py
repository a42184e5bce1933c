"""Sizes of a small comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from places import ROOT

RECIPES = ROOT / "src/sgpo/recipes/miniworld"
SIZES = {"sft": 40, "rl": 24, "dev": 6, "test": 12, "test_deeper": 6, "test_unseen": 6}
SMALL = {"max_steps": 8, "problems_per_rollout": 4, "num_autonomous": 3, "num_guided": 2, "max_completion_length": 24}

Write = Callable[..., Path]
