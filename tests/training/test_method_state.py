"""The state of a method: what checkpoints cannot keep is refused before the first of them is due."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.methods.method import check_state
from sgpo.methods.registry import find_method
from sgpo.problems import Problem

FILE = """
from __future__ import annotations
from sgpo.methods.grpo import GRPOOptions, decide
from sgpo.methods.method import Method, all_autonomous

def counting(groups, options, update):
    update.state["seen"] = {KEY(len(groups)): 1}
    return decide(groups, options, update)

METHOD = Method(GRPOOptions, all_autonomous, counting, STATE)
"""


@pytest.fixture
def make(make_config: Callable[..., SGPOConfig], checkpoint: Path, tmp_path: Path) -> Callable[[str, str], SGPOTrainer]:
    def trainer(key: str, state: str) -> SGPOTrainer:
        file = tmp_path / "counting.py"
        file.write_text(FILE.replace("KEY", key).replace("STATE", state))
        config = make_config(method=f"{file}:METHOD", problems_per_rollout=2, updates_per_rollout=1, max_steps=1)
        return SGPOTrainer(str(checkpoint), config, [Problem(str(n), f"Compute {n}+1", str(n + 1)) for n in range(4)])

    return trainer


@pytest.mark.parametrize(
    ("key", "state", "message"),
    [
        ("int", "state=lambda options: {}", "the method keeps state['seen'] with the key 2, which JSON would not"),
        ("str", "", "the method keeps seen in update.state, which no checkpoint holds unless"),
    ],
)
def test_what_a_resumed_run_would_not_get_back(
    make: Callable[[str, str], SGPOTrainer], key: str, state: str, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make(key, state).train()


@pytest.mark.parametrize(
    ("value", "message"),
    [((1, 2), "a tuple in state['x'][0]"), ({3}, "a set in state['x'][0]"), (object(), "a object in state['x'][0]")],
)
def test_values_that_json_has_not(tmp_path: Path, value: Any, message: str) -> None:
    (tmp_path / "m.py").write_text(FILE.replace("KEY", "str").replace("STATE", "state=lambda options: {}"))
    method = find_method(f"{tmp_path / 'm.py'}:METHOD")
    with pytest.raises(ValueError, match=re.escape(message)):
        check_state(method, {"x": [value]})
    check_state(method, {"x": [1, 0.5, None, True, "text", {"deep": [float("nan")]}]})


def test_a_checkpoint_from_before_the_method_had_a_state(
    make: Callable[[str, str], SGPOTrainer], tmp_path: Path
) -> None:
    found = make("str", "state=lambda options: {}")
    (tmp_path / "old").mkdir()
    with pytest.raises(ValueError, match=r"old has no method_state.json: it was written when .* had no state"):
        found.read_own_state(tmp_path / "old")
