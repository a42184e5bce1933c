"""Sizes of a small comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from places import ROOT

from sgpo.miniworld.world import Sizes

RECIPES = ROOT / "src/sgpo/recipes/miniworld"
SIZES = dict.fromkeys((field.name for field in fields(Sizes)), 0) | {
    "sft": 40,
    "rl": 24,
    "dev": 6,
    "test": 12,
    "test_deeper": 6,
    "test_wording": 2,
}
SMALL = {"max_steps": 8, "problems_per_rollout": 4, "num_autonomous": 3, "num_guided": 2, "max_completion_length": 24}

Write = Callable[..., Path]
