from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from processes import launch

import sgpo
from sgpo.cli import COMMANDS, main
from sgpo.configuration import read_config
from sgpo.methods.registry import DEFAULTS
from sgpo.miniworld.world import Sizes, create_world
from sgpo.problems import load_problems, save_problems
from sgpo.problems.inspection import describe_problems

RECIPES = Path(sgpo.__file__).parent / "recipes" / "miniworld"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    sizes = Sizes.only(sft=20, rl=12, dev=4, test=6, test_deeper=2, test_unseen=2)
    folder = create_world(tmp_path_factory.mktemp("world"), seed=0, sizes=sizes, base=checkpoint)
    # Every fourth token ends a completion, or a model with random weights would hardly ever end one.
    generation = folder / "base" / "generation_config.json"
    ends = list(range(1, 400, 4))
    generation.write_text(json.dumps({**json.loads(generation.read_text()), "eos_token_id": ends}))
    return folder


@pytest.fixture
def recipe(world: Path, tmp_path: Path) -> Callable[[str], list[str]]:
    """The command line of a recipe, its paths and sizes overridden."""

    def arguments(name: str) -> list[str]:
        common = ["--use_cpu", "true", "--disable_tqdm", "true", "--output_dir", str(tmp_path / name)]
        source = ["--config", str(RECIPES / f"{name}.yaml"), "--model", str(world / "base")]
        if name == "sft":
            return [*source, *common, "--problems", str(world / "sft.jsonl")]
        small = ["--max_steps", "2", "--problems_per_rollout", "4", "--max_completion_length", "10"]
        data = ["--problems", str(world / "rl.jsonl"), "--eval_problems", str(world / "dev.jsonl")]
        return [*source, *common, *data, *small]

    return arguments


# --- help, version, refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_help_lists_the_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "usage: sgpo COMMAND" in out
    for command, entry in COMMANDS.items():
        assert f"{command:<20}{entry.summary}" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sgpo {sgpo.__version__}\n"


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tarin"]) == 2
    assert capsys.readouterr().err == (
        f"sgpo: there is no command tarin (did you mean train?); there are {', '.join(COMMANDS)}\n"
    )
    assert main(["strategies", "extrat", "--limit", "1"]) == 2
    assert capsys.readouterr().err == (
        "sgpo strategies: there is no command strategies extrat (did you mean strategies extract?); there are "
        "strategies solve, strategies extract, strategies show, strategies quality\n"
    )


@pytest.mark.parametrize(
    ("command", "option"), [("sft", "--validation_share"), ("train", "--alpha_max"), ("eval", "--k")]
)
def test_help_of_a_command_lists_its_options(command: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert option in out
    assert f"sgpo {command}" in out


def error_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command writes, after which it exits with status 2."""
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    (line,) = [part for part in error.strip().splitlines() if part.startswith(f"sgpo {arguments[0]}: ")]
    assert error.strip().endswith(line), "more than one line"
    return line


def test_unknown_key_of_a_recipe_is_named(
    recipe: Callable[[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, command in (("sgpo", "train"), ("sft", "sft")):
        values = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump({**values, "learning_rat": 1e-4}))
        arguments = [str(config) if argument.endswith(".yaml") else argument for argument in recipe(name)]
        assert "learning_rat" in error_line([command, *arguments], capsys)
    assert "--learning_rat" in error_line(["train", *recipe("sgpo"), "--learning_rat", "1"], capsys)
    assert not (tmp_path / "sgpo").exists()


def test_missing_files_are_named(
    recipe: Callable[[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "nothing.jsonl")
    assert missing in error_line(["train", *recipe("sgpo"), "--problems", missing], capsys)
    assert missing in error_line(["train", *recipe("sgpo"), "--eval_problems", missing], capsys)
    assert missing in error_line(["sft", *recipe("sft"), "--problems", missing], capsys)
    assert missing in error_line(["eval", "--model", "x", "--problems", missing], capsys)
    missing = str(tmp_path / "nothing.yaml")
    assert missing in error_line(["train", "--config", missing], capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["--method", "ppo"],
            "choose one of ampo, grpo, hpt, luffy, opsd, scaf_grpo, sdpo, sgpo, srft, or name your own: ",
        ),
        (["--columns", "answer"], "columns takes field=name, for example answer=solution, not 'answer'"),
        (["--rewards", "nothing.py:reward"], "there is no file nothing.py"),
        (["--reward_weights", "1", "0.5"], "1 reward functions need as many reward_weights, not 2"),
        (["--limit", "0"], "limit is 0; it must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused(
    recipe: Callable[[str], list[str]], changes: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_line(["train", *recipe("sgpo"), *changes], capsys)


def test_problems_without_responses_are_refused(
    recipe: Callable[[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"prompt": "Compute 1+1", "answer": "2"}\n')
    assert "fill the column 'response'" in error_line(["sft", *recipe("sft"), "--problems", str(bare)], capsys)


# --- from warm-up to evaluation -----------------------------------------------------------------------------


@pytest.fixture
def parity_reward(tmp_path: Path) -> str:
    """The name of a reward function in a file of the user's."""
    file = tmp_path / "reward.py"
    file.write_text("def parity(completions, **columns):\n    return [float(len(c) % 2) for c in completions]\n")
    return f"{file}:parity"


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


LEAVING = """
import sys
from torch import distributed
from sgpo.cli import main
assert main(sys.argv[1:]) == 0
assert not distributed.is_initialized()
"""


def test_two_processes_leave_their_group_once_they_have_finished(
    recipe: Callable[[str], list[str]], tmp_path: Path
) -> None:
    ended = launch(["-c", LEAVING, "sft", *recipe("sft")])
    assert [status for status, _ in ended] == [0, 0], ended
    said = f"The model is in {tmp_path / 'sft'}"
    assert [said in output for _, output in ended] == [True, False]
    assert (tmp_path / "sft" / "model.safetensors").exists()


def test_warm_up_training_and_evaluation(
    recipe: Callable[[str], list[str]],
    world: Path,
    parity_reward: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["sft", *recipe("sft"), "--learning_rate", "0.003"]) == 0
    warm = tmp_path / "sft"
    assert (warm / "model.safetensors").read_bytes() != (world / "base" / "model.safetensors").read_bytes()
    configuration = yaml.safe_load((warm / "config.yaml").read_text())
    assert configuration["learning_rate"] == 0.003
    assert configuration["num_train_epochs"] == 1

    assert main(["train", *recipe("sgpo"), "--model", str(warm), "--rewards", parity_reward]) == 0
    trained = tmp_path / "sgpo"
    lines = lines_of(trained / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    assert {"reward/autonomous", "reward/guided", "alpha", "entropy", "divergence"} <= set(lines[0])
    assert (trained / "model.safetensors").read_bytes() != (warm / "model.safetensors").read_bytes()
    configuration = yaml.safe_load((trained / "config.yaml").read_text())
    expected = {"method": "sgpo", "delta": 1.0, "problems_per_rollout": 4, "max_steps": 2, "model": str(warm)}
    assert {name: configuration[name] for name in expected} == expected

    data = {name: load_problems(world / f"{name}.jsonl") for name in ("sft", "rl", "dev")}
    entries = {name: describe_problems(problems, str(world / f"{name}.jsonl")) for name, problems in data.items()}
    assert json.loads((warm / "data.json").read_text()) == {"train": entries["sft"]}
    assert json.loads((trained / "data.json").read_text()) == {"train": entries["rl"], "eval": entries["dev"]}
    out = capsys.readouterr().out
    for name, said in (("sft", "training"), ("rl", "training"), ("dev", "evaluation")):
        assert f"{said} problems: {len(data[name])}, fingerprint {entries[name]['fingerprint']}\n" in out
    assert "12 of 12 problems have a strategy.\n" in out

    output = tmp_path / "evaluation"
    evaluated = ["eval", "--model", str(trained), "--problems", str(world / "test.jsonl"), "--k", "2"]
    short = ["--max_completion_length", "10", "--group_by", "family", "--output", str(output)]
    assert main([*evaluated, *short]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^ test +6 +2 +0\.0 ± 0\.0 ", out, re.MULTILINE)  # nothing is learnt in two steps of ten tokens
    summary = json.loads((output / "summary.json").read_text())
    problems = load_problems(world / "test.jsonl")
    numbers = summary["benchmarks"]["test"]
    assert numbers.items() >= describe_problems(problems, str(world / "test.jsonl")).items()
    assert f"test: 6 problems, fingerprint {numbers['fingerprint']}\n" in out
    assert sum(numbers["verdicts"].values()) == 12
    assert numbers["average"] == 0.0
    assert set(numbers["by"]) == {problem.extra["family"] for problem in problems}
    samples = pq.read_table(output / "samples" / "test.parquet").to_pylist()
    assert [sample["id"] for sample in samples] == [problem.id for problem in problems for _ in range(2)]
    assert all(sample["length"] <= 10 for sample in samples)


def test_grpo_and_its_saved_configuration(
    recipe: Callable[[str], list[str]], parity_reward: str, tmp_path: Path
) -> None:
    """The saved configuration is a recipe of its own, which repeats the run."""
    evaluation = ["--eval_strategy", "steps", "--eval_steps", "2", "--eval_samples", "1"]
    assert main(["train", *recipe("grpo"), *evaluation, "--rewards", parity_reward]) == 0
    saved = tmp_path / "grpo" / "config.yaml"
    assert yaml.safe_load(saved.read_text())["method"] == "grpo"
    again = tmp_path / "again"
    assert main(["train", "--config", str(saved), "--output_dir", str(again)]) == 0
    first, second = (lines_of(folder / "metrics.jsonl") for folder in (tmp_path / "grpo", again))
    for name in ("reward/autonomous", "length/autonomous", "entropy", "loss", "eval_avg_at_1"):
        values = [line[name] for line in first if name in line]
        assert any(values), name
        assert values == pytest.approx([line[name] for line in second if name in line], rel=1e-5), name
    assert not any("reward/guided" in line for line in first)


def test_the_saved_configuration_of_a_warm_up_is_a_recipe(recipe: Callable[[str], list[str]], tmp_path: Path) -> None:
    assert (
        main(
            [
                "sft",
                *recipe("sft"),
                "--max_steps",
                "1",
                "--eval_strategy",
                "no",
                "--save_strategy",
                "no",
                "--load_best_model_at_end",
                "false",
                "--per_device_train_batch_size",
                "3",
            ]
        )
        == 0
    )
    saved = yaml.safe_load((tmp_path / "sft" / "config.yaml").read_text())
    assert saved["per_device_train_batch_size"] == 3
    assert saved.keys().isdisjoint({"resume", "resume_from_checkpoint", "overwrite", "hub_token"})
    config = str(tmp_path / "sft" / "config.yaml")
    assert main(["sft", "--config", config, "--output_dir", str(tmp_path / "again")]) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("sft", "again")]
    assert weights[0] == weights[1]
    # A second time only if that is asked for.
    again = ["sft", "--config", config, "--output_dir", str(tmp_path / "again")]
    assert main(again) == 2
    assert main([*again, "--overwrite"]) == 0


def test_problems_of_the_warm_up_are_refused(
    recipe: Callable[[str], list[str]], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those that differ in spaces and capitals, also behind a run on the warm-up's model."""
    assert main(["sft", *recipe("sft")]) == 0
    warm = tmp_path / "sft"
    learnt = load_problems(world / "sft.jsonl")
    others = load_problems(world / "rl.jsonl")
    assert len(json.loads((warm / "seen.json").read_text())["problems"]) == len({p.prompt for p in learnt})
    mixed = tmp_path / "mixed.jsonl"
    save_problems([*others, dataclasses.replace(learnt[0], prompt=f" {learnt[0].prompt.upper()}  ")], mixed)
    command = ["train", *recipe("grpo"), "--problems", str(mixed)]
    capsys.readouterr()
    said = f"learnt in the warm-up: 1, e.g. row {len(others)} (id {learnt[0].id!r}) was learnt in the warm-up of {warm}"
    assert said in error_line([*command, "--model", str(warm)], capsys)
    assert main([*command, "--model", str(warm), "--bad_rows", "drop"]) == 0
    trained = tmp_path / "grpo"
    assert json.loads((trained / "data.json").read_text())["train"]["problems"] == len(others)
    assert (trained / "seen.json").read_text() == (warm / "seen.json").read_text()
    again = [*command, "--model", str(trained), "--output_dir", str(tmp_path / "again")]
    assert f"warm-up of {trained}" in error_line(again, capsys)
    assert main([*again, "--seen_problems", "allow"]) == 0
    assert json.loads((tmp_path / "again" / "data.json").read_text())["train"]["problems"] == len(others) + 1


def test_bad_rows_are_dropped_by_every_command(
    recipe: Callable[[str], list[str]], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = '{"id": "bad", "prompt": "Compute 1+1", "answer": "", "response": "2"}\n'
    for name in ("sft", "rl", "dev"):
        (tmp_path / f"{name}.jsonl").write_text((world / f"{name}.jsonl").read_text() + bad)
    data = [f"--{key}={tmp_path / name}.jsonl" for key, name in (("problems", "rl"), ("eval_problems", "dev"))]
    assert main(["train", *recipe("grpo"), *data, "--bad_rows", "drop"]) == 0
    out = capsys.readouterr().out
    for line in (
        "training problems: 1 of 13 rows are left out (bad_rows: drop).\n",
        "  empty field: 1, e.g. row 12 (id 'bad') has no answer\n",
        "evaluation problems: 1 of 5 rows are left out (bad_rows: drop).\n",
    ):
        assert line in out
    assert json.loads((tmp_path / "grpo" / "data.json").read_text())["train"]["problems"] == 12
    evaluated = ["eval", "--model", str(world / "base"), "--problems", str(tmp_path / "dev.jsonl"), "--k", "1"]
    assert main([*evaluated, "--max_completion_length", "5", "--bad_rows", "drop"]) == 0
    assert "dev: 1 of 5 rows are left out" in capsys.readouterr().out
    steps = ["--max_steps", "1", "--bad_rows", "drop", "--problems", str(tmp_path / "sft.jsonl")]
    assert main(["sft", *recipe("sft"), *steps]) == 0
    assert "training problems: 1 of 21 rows are left out" in capsys.readouterr().out


def test_a_recipe_is_found_by_its_name(tmp_path: Path) -> None:
    from sgpo.configuration import find_config, recipes

    assert {"miniworld/grpo", "miniworld/sft", "miniworld/sgpo"} <= set(recipes())
    assert find_config("miniworld/sgpo") == RECIPES / "sgpo.yaml"
    file = tmp_path / "sgpo"
    file.write_text("")
    assert find_config(str(file)) == file


# What the methods may differ in.
OPTIONS = {"method", "output_dir", "learning_rate", "delta", "columns"} | {
    name for name in DEFAULTS if not name.startswith(("num_", "max_"))
}


RL_RECIPES = [path for path in sorted(RECIPES.glob("*.yaml")) if "max_steps" in read_config(path)]


@pytest.mark.parametrize("path", RL_RECIPES, ids=lambda path: path.stem)
def test_recipes_have_equal_samples_and_steps(path: Path) -> None:
    ours, grpo = read_config(path), read_config(RECIPES / "grpo.yaml")
    samples = ours["num_autonomous"] + ours["num_guided"]
    assert samples == (8 if path.stem == "grpo-8" else 12)
    for name in set(grpo) - OPTIONS - {"num_guided"}:
        assert ours[name] == grpo[name], name
    assert set(ours) <= set(grpo) | OPTIONS | {"skip_grad_norm"}
    assert ours["output_dir"] == f"runs/miniworld/{path.stem}"


def test_every_recipe_is_read(tmp_path: Path) -> None:
    from sgpo.configuration import parse
    from sgpo.training.arguments import TrainArguments
    from sgpo.training.config import SGPOConfig

    assert len(RL_RECIPES) > 15
    for path in RL_RECIPES:
        data, args = parse("train", (TrainArguments, SGPOConfig), ["--config", str(path), "--use_cpu", "true"])
        assert args.max_steps == 100
        assert data.problems == "runs/miniworld/rl.jsonl"


def test_a_configuration_may_extend_another(tmp_path: Path) -> None:
    for name, text in {
        "a": "x: 1\ny: 1\nz: 1",
        "b": "extends: a.yaml\ny: 2\nz: 2",
        "c": "extends: b.yaml\nz: 3",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    assert read_config(tmp_path / "c.yaml") == {"x": 1, "y": 2, "z": 3}
    (tmp_path / "a.yaml").write_text("extends: c.yaml")
    with pytest.raises(ValueError, match=r"a\.yaml extends .*c\.yaml, which extends it"):
        read_config(tmp_path / "c.yaml")
    (tmp_path / "a.yaml").write_text("extends: d.yaml")
    with pytest.raises(ValueError, match=r"a\.yaml extends .*d\.yaml, which is no file"):
        read_config(tmp_path / "c.yaml")


def test_a_single_value_stands_for_a_list_of_one(tmp_path: Path) -> None:
    from sgpo.configuration import parse
    from sgpo.training.arguments import TrainArguments
    from sgpo.training.config import SGPOConfig

    file = tmp_path / "one.yaml"
    file.write_text("model: m\nproblems: p\noutput_dir: o\nrewards: f.py:g\nreward_weights: 0.5\ncorrectness: g\n")
    data, args = parse("train", (TrainArguments, SGPOConfig), ["--config", str(file), "--use_cpu", "true"])
    assert (data.rewards, data.reward_weights, args.correctness) == (["f.py:g"], [0.5], ["g"])


def test_import_needs_neither_torch_nor_transformers() -> None:
    code = "import sys, sgpo, sgpo.cli; print(sorted({'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_public_names() -> None:
    assert set(sgpo.__all__) <= set(dir(sgpo))
    for name in sgpo.__all__:
        assert getattr(sgpo, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'sgpo' has no attribute 'nothing'"):
        sgpo.nothing  # noqa: B018


def test_warm_up_needs_no_device_options(tmp_path: Path) -> None:
    from sgpo.configuration import parse
    from sgpo.training.arguments import DataArguments
    from sgpo.training.sft import WarmupConfig

    _, args = parse(
        "sft", (DataArguments, WarmupConfig), ["--model", "m", "--problems", "p", "--output_dir", str(tmp_path)]
    )
    assert args.bf16 is torch.cuda.is_available()
