"""Recipes of comparisons, and what is refused before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from recipe_cases import RECIPES, SIZES, Write

from sgpo.cli import main
from sgpo.comparison.plan import make_plan
from sgpo.comparison.recipe import read_recipe
from sgpo.miniworld.world import BASE_MODEL, EVALUATION_SPLITS, Sizes, problem_sets
from sgpo.problems import save_problems


def test_the_shipped_recipe_is_complete() -> None:
    recipe = read_recipe("miniworld/compare")
    assert [method.name for method in recipe.methods][:2] == ["sft", "sft-all"]
    assert {"grpo", "sgpo"} <= {method.name for method in recipe.methods}
    assert recipe.baseline == "grpo"
    assert recipe.sft == RECIPES / "sft.yaml"
    assert list(recipe.sets) == list(EVALUATION_SPLITS[1:])
    assert read_recipe("miniworld/compare", sets=["dev"]).sets == {"dev": "dev"}


def test_the_ablations_share_the_cells_of_the_methods(tmp_path: Path) -> None:
    main_plan, ablations = (
        make_plan(read_recipe(f"miniworld/{name}"), tmp_path, [1], [102]) for name in ("compare", "compare-ablations")
    )
    ours = {cell.name: ablations.configuration(cell) for cell in ablations.cells}
    shared = [cell for cell in main_plan.cells if cell.name in ours]
    assert [cell.method.name for cell in shared] == ["grpo", "sgpo"]
    assert all(main_plan.configuration(cell) == ours[cell.name] for cell in shared)
    samples = {name: budget["samples"] for name, budget in ablations.budgets.items()}
    assert samples.pop("grpo-8") == 8
    assert set(samples.values()) == {12}


def test_the_related_methods_have_the_budget_of_the_others(tmp_path: Path) -> None:
    plan = make_plan(read_recipe("miniworld/compare-related"), tmp_path, [1], [101])
    assert {name: budget["samples"] for name, budget in plan.budgets.items()} == {
        **dict.fromkeys(("grpo", "hpt", "ampo", "scaf-grpo", "opsd", "sdpo", "sgpo"), 12),
        **dict.fromkeys(("luffy", "srft"), 11),  # and the expert's response
    }
    updates = {
        budget["max_steps"] * budget["problems_per_rollout"] // budget["updates_per_rollout"]
        for budget in plan.budgets.values()
    }
    assert updates == {800}
    of_sft = {cell.method.name for cell in plan.cells if plan.recipe.sft_of(cell.method)}
    assert of_sft == {"sft-all", "sft-dft", "sft-iw", "sft-psft"}


REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "key": ({"metods": []}, {}, r"unknown in .*compare.yaml: metods \(did you mean methods\?\); a recipe of"),
    "size": ({"world": {"sizes": {"tset": 1}}}, {}, r"unknown in sizes of .*: tset \(did you mean test\?\)"),
    "method": (
        {},
        {"methods": ["grpo", "spgo"]},
        r"there is no method spgo \(did you mean sgpo\?\): no file, and none of",
    ),
    "twice": ({}, {"methods": ["grpo", "grpo"]}, "two methods are called grpo"),
    "baseline": (
        {},
        {"baseline": "luffy"},
        r"the baseline luffy is none of the methods: they are sft, grpo, sgpo; add it",
    ),
    "set": ({}, {"sets": ["tset"]}, r"there is no set tset \(did you mean test\?\)"),
    "strength": ({"world": {"strength": "strong"}}, {}, "there is no strength 'strong'; there are base, large"),
    "own set": ({"sets": ["math500"]}, {}, "the mini-world has no math500"),
    "data twice": ({"problems": "rl.jsonl"}, {}, "has a world and problems; leave out one or the other"),
    "no data": ({"world": None}, {}, "has no sft_problems and no problems; it needs them, or a world"),
    "no warm-up": ({"sft": None}, {}, "needs sft, the name of a recipe of sgpo sft beside it"),
    "warm-up": ({"sft": "stf.yaml"}, {}, "sft of .*compare.yaml: there is no file .*stf.yaml"),
    "all": ({"sft_all": None}, {"methods": ["sft-all", "grpo"]}, "needs sft_all"),
    "list": ({"methods": "grpo"}, {}, r"methods of .* must be a list such as"),
    "decided": ({"options": {"seed": 3}}, {}, "options of .* has seed, which sgpo compare sets for each cell"),
    "evaluated": ({"evaluation": {"model": "m"}}, {}, "evaluation of .* has model, which sgpo compare sets"),
    "options": ({"options": [1]}, {}, "options of .* must hold lines of the form key: value"),
}


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"no comparison of that name \(did you mean miniworld/compare\?\)"):
        read_recipe("miniworld/compar")


@pytest.mark.parametrize("case", REFUSALS)
def test_recipes_that_are_refused(write_recipe: Write, case: str) -> None:
    changes, given, message = REFUSALS[case]
    with pytest.raises(ValueError, match=message):
        read_recipe(str(write_recipe(**changes)), **given)


PLANS: dict[str, tuple[dict[str, Any], list[int], list[int], str]] = {
    "no seed": ({}, [], [], "there is nothing to run without a seed: give --seeds"),
    "seed twice": ({}, [1, 1], [], "--seeds has the same number twice: 1 1"),
    "option": ({"options": {"save_step": 2}}, [1], [], r"method grpo .*save_step \(did you mean --save_steps\?\)"),
    "value": ({"options": {"max_steps": 3}}, [1], [], r"method grpo .*max_steps \(3\) must be a multiple"),
    "problems": ({"options": {"bad_rows": "drop"}}, [1], [], "has bad_rows: drop: methods are compared on the same"),
    "limit": ({"options": {"limit": 9}}, [1], [], "has limit: methods are compared on the same problems"),
    "evaluation": ({"evaluation": {"k": 0}}, [1], [], "k is 0; it must be at least 1"),
    "adapter": ({"options": {"lora_r": 8}}, [1], [], r"method grpo .*: lora_r: no effect without use_peft"),
    "layers": (
        {"options": {"use_peft": True, "lora_target_modules": ["query"]}},
        [1],
        [],
        r"method grpo .*: Target modules \{'query'\} not found in the base model",
    ),
    "group": ({"evaluation": {"group_by": "famly"}}, [1], [], "group_by: there is no column 'famly'"),
}

UNIT_TESTS = f"{ROOT / 'examples' / 'unit_test_reward.py'}:unit_test_reward"
FEW = {"problems_per_rollout": 32, "gradient_accumulation_steps": 1}
LONG = {"max_completion_length": 4096, "max_tokens_per_microbatch": 9000}
DATA: dict[str, tuple[dict[str, Any], str, str]] = {
    "few problems": (FEW, "", r"method grpo .*: 24 problems do not fill a rollout batch of 32"),
    "context": (LONG, "", r"method grpo .*: the model's context of \d+ tokens is too short"),
    "strategies": ({}, "strategy", r"method sgpo .*: method sgpo needs strategies, and no problem has one"),
    "rewards": ({"rewards": [UNIT_TESTS]}, "", r"method grpo .*: reward function unit_test_reward needs 'tests'"),
    "responses": ({}, "response", r"sft .*: SFT learns strong-model responses; 24 of 24 problems have none"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_are_refused_before_anything_is_trained(write_recipe: Write, tmp_path: Path, case: str) -> None:
    options, lacking, message = DATA[case]
    sets = problem_sets(seed=5, sizes=Sizes(**SIZES))
    rows = [replace(problem, more_responses=(), **({lacking: None} if lacking else {})) for problem in sets["rl"]]
    save_problems(rows, tmp_path / "rl.jsonl")
    files = {"problems": str(tmp_path / "rl.jsonl"), "sft_problems": str(tmp_path / "rl.jsonl")}
    own = {"world": None, "base_models": [str(BASE_MODEL)], "sets": {"own": str(tmp_path / "rl.jsonl")}, **files}
    recipe = read_recipe(str(write_recipe(**own, options=options)))
    with pytest.raises(ValueError, match=message):
        make_plan(recipe, tmp_path / "out", [1], [])


@pytest.mark.parametrize("case", PLANS)
def test_plans_that_are_refused(write_recipe: Write, tmp_path: Path, case: str) -> None:
    changes, seeds, base_seeds, message = PLANS[case]
    with pytest.raises(ValueError, match=message):
        make_plan(read_recipe(str(write_recipe(**changes))), tmp_path / "out", seeds, base_seeds)


def test_a_comparison_is_no_configuration_of_training(write_recipe: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe()
    assert main(["train", "--config", str(path)]) == 2
    assert (
        f"{path} says what sgpo compare runs, not sgpo train: sgpo compare --recipe {path}" in capsys.readouterr().err
    )
    assert main(["compare", "--recipe", str(path), "--methods", "grpo", "spgo"]) == 2
    assert capsys.readouterr().err.startswith("sgpo compare: there is no method spgo (did you mean sgpo?)")
