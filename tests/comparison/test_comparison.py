"""Recipes, plans and refusals of comparisons; and a real one that is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from comparison_cases import ROWS, result
from places import ROOT
from transformers import AutoModelForCausalLM

from sgpo.cli import main
from sgpo.command_runner import Command, Job
from sgpo.comparison.collecting import evaluation_result
from sgpo.comparison.jobs import CellRun, all_jobs
from sgpo.comparison.places import find_places, only_one
from sgpo.comparison.plan import Cell, Plan, code_of, make_plan
from sgpo.comparison.recipe import read_recipe
from sgpo.comparison.results import append_result, key_of, read_results
from sgpo.comparison.run import unfinished_cells
from sgpo.errors import UsageError
from sgpo.miniworld.world import BASE_MODEL, Sizes, problem_sets
from sgpo.models.adapters import chain_of
from sgpo.problems import save_problems

RECIPES = ROOT / "src/sgpo/recipes/miniworld"
SIZES = {"sft": 40, "rl": 24, "dev": 6, "test": 12, "test_deeper": 6, "test_unseen": 6}
SMALL = {"max_steps": 8, "problems_per_rollout": 4, "num_autonomous": 3, "num_guided": 2, "max_completion_length": 24}

Write = Callable[..., Path]


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


# --- recipes --------------------------------------------------------------------------------------------------


def test_the_shipped_recipe_is_complete() -> None:
    recipe = read_recipe("miniworld/compare")
    assert [method.name for method in recipe.methods][:2] == ["sft", "sft-all"]
    assert {"grpo", "sgpo"} <= {method.name for method in recipe.methods}
    assert recipe.baseline == "grpo"
    assert recipe.sft == RECIPES / "sft.yaml"
    assert list(recipe.sets) == ["test", "test_deeper", "test_unseen"]
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
    rows = [replace(problem, **({lacking: None} if lacking else {})) for problem in sets["rl"]]
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


# --- the plan -------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(write_recipe: Write, tmp_path: Path) -> Plan:
    return make_plan(read_recipe(str(write_recipe())), tmp_path / "out", [1, 2], [])


def test_all_methods_of_a_seed_come_before_the_next_seed(plan: Plan) -> None:
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


def test_cells_of_one_seed_differ_in_their_method_alone(plan: Plan) -> None:
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
    command = next(jobs["base-7"].commands)
    assert command.arguments == ["miniworld", "pretrain", "--seed", "7", "--output", str(tmp_path / "out" / "base-7")]


def test_sft_all_has_the_problems_of_both(plan: Plan) -> None:
    ids = [json.loads(line)["id"] for line in Path(plan.data.sft_all).read_text().splitlines()]
    assert len(ids) == len(set(ids)) == SIZES["sft"] + SIZES["rl"]


def test_a_finished_cell_with_another_configuration_is_refused(plan: Plan) -> None:
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


def test_a_cell_whose_line_was_deleted_is_run_again(plan: Plan) -> None:
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


def test_other_problems_in_the_same_folder_are_refused(write_recipe: Write, plan: Plan) -> None:
    recipe = read_recipe(str(write_recipe(world={"seed": 6, "sizes": SIZES})))
    with pytest.raises(ValueError, match=r"world holds other problems \(seed was 5, is 6\); write another --output"):
        make_plan(recipe, plan.output, [1], [])


def test_cells_are_told_their_sizes_which_do_not_give_way(write_recipe: Write, plan: Plan) -> None:
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


def test_a_cell_goes_on_from_its_checkpoint_unless_its_configuration_changed(plan: Plan) -> None:
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


# --- places ---------------------------------------------------------------------------------------------------


def test_places_are_cores_or_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in find_places(None, on_cpu=False)] == ["3", "5"]
    assert [place["CUDA_VISIBLE_DEVICES"] for place in find_places(3, on_cpu=False)] == ["3", "5", "3"]
    assert {place["CUDA_VISIBLE_DEVICES"] for place in find_places(None, on_cpu=True)} == {""}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("sgpo.comparison.places.available_cores", lambda: 4)
    assert [place["OMP_NUM_THREADS"] for place in find_places(None, on_cpu=False)] == ["1"] * 4
    with pytest.raises(ValueError, match="--parallel is 0; it must be at least 1"):
        find_places(0, on_cpu=True)


def test_a_folder_has_one_comparison_at_a_time(tmp_path: Path) -> None:
    with only_one(tmp_path), pytest.raises(ValueError, match="a comparison is at work in"), only_one(tmp_path):
        pass
    with only_one(tmp_path) as lock:
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        left = subprocess.Popen(command, pass_fds=[lock])  # as after a kill of the comparison alone
    with pytest.raises(ValueError, match="or a command of one that was killed"), only_one(tmp_path):
        pass
    left.kill()
    left.wait()
    with only_one(tmp_path):
        pass


def broken() -> Iterator[Command]:
    raise OSError("a file is gone")
    yield Command("nothing", {})


def test_a_failed_cell_is_named_and_gives_exit_status_1(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(tmp_path / "recipes" / "compare.yaml")
    row = result("base-101", 1, "grpo", [0.5], configuration=plan.configuration(plan.cells[1]))
    jobs = {"base-101/seed-1/sgpo": Job(iter([Command("nonsense", {})])), "good": Job(iter([]))}
    jobs["between"] = Job(broken())
    jobs["waiting"] = Job(iter([]), after=("base-101/seed-1/sgpo",))
    monkeypatch.setattr("sgpo.comparison.run.all_jobs", lambda *arguments, **keywords: jobs)
    append_result(plan.output / "results.jsonl", row)
    options = ["--seeds", "1", "2", "--parallel", "1", "--output", str(plan.output)]
    assert main(["compare", "--recipe", recipe, *options]) == 1
    shown = capsys.readouterr()
    assert "FAILED base-101/seed-1/sgpo ended with exit status 2. The end of its log:" in " ".join(shown.out.split())
    assert "invalid choice: 'nonsense'" in shown.out
    assert "50.0" in shown.out  # the table of what is there
    assert shown.err.endswith(
        "sgpo compare: 2 failed: base-101/seed-1/sgpo, between; waiting waited for them. The ends of their logs are "
        "above; the same command goes on with what is left\n"
    )


def test_a_damaged_file_of_a_cell_is_named(plan: Plan, tmp_path: Path) -> None:
    state = CellRun(plan, plan.cells[1], lambda row: None, False)
    next(state.commands())
    state.state_path.write_text('{"seconds": ')
    with pytest.raises(UsageError, match=rf"^{state.state_path} is damaged \(Expecting value: line 1 column 13 .*del"):
        next(state.commands())
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "summary.json").write_text('{"benchmarks": {"test": {}}}')
    message = r"^the evaluation in .*evaluation is damaged \(.*test\.parquet is not there: evaluate again\); delete"
    with pytest.raises(UsageError, match=message):
        evaluation_result(tmp_path / "evaluation", ["test"])


def test_table_only_runs_nothing(write_recipe: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    for row in ROWS:
        append_result(tmp_path / "out" / "results.jsonl", row)
    assert main(["compare", "--recipe", str(write_recipe()), "--output", str(tmp_path / "out"), "--table-only"]) == 0
    assert "87.5 ± 17.7" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["results.jsonl", "table.md"]


def test_an_adapter_is_compared_as_any_base_model(
    write_recipe: Write, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warm-up goes on with the base's adapter, grpo with that of the warm-up, sgpo trains one on top of it."""
    peft = pytest.importorskip("peft")
    adapter, output = tmp_path / "adapter", tmp_path / "out"
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint), peft.LoraConfig(r=2))
    model.save_pretrained(adapter)
    save_problems(problem_sets(seed=5, sizes=Sizes(**SIZES))["rl"], tmp_path / "rl.jsonl")
    files = {name: str(tmp_path / "rl.jsonl") for name in ("problems", "sft_problems", "dev_problems")}
    own = {"world": None, "base_models": [str(adapter)], "sets": {"own": str(tmp_path / "rl.jsonl")}, **files}
    path = write_recipe(**own, methods=["grpo", "sgpo"], options={"max_steps": 2, "warmup_steps": 0})
    sgpo = path.with_name("sgpo.yaml")
    sgpo.write_text(sgpo.read_text() + "use_peft: true\nlora_r: 2\nlora_target_modules: all-linear\n")
    sft = path.with_name("sft.yaml")
    sft.write_text(yaml.safe_dump({**yaml.safe_load(sft.read_text()), "num_train_epochs": 1}))
    plan = make_plan(read_recipe(str(path)), output, [1], [])
    rows: list[Any] = []
    for job in all_jobs(plan, plan.cells, rows.append, keep_models=True).values():
        for command in job.commands:
            assert main([*command.arguments, *([] if command.name == "eval" else ["--use_cpu", "true"])]) == 0
    assert [(row["method"], row["configuration"]["base"]) for row in rows] == [
        ("grpo", str(adapter)),
        ("sgpo", str(adapter)),
    ]
    warmup = output / "adapter" / "sft"
    assert chain_of(str(warmup)) == [str(warmup), str(checkpoint)]
    runs = [output / "cells" / "adapter" / "seed-1" / name / "run" for name in ("grpo", "sgpo")]
    assert chain_of(str(runs[0]))[1:] == [str(checkpoint)]
    assert chain_of(str(runs[1]))[1:] == [str(warmup), str(checkpoint)]
    assert rows[1]["configuration"]["method"]["use_peft"] is True


# --- everything -----------------------------------------------------------------------------------------------


def compare_command(recipe: Path, output: Path) -> list[str]:
    command = [sys.executable, "-m", "sgpo", "compare", "--recipe", str(recipe), "--output", str(output)]
    return [*command, "--seeds", "1", "2", "--parallel", "2"]


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """A result without what depends on time."""
    kept = {name: row[name] for name in ("base", "seed", "method", "sets", "configuration")}
    measured = {name: values for name, values in row.get("curves", {}).items() if name != "seconds"}
    counts = {name: value for name, value in row["totals"].items() if name != "seconds"}
    return {**kept, "curves": measured, "totals": counts}


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.integration
def test_a_killed_comparison_goes_on_and_gives_the_same(write_recipe: Write, tmp_path: Path) -> None:
    recipe = write_recipe()
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = subprocess.run(compare_command(recipe, whole), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 cells, 0 of them finished; 2 at a time" in done.stdout

    process = subprocess.Popen(compare_command(recipe, cut), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    results, late = cut / "results.jsonl", cut / "cells" / "base-101" / "seed-2"
    wait_until(
        lambda: len(read_results(results)) >= 2 and bool(list(late.glob("*/run/checkpoint-*/checkpoint.json"))), process
    )
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "sgpo compare: stopped; the same command goes on with what is left" in errors
    before = results.read_bytes()
    finished = read_results(results)
    assert 2 <= len(finished) < 5
    logs = [cut / "logs" / f"{Cell.name_of(*key_of(row))}.log" for row in finished]
    times = [log.stat().st_mtime_ns for log in logs]

    done = subprocess.run(compare_command(recipe, cut), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"5 cells, {len(finished)} of them finished" in done.stdout
    assert results.read_bytes().startswith(before)
    rows = {(row["seed"], row["method"]): row for row in read_results(results)}
    expected = {(row["seed"], row["method"]): row for row in read_results(whole / "results.jsonl")}
    assert rows.keys() == expected.keys()
    assert len(rows) == 5
    for key, row in rows.items():
        assert comparable(row) == comparable(expected[key]), key
    assert times == [log.stat().st_mtime_ns for log in logs]  # finished cells were not run again
    assert any("after the first" in log.read_text() for log in (cut / "logs" / "base-101" / "seed-2").glob("*.log"))
    assert not list(cut.glob("cells/**/*.safetensors"))
    assert max(map(len, results.read_bytes().splitlines())) < 60_000
    assert (cut / "table.md").read_text().count("\n| ") >= 8
