"""A user's method beside those of the package, with options that only it has."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from recipe_cases import Write

from sgpo.comparison.checks import check_recipe_beforehand
from sgpo.comparison.plan import make_plan
from sgpo.comparison.recipe import read_recipe

FILE = """
from __future__ import annotations
from dataclasses import dataclass, field
from sgpo.methods.grpo import GRPOOptions, decide
from sgpo.methods.method import Method

@dataclass
class Options(GRPOOptions):
    fewer: int = field(kw_only=True, metadata={"help": "How many completions less than the others."})

METHOD = Method(Options, lambda problem, options: {"autonomous": options.num_samples - options.fewer}, decide)
"""


def test_its_options_are_taken_and_decide_what_it_samples(write_recipe: Write, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    path = write_recipe(methods=["grpo", "mine"])
    values = yaml.safe_load((path.parent / "grpo.yaml").read_text())
    own = path.parent / "mine.yaml"
    own.write_text(yaml.safe_dump({**values, "method": f"{tmp_path / 'mine.py'}:METHOD", "fewer": 2}))
    recipe = read_recipe(str(path))
    check_recipe_beforehand(recipe)
    plan = make_plan(recipe, tmp_path / "out", [1], [])
    assert {name: budget["samples"] for name, budget in plan.budgets.items()} == {"grpo": 5, "mine": 3}
    (cell,) = [cell for cell in plan.cells if cell.method.name == "mine"]
    assert plan.configuration(cell)["method"]["fewer"] == 2
    own.write_text(own.read_text().replace("fewer", "fewr"))
    with pytest.raises(ValueError, match=r"unknown in .*mine.yaml: fewr \(did you mean fewer\?\)"):
        check_recipe_beforehand(recipe)
