"""What is plainly wrong, and help, are answered before torch, transformers, trl or datasets are imported."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sgpo.configuration.source_fields import init_fields
from sgpo.options.groups import EVAL, SFT, TRAIN, Options, check_beforehand
from sgpo.options.help import help_parser
from sgpo.problems import Problem, save_problems

PROBLEMS = [Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), "\\boxed{0}", "Add.") for n in range(4)]
RUN = """
import sys
from sgpo.cli import main
status = main(sys.argv[1:])
heavy = sorted({"torch", "transformers", "trl", "datasets"} & set(sys.modules))
print("\\nstatus", status, "imported", heavy)
"""


def run(folder: Path, *arguments: str) -> tuple[str, str]:
    """What a command in a process of its own writes to its output and to its error output."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=300
    )
    return done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Problems, configurations with a typo, and two evaluations."""
    save_problems(PROBLEMS, tmp_path / "problems.jsonl")
    (tmp_path / "typo.yaml").write_text("model: m\nproblems: problems.jsonl\nlimitt: 3\n")
    (tmp_path / "good.yaml").write_text("limit: 3\n")
    (tmp_path / "sft.yaml").write_text("learning_rate: 1e-5\n")
    (tmp_path / "lost.yaml").write_text("extends: nowhere.yaml\n")
    recipe = {
        "sft": "sft.yaml",
        "methods": ["good"],
        "baseline": "good",
        "sft_problems": "problems.jsonl",
        "problems": "problems.jsonl",
        "sets": {"own": "problems.jsonl"},
        "base_models": ["organisation/base"],
    }
    for name, changes in {
        "compare": {"metods": []},
        "compare-method": {"methods": ["good", "typo"]},
        "compare-sft": {"sft": "typo.yaml"},
        "compare-options": {"options": {"save_step": 2}},
        "compare-evaluation": {"evaluation": {"tempature": 1}},
        "compare-file": {"problems": "lost.jsonl"},
        "compare-set": {"sets": {"own": "math50"}},
        "compare-base": {"base_models": ["./lost"]},
    }.items():
        (tmp_path / f"{name}.yaml").write_text(json.dumps({**recipe, **changes}))
    for name, rates in {"a": [0, 0, 1, 1], "b": [1, 0, 1, 1]}.items():
        _evaluation(tmp_path / name, rates)
    return tmp_path


def _evaluation(folder: Path, rewards: list[int]) -> None:
    (folder / "samples").mkdir(parents=True)
    benchmark = {"fingerprint": "f", "problems": 4, "k": 1, "max_completion_length": 8}
    summary = {"engine": {"model": "m"}, "prompt": {}, "sampling": {}, "versions": {}, "benchmarks": {"own": benchmark}}
    (folder / "summary.json").write_text(json.dumps(summary))
    columns = {
        "id": pa.array([p.id for p in PROBLEMS]),
        "prompt": pa.array([p.prompt for p in PROBLEMS]),
        "reward": pa.array(map(float, rewards)),
        "correct": pa.array(map(bool, rewards)),
    }
    pq.write_table(pa.table(columns), folder / "samples" / "own.parquet")


# --- what is imported ---------------------------------------------------------------------------------------

TRAINING = ["--model", "m", "--problems", "problems.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", *TRAINING, "--learning_rat", "1"], "--learning_rat (did you mean --learning_rate?)"),
        (["train", "--config", "typo.yaml"], "unknown in typo.yaml: limitt (did you mean limit?)"),
        (["train", "--config", "lost.yaml"], "lost.yaml extends nowhere.yaml, which is no file"),
        (["train", "--config", "miniworld/spgo"], "no recipe of that name (did you mean miniworld/sgpo?)"),
        (["train", "--config", "compare.yaml"], "says what sgpo compare runs, not sgpo train"),
        (["train", "--model", "m", "--problems", "problem.jsonl"], "there is no file problem.jsonl with problems"),
        (["train", *TRAINING, "--eval_problems", "dev.jsonl"], "there is no file dev.jsonl with problems"),
        (["train", "--model", "./lost", "--problems", "problems.jsonl"], "there is no folder ./lost to take the model"),
        (["train", "--model", "m"], "--problems must be given, here or as a key of the file that --config names"),
        (["sft", *TRAINING, "--max-lenght=9"], "--max-lenght (did you mean --max-length?)"),
        (["sft", "--config", "typo.yaml"], "unknown in typo.yaml: limitt (did you mean limit?)"),
        (["sft", "--model", "m", "--problems", "problem.jsonl"], "there is no file problem.jsonl with problems"),
        (["eval", *TRAINING, "--temprature", "1"], "--temprature (did you mean --temperature?)"),
        (["eval", "--config", "typo.yaml"], "unknown in typo.yaml: limitt (did you mean limit?)"),
        (["eval", "--model", "m", "--problems", "problem.jsonl"], "there is no file problem.jsonl with problems"),
        (["eval", "--model", "m", "--benchmarks", "aime24,math50"], "there is no benchmark 'math50'"),
        (["eval", "--model", "./lost", "--benchmarks", "math500"], "there is no folder ./lost to take the model"),
        (["eval", "compare", "a", "lost"], "lost holds no complete evaluation (summary.json)"),
        (["compare", "--recipe", "lost.yaml.yaml"], "there is no file lost.yaml.yaml with a recipe"),
        (["compare", "--recipe", "compare.yaml"], "unknown in compare.yaml: metods (did you mean methods?)"),
        (["compare", "--recipe", "compare-method.yaml"], "unknown in typo.yaml: limitt (did you mean limit?)"),
        (["compare", "--recipe", "compare-sft.yaml"], "unknown in typo.yaml: limitt (did you mean limit?)"),
        (["compare", "--recipe", "compare-options.yaml"], "unknown in options of compare-options.yaml: save_step "),
        (["compare", "--recipe", "compare-evaluation.yaml"], "tempature (did you mean temperature?)"),
        (["compare", "--recipe", "compare-file.yaml"], "there is no file lost.jsonl with problems"),
        (["compare", "--recipe", "compare-set.yaml"], "there is no benchmark 'math50'"),
        (["compare", "--recipe", "compare-base.yaml"], "there is no folder ./lost to take the model"),
        (["export", "--model", "./lost", "--output", "new"], "there is no folder ./lost to take the model"),
        (["export", "--model", "m", "--output", "new", "--dtyp=x"], "--dtyp (did you mean --dtype?)"),
        (["plot", "a", "--metods", "x"], "--metods (did you mean --methods?)"),
        (["plot", "lost"], "lost is no folder of a training run: it has no metrics.jsonl"),
    ],
    ids=lambda value: "-".join(value[:3]) if isinstance(value, list) else "",
)
def test_a_typo_is_refused_before_heavy_imports(folder: Path, arguments: list[str], message: str) -> None:
    seeds = ["--seeds", "1"] if arguments[0] == "compare" else []
    out, error = run(folder, *arguments, *seeds)
    assert message in error
    assert error.splitlines()[-1].startswith(f"sgpo {arguments[0]}: ")
    assert out.strip() == "status 2 imported []"


def test_two_evaluations_are_compared_without_heavy_imports(folder: Path) -> None:
    out, error = run(folder, "eval", "compare", "a", "b")
    assert error == ""
    assert "own, gained (1)" in out
    assert out.strip().endswith("status 0 imported []")


HELP = {
    "": "sgpo COMMAND",
    "quickstart": "--fast",
    "miniworld create": "--base",
    "miniworld pretrain": "--steps",
    "strategies extract": "--candidates",
    "strategies solve": "--attempts",
    "strategies quality": "--plot",
    "strategies show": "--rows",
    "teacher serve": "--port",
    "sft": "--validation_share",
    "train": "--alpha_max",
    "eval": "--benchmarks",
    "eval compare": "--flipped",
    "compare": "--recipe",
    "export": "--dtype",
    "plot": "--baseline",
}


@pytest.mark.parametrize("command", HELP)
def test_help_is_shown_without_heavy_imports(tmp_path: Path, command: str) -> None:
    out, error = run(tmp_path, *command.split(), "--help")
    assert error == ""
    assert f"usage: sgpo {command}".rstrip() in out
    assert HELP[command] in out
    assert out.strip().endswith("status 0 imported []")


# --- which keys are known -----------------------------------------------------------------------------------


def _init_names(*kinds: Any) -> set[str]:
    return {each.name for kind in kinds for each in dataclasses.fields(kind) if each.init}


def test_known_are_exactly_the_keys_that_the_classes_take() -> None:
    """If this fails: a field stands in none of the dataclasses that `sgpo.options.groups` lists for the command."""
    from sgpo.evaluation.arguments import EvalArguments
    from sgpo.training.arguments import SFTArguments, TrainArguments
    from sgpo.training.config import SGPOConfig
    from sgpo.training.sft import WarmupConfig

    assert TRAIN.known() == _init_names(TrainArguments, SGPOConfig) - {"method_options"}  # which only Python has
    assert SFT.known() == _init_names(SFTArguments, WarmupConfig)
    assert EVAL.known() == _init_names(EvalArguments)


def test_fields_are_read_from_source_as_from_the_class() -> None:
    import transformers
    import trl

    assert init_fields("transformers", "TrainingArguments") == _init_names(transformers.TrainingArguments)
    assert init_fields("trl", "SFTConfig") == _init_names(trl.SFTConfig)


def test_a_source_that_cannot_be_followed_is_left_to_the_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "written_otherwise"
    package.mkdir()
    source = """
        import dataclasses
        from dataclasses import dataclass, field
        from typing import ClassVar
        from .parents import Parent as Known

        @dataclass
        class Followed(Known):
            own: int
            shared: ClassVar[int] = 1
            hidden: int = field(init=False, default=2)

        @dataclass
        class Made(dataclasses.make_dataclass("X", ["x"])):
            own: int = 0
    """
    (package / "__init__.py").write_text(textwrap.dedent(source))
    (package / "parents.py").write_text("class Parent:\n    inherited: int = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert init_fields("written_otherwise", "Followed") == {"own", "inherited"}
    assert init_fields("written_otherwise", "Made") is None
    assert init_fields("written_otherwise", "Nothing") is None
    assert init_fields("not_installed_at_all", "Nothing") is None
    assert "written_otherwise" not in sys.modules
    # What cannot be known is not refused.
    unknown = Options("train", {}, lambda values: iter(()), other=("written_otherwise", "Made"))
    check_beforehand(unknown, ["--anything", "1"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--learning-rate", "1e-4", "--no_train_autonomous", "--no-train-autonomous", "--overwrite"],
        ["--problems=lost.jsonl", "--problems", "organisation/data"],  # the last one counts
        ["--eval_problems", "organisation/data", "--eval-problems=other/data"],
        ["--config", "miniworld/sgpo", "--model", "m", "--problems", "organisation/data", "--eval_problems", "o/d"],
    ],
)
def test_what_may_be_right_is_not_refused(arguments: list[str]) -> None:
    check_beforehand(TRAIN, ["--model", "organisation/model", "--problems", "organisation/data", *arguments])


def test_a_server_s_model_is_no_folder(tmp_path: Path) -> None:
    data = save_problems(PROBLEMS, tmp_path / "p.jsonl") or str(tmp_path / "p.jsonl")
    check_beforehand(EVAL, ["--model", "./any", "--problems", data, "--sampler", "http"])
    with pytest.raises(ValueError, match=r"there is no folder \./any"):
        check_beforehand(EVAL, ["--model", "./any", "--problems", data])


# --- help ---------------------------------------------------------------------------------------------------


def _options_in(text: str) -> list[str]:
    return re.findall(r"^  --(\w+)", text, re.MULTILINE)


@pytest.mark.parametrize("options", [TRAIN, SFT], ids=["train", "sft"])
def test_help_shows_our_options_in_groups_and_all_of_them_on_request(options: Options) -> None:
    assert options.other is not None
    known = options.known()
    assert known is not None
    short, full = help_parser(options).format_help(), help_parser(options, full=True).format_help()
    fixed = {each.name for kind in options.fixed for each in dataclasses.fields(kind)}
    ours = {each.name for each in options.own} - fixed
    assert set(_options_in(short)) == ours | set(options.usual)
    assert sorted(_options_in(full)) == sorted(known)  # each once
    assert set(options.usual) <= known - ours
    titles = re.findall(r"^(\w.*):$", short, re.MULTILINE)
    assert titles == [*options.groups, f"of {'.'.join(options.other)}, the usual ones"]
    assert len(short.splitlines()) < 250 < len(full.splitlines())


def test_help_says_what_a_value_looks_like() -> None:
    text = help_parser(TRAIN).format_help()
    lines = {line.split()[0]: " ".join(line.split()) for line in text.splitlines() if line.startswith("  --")}
    assert lines["--delta"].startswith("--delta X Tokens of larger divergence")
    assert lines["--num_guided"].startswith("--num_guided N G2:")
    assert lines["--resume"].startswith("--resume [true|false] Go on")
    assert lines["--padding_free"].startswith("--padding_free true|false Pack rows")
    assert lines["--columns"].startswith("--columns VALUE [VALUE ...] Where a column")
    assert "(default 1.0)" in " ".join(text.split()).partition("--delta")[2].partition("--alpha_scale")[0]


def test_help_may_be_cut_off_by_its_reader(tmp_path: Path) -> None:
    """As by `sgpo train --help | head -1`, and by leaving a pager."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-u", "-m", "sgpo", "train", "--help"],
        cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=300,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
