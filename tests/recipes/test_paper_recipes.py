"""The recipes of the paper's models: each begins with a tiny checkpoint of its architecture, and has these numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from model_families import FAMILIES
from places import DOCS

from sgpo.cli import main
from sgpo.cli.data import CleanArguments, PartArguments, ReadArguments
from sgpo.cli.strategies import ExtractArguments, MoneyArguments, ServerArguments, SourceArguments
from sgpo.configuration import RECIPES, parse, read_config, recipes
from sgpo.errors import UnfinishedError
from sgpo.options.groups import SFT, TRAIN, load
from sgpo.problems import Problem, save_problems
from sgpo.sampling.transformers import TransformersSampler
from sgpo.training.sft import WarmupTrainer
from sgpo.training.trainer import SGPOTrainer

FULL = {"qwen2.5-1.5b": "qwen", "qwen2.5-7b": "qwen", "llama-3.1-8b": "llama"}
FOLDERS = FULL | {"qwen2.5-0.5b-lora": "qwen"}
METHODS = ("sgpo", "grpo", "luffy", "hpt")
STAGES = ("prepare", "sft", *METHODS, "eval")
ALL = [(folder, stage) for folder in FOLDERS for stage in STAGES]
PREPARE = (ReadArguments, CleanArguments, PartArguments)
ON_CPU = ["--use_cpu", "true", "--bf16", "false"]

# What a file may say beside the file that it extends.
PLACES = {"sft": {"model", "output_dir"}, "prepare": set(), "eval": {"model", "output"}}
OF_MODEL = {
    ("qwen2.5-1.5b", "hpt"): {"hpt_sft_coefficient": 0.3},
    ("llama-3.1-8b", "hpt"): {"hpt_gate": 0.25},
}
SMALLER = {"num_train_epochs", "learning_rate", "bad_rows"}
OF_LORA = {
    "prepare": set(),
    "sft": SMALLER | {"use_peft", "lora_r", "lora_alpha", "lora_target_modules", "max_length"},
    "eval": {"max_completion_length"},
    **dict.fromkeys(METHODS, SMALLER | {"problems_per_rollout", "max_completion_length", "max_tokens_per_microbatch"}),
}


def values_of(folder: str, stage: str) -> dict[str, Any]:
    return read_config(RECIPES / folder / f"{stage}.yaml")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {name: tmp_path_factory.mktemp("families") / name for name in FAMILIES}
    for name, folder in found.items():
        FAMILIES[name].save(folder)
    return found


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "problems.jsonl"
    rows = [
        Problem(f"p{n}", f"{n}+1", str(n + 1), f"It is \\boxed{{{n + 1}}}.", f"Steps: (a) add {n}") for n in range(130)
    ]
    save_problems(rows, path)
    return path


def stopping(*_: Any, **__: Any) -> None:
    raise UnfinishedError("the first step")


# --- they begin ---------------------------------------------------------------------------------------------


Begin = Callable[..., tuple[str, str]]


@pytest.fixture
def begin(
    checkpoints: dict[str, Path],
    problems: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Begin:
    """Runs a recipe on a tiny model up to a method of a class, which ends it; returns what was printed."""

    def run(recipe: str, at: tuple[type, str], command: str, names: tuple[str, str], *options: str) -> tuple[str, str]:
        monkeypatch.setattr(*at, stopping)
        model = checkpoints[FOLDERS[recipe.partition("/")[0]]]
        given = ["--model", str(model), names[0], str(problems), names[1], str(tmp_path)]
        assert main([command, "--config", recipe, *given, *options]) == 1
        return capsys.readouterr()

    return run


OF_TRAINING = ("--problems", "--output_dir")


@pytest.mark.parametrize(("folder", "method"), [(folder, method) for folder in FOLDERS for method in METHODS])
def test_training_comes_to_its_first_step(folder: str, method: str, begin: Begin) -> None:
    out, error = begin(f"{folder}/{method}", (SGPOTrainer, "training_step"), "train", OF_TRAINING, *ON_CPU)
    assert error == "sgpo train: the first step\n"
    samples = {"sgpo": "8 autonomous + 4 guided", "luffy": "11 autonomous"}.get(method, "12 autonomous")
    assert samples in " ".join(out.split())


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_warm_up_comes_to_its_first_step(folder: str, begin: Begin) -> None:
    _, error = begin(f"{folder}/sft", (WarmupTrainer, "training_step"), "sft", OF_TRAINING, *ON_CPU)
    assert "sgpo sft: the first step\n" in error


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_evaluation_comes_to_its_first_sample(folder: str, begin: Begin) -> None:
    names = ("--benchmarks", "--output")
    at = (TransformersSampler, "sample")
    _, error = begin(f"{folder}/eval", at, "eval", names, "--sampler", "transformers")
    assert error.endswith("sgpo eval: the first step\n")


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_data_are_prepared_alike(folder: str) -> None:
    read, clean, parts = parse("data prepare", PREPARE, ["--config", f"{folder}/prepare"])
    assert (read.source, str(read.output)) == (["Elliott/Openr1-Math-46k-8192"], "data/openr1")
    assert clean.benchmarks == values_of(folder, "eval")["benchmarks"] == ["math500", "amc23", "olympiad", "aime24"]
    assert (parts.sft_size, parts.rl_size, parts.sft_size + parts.rl_size) == (2833, 5667, 8500)


def test_the_strategies_are_extracted_from_the_rl_problems() -> None:
    kinds = (SourceArguments, ServerArguments, MoneyArguments, ExtractArguments)
    source, _, _, options = parse(
        "strategies extract",
        kinds,
        ["--config", "paper/strategies", "--base_url", "http://localhost/v1", "--model", "m"],
    )
    assert source.problems == f"{values_of('paper', 'prepare')['output']}/rl.jsonl"
    assert [str(path) for path in options.output] == [values_of("paper", "rl")["problems"]]
    assert options.candidates == 5


# --- they refuse --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "stage"), ALL)
def test_a_key_that_does_not_exist_is_refused(
    folder: str, stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: {RECIPES / folder / f'{stage}.yaml'}\nsead: 1\n")
    command = {"prepare": ["data", "prepare"], "sft": ["sft"], "eval": ["eval"]}.get(stage, ["train"])
    assert main([*command, "--config", str(path)]) == 2
    assert f"unknown in {path}: sead (did you mean seed?)" in capsys.readouterr().err


# --- they say what the paper says, and fit together ---------------------------------------------------------


@pytest.mark.parametrize("folder", FULL)
def test_the_numbers_are_the_papers(folder: str, tmp_path: Path) -> None:
    sft = {key: values_of(folder, "sft")[key] for key in ("learning_rate", "warmup_steps", "lr_scheduler_type")}
    assert sft == {"learning_rate": 1e-5, "warmup_steps": 0.1, "lr_scheduler_type": "cosine"}
    argv = ["--config", f"{folder}/sft", *ON_CPU, "--output_dir", str(tmp_path)]
    _, warmup = parse("sft", [load(place) for place in SFT.parsed], argv)
    assert warmup.per_device_train_batch_size * warmup.gradient_accumulation_steps == 64
    assert (warmup.num_train_epochs, warmup.max_length, warmup.validation_share) == (10, 16_384, 0.1)
    for method in METHODS:
        given = values_of(folder, method)
        assert given["learning_rate"] == (5e-6 if method == "hpt" else 1e-6)
        expected = {
            "lr_scheduler_type": "constant",
            "num_autonomous": 8,
            "num_guided": 4,
            "problems_per_rollout": 128,
            "updates_per_rollout": 2,
            "num_train_epochs": 10,
            "max_completion_length": 16_384,
            "temperature": 1.0,
            "top_p": 0.95,
        }
        assert {key: given[key] for key in expected} == expected
    sgpo = values_of(folder, "sgpo")
    assert [sgpo[key] for key in ("eps_low", "eps_high", "delta")] == [0.2, 0.28, 1.0]
    assert [sgpo[key] for key in ("alpha_scale", "alpha_smoothing", "alpha_max")] == [0.5, 0.1, 0.8]
    hpt = values_of(folder, "hpt")
    assert (hpt["hpt_gate"], hpt["hpt_sft_coefficient"]) == {
        "qwen2.5-1.5b": (0.0, 0.3),
        "qwen2.5-7b": (0.0, 1.0),
        "llama-3.1-8b": (0.25, 1.0),
    }[folder]
    assert (hpt["skip_grad_norm"], hpt["entropy_coefficient"]) == (80.0, 0.001)
    evaluation = values_of(folder, "eval")
    assert [evaluation[key] for key in ("temperature", "top_p", "max_completion_length")] == [0.6, 0.95, 32_768]


@pytest.mark.parametrize(("folder", "stage"), ALL)
def test_a_file_says_only_what_is_the_models_own(folder: str, stage: str) -> None:
    own = yaml.safe_load((RECIPES / folder / f"{stage}.yaml").read_text())
    assert own.pop("extends") == f"../paper/{stage}.yaml"
    expected = PLACES.get(stage, {"model", "output_dir"}) | set(OF_MODEL.get((folder, stage), {}))
    if FOLDERS[folder] == "llama" and stage != "prepare":
        expected |= {"pad_token"}
    if folder == "qwen2.5-0.5b-lora":
        expected |= OF_LORA[stage]
    assert set(own) == expected
    assert {key: own[key] for key in OF_MODEL.get((folder, stage), {})} == OF_MODEL.get((folder, stage), {})


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_stages_of_a_folder_fit_together(folder: str) -> None:
    assert {path.stem for path in (RECIPES / folder).glob("*.yaml")} == set(STAGES)
    for method in METHODS:
        assert values_of(folder, method)["model"] == values_of(folder, "sft")["output_dir"] == f"runs/{folder}/sft"
        assert values_of(folder, method)["output_dir"] == f"runs/{folder}/{method}"
    assert values_of(folder, "eval")["model"] == values_of(folder, "sgpo")["output_dir"]
    assert values_of(folder, "sft")["problems"] == f"{values_of(folder, 'prepare')['output']}/sft.jsonl"


def test_each_recipe_begins_with_what_it_is() -> None:
    for path in sorted(RECIPES.rglob("*.yaml")):
        assert path.read_text().startswith("# "), path


def test_the_page_names_recipes_and_options_that_exist(tmp_path: Path) -> None:
    page = (DOCS / "reproduce.md").read_text()
    names = re.findall(r"--config ([\w./-]+)", page)
    assert len(names) >= 3
    assert set(names) <= set(recipes())
    variants = re.findall(r"^\|[^|]*\| `(--[^`]+)` \|", page, re.MULTILINE)
    assert len(variants) == 8
    for options in variants:
        given = ["--config", "qwen2.5-7b/sgpo", *options.split(), *ON_CPU, "--output_dir", str(tmp_path)]
        parse("train", [load(place) for place in TRAIN.parsed], given)
