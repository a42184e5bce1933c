"""The plan of a comparison: its cells, their order and their configurations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from comparison_cases import result
from recipe_cases import SIZES, Write

from sgpo.comparison.jobs import CellRun, all_jobs
from sgpo.comparison.plan import ComparisonPlan, code_of, find_bases, make_plan
from sgpo.comparison.recipe import read_recipe
from sgpo.comparison.results import append_result
from sgpo.comparison.run import unfinished_cells


def test_all_methods_of_a_seed_come_before_the_next_seed(plan: ComparisonPlan) -> None:
    assert [cell.name for cell in plan.cells] == [
        "base-101/sft",
        "base-101/seed-1/grpo",
        "base-101/seed-1/sgpo",
        "base-101/seed-2/grpo",
        "base-101/seed-2/sgpo",
    ]
    jobs = all_jobs(plan, plan.cells, lambda row: None, keep_models=False)
    assert next(iter(jobs)) == "base-101/warm-up"
    assert all(job.after == ("base-101/warm-up",) for name, job in jobs.items() if name != "base-101/warm-up")


def test_cells_of_one_seed_differ_in_their_method_alone(plan: ComparisonPlan) -> None:
    commands = {
        cell.method.name: next(CellRun(plan, cell, lambda row: None, False).commands()).options
        for cell in plan.cells
        if cell.seed == 2
    }
    ours, other = commands["sgpo"], commands["grpo"]
    assert {name for name in ours if ours[name] != other[name]} == {"config", "output_dir"}
    assert ours["model"] == plan.output / "base-101" / "sft"
    assert (ours["seed"], ours["logging_steps"], ours["overwrite"]) == (2, 1, True)
    assert plan.budgets["sgpo"] == plan.budgets["grpo"]
    batches = {"max_steps": 8, "problems_per_rollout": 4, "updates_per_rollout": 2, "num_train_epochs": 10.0}
    sampling = {"max_completion_length": 24, "temperature": 1.0, "top_p": 0.95}
    assert plan.budgets["sgpo"] == {"samples": 5, **batches, **sampling}


def test_base_seeds_are_pretrained_first(write_recipe: Write, tmp_path: Path) -> None:
    recipe = read_recipe(str(write_recipe(methods=["sft-all", "grpo"])))
    plan = make_plan(recipe, tmp_path / "out", [1], [101, 7])
    jobs = all_jobs(plan, plan.cells, lambda row: None, keep_models=False)
    assert jobs["base-7/warm-up"].after == ("base-7",)
    assert jobs["base-7/seed-1/sft-all"].after == ("base-7",)
    assert jobs["base-101/seed-1/sft-all"].after == ()
    assert "base-101" not in jobs
    own = str(tmp_path / "out" / "base-7")
    command = next(jobs["base-7"].commands)
    assert command.arguments == ["miniworld", "pretrain", "--seed", "7", "--strength", "base", "--output", own]


def test_a_recipe_of_sft_learns_every_response(write_recipe: Write, tmp_path: Path) -> None:
    """As sft-all: from the base model, without an RL budget, under its own loss."""
    path = write_recipe(methods=["sft-dft", "grpo"])
    (path.parent / "sft-dft.yaml").write_text("extends: sft-all.yaml\nloss: dft\n")
    plan = make_plan(read_recipe(str(path)), tmp_path / "out", [1], [101, 7])
    assert list(plan.budgets) == ["grpo"]
    jobs = all_jobs(plan, plan.cells, lambda row: None, keep_models=False)
    assert jobs["base-7/seed-1/sft-dft"].after == ("base-7",)
    command = next(jobs["base-101/seed-1/sft-dft"].commands)
    assert (command.name, command.options["problems"]) == ("sft", plan.data.sft_all)
    (cell,) = [each for each in plan.cells if each.name == "base-101/seed-1/sft-dft"]
    assert plan.configuration(cell)["sft_all"]["loss"] == "dft"
    (path.parent / "sft-dft.yaml").write_text("extends: sft-all.yaml\nloss: ppo\n")
    with pytest.raises(ValueError, match=r"sft-dft.*loss is 'ppo'"):
        make_plan(read_recipe(str(path)), tmp_path / "out", [1], [101])


def test_base_models_of_another_strength_have_its_name(write_recipe: Write, tmp_path: Path) -> None:
    recipe = read_recipe(str(write_recipe(world={"strength": "large"}, methods=["grpo"])))
    (base,) = find_bases(recipe, tmp_path, [7])
    assert (base.name, base.model, base.strength) == ("large-7", str(tmp_path / "large-7"), "large")


def test_sft_all_has_the_problems_of_both(plan: ComparisonPlan) -> None:
    ids = [json.loads(line)["id"] for line in Path(plan.data.sft_all).read_text().splitlines()]
    assert len(ids) == len(set(ids)) == SIZES["sft"] + SIZES["rl"]


def test_a_finished_cell_with_another_configuration_is_refused(plan: ComparisonPlan) -> None:
    cell = plan.cells[1]
    row = result(cell.base.name, cell.seed, cell.method.name, [0.5], configuration=plan.configuration(cell))
    append_result(plan.output / "results.jsonl", row)
    assert [each.name for each in unfinished_cells(plan)] == [c.name for c in plan.cells if c != cell]
    row["configuration"]["method"]["learning_rate"] = 1.0
    (plan.output / "results.jsonl").write_text(json.dumps(row) + "\n")
    message = (
        r"finished cell base-101/seed-1/grpo was made with another configuration: method.learning_rate was 1.0, is"
    )
    with pytest.raises(ValueError, match=message):
        unfinished_cells(plan)
    with pytest.raises(ValueError, match=message):  # of a seed that is not asked for, too: it stands in the same table
        unfinished_cells(replace(plan, seeds=[7]))


def test_the_checkpoint_that_is_kept_is_part_of_the_configuration(write_recipe: Write, tmp_path: Path) -> None:
    steps: dict[str, Any] = {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 4}
    options = [{**steps, "eval_steps": n, "load_best_model_at_end": best} for best in (False, True) for n in (2, 4)]
    plans = [make_plan(read_recipe(str(write_recipe(options=o))), tmp_path / "out", [1], []) for o in options]
    last, also_last, best, other_best = (plan.configuration(plan.cells[1]) for plan in plans)
    assert last == also_last != best != other_best != last


def test_the_code_of_a_users_method_is_part_of_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("METHOD = 1")
    first = code_of({"method": f"{path}:METHOD"})
    path.write_text("METHOD = 2")
    assert code_of({"method": f"{path}:METHOD"}) != first
    assert code_of({"method": "sgpo"}) == {}


def test_a_cell_whose_line_was_deleted_is_run_again(plan: ComparisonPlan) -> None:
    cell = next(cell for cell in plan.cells if cell.seed == 1)
    state = CellRun(plan, cell, lambda row: None, False)
    next(state.commands())
    saved = json.loads(state.state_path.read_text())
    state.state_path.write_text(json.dumps({**saved, "seconds": {"train": 1.0}, "collected": True}))
    assert next(state.commands()).name == "train"


def test_what_only_changes_what_is_seen_is_no_other_configuration(write_recipe: Write, tmp_path: Path) -> None:
    options = [{"save_strategy": "no"}, {"eval_strategy": "steps", "eval_steps": 2}, {"max_steps": 4}]
    plans = [make_plan(read_recipe(str(write_recipe(options=o))), tmp_path / "out", [1], []) for o in options]
    first, second, third = (plan.configuration(plan.cells[1]) for plan in plans)
    assert first == second != third


def test_other_problems_in_the_same_folder_are_refused(write_recipe: Write, plan: ComparisonPlan) -> None:
    recipe = read_recipe(str(write_recipe(world={"seed": 6, "sizes": SIZES})))
    with pytest.raises(ValueError, match=r"world holds other problems \(seed was 5, is 6\); write another --output"):
        make_plan(recipe, plan.output, [1], [])


def test_cells_are_told_their_sizes_which_do_not_give_way(write_recipe: Write, plan: ComparisonPlan) -> None:
    """A base model with a shorter context would otherwise have shorter completions than the others."""
    cell = next(cell for cell in plan.cells if cell.seed == 1)
    options = next(CellRun(plan, cell, lambda row: None, False).commands()).options
    assert (options["problems_per_rollout"], options["max_completion_length"]) == (4, 24)
    path = write_recipe()
    for name in ("grpo", "sgpo"):
        values = yaml.safe_load((path.parent / f"{name}.yaml").read_text())
        del values["problems_per_rollout"]
        (path.parent / f"{name}.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match="24 problems do not fill a rollout batch of 128"):
        make_plan(read_recipe(str(path)), plan.output, [1], [])


def test_a_cell_goes_on_from_its_checkpoint_unless_its_configuration_changed(plan: ComparisonPlan) -> None:
    cell = next(cell for cell in plan.cells if cell.seed == 1)
    state = CellRun(plan, cell, lambda row: None, False)
    assert next(state.commands()).options["overwrite"] is True
    checkpoint = state.folder / "run" / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "checkpoint.json").write_text(json.dumps({"files": {}}))
    assert next(state.commands()).options["resume"] is True
    saved = json.loads(state.state_path.read_text())
    state.state_path.write_text(json.dumps({**saved, "configuration": {**saved["configuration"], "base": 1}}))
    assert next(state.commands()).options["overwrite"] is True
