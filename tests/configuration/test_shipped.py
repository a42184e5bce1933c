"""`sgpo recipes` lists every recipe with the command that takes it, and copies those that are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from sgpo.cli import COMMANDS, main
from sgpo.configuration import RECIPES, files_of_config, read_config
from sgpo.configuration.shipped import first_sentence, shipped_recipes
from sgpo.options.groups import Options, load, options_for


def options_of(command: str) -> Options:
    entry = COMMANDS[command]
    if entry.options:
        return load(f"sgpo.options.groups:{entry.options}")
    return options_for(command, load(f"sgpo.cli.{entry.place}"))


def test_every_recipe_has_keys_of_its_command() -> None:
    found = [recipe for recipe in shipped_recipes() if recipe.command.endswith("--config")]
    assert len(found) > 60
    for recipe in found:
        command = recipe.command.removeprefix("sgpo ").removesuffix(" --config")
        options_of(command).check_keys(read_config(RECIPES / f"{recipe.name}.yaml"), recipe.name)


def test_the_list_names_command_and_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert "  sgpo strategies extract --config paper/strategies\n" in shown
    assert "  sgpo compare --recipe miniworld/compare\n      Methods on the mini-world: sgpo compare" in shown
    assert "  sgpo sft --config gsm8k/smollm2-sft\n" in shown
    assert main(["recipes", "--folder", "own"]) == 0
    own = capsys.readouterr().out
    assert own.splitlines()[:3] == [
        "own",
        "  sgpo train --config own/cpu",
        "      A first run on a CPU, with your problems and a small chat model.",
    ]
    assert "gsm8k" not in own


def test_the_first_sentence_may_go_over_lines() -> None:
    assert first_sentence("# One GPU of 24 GB\n# or more. Halve it.\n\n# Not this.\nkey: 1\n") == (
        "One GPU of 24 GB or more."
    )
    assert first_sentence("#!/usr/bin/env bash\n# Eight GPUs.\nset -e\n") == "Eight GPUs."


def test_a_copy_is_complete_and_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recipes", "copy", "llama-3.1-8b", "own/cpu", "--output", "mine"]) == 0
    written = {path.relative_to("mine").as_posix() for path in Path("mine").rglob("*") if path.is_file()}
    assert written == {
        *(f"llama-3.1-8b/{stage}.yaml" for stage in ("prepare", "sft", "sgpo", "grpo", "luffy", "hpt", "eval")),
        *(f"paper/{stage}.yaml" for stage in ("prepare", "sft", "rl", "sgpo", "grpo", "luffy", "hpt", "eval")),
        "own/cpu.yaml",
    }
    assert len(capsys.readouterr().out.splitlines()) == len(written)
    for path in written:
        assert read_config(Path("mine") / path) == read_config(RECIPES / path)
        assert all(not file.is_absolute() for file in files_of_config(Path("mine") / path))  # of the package none
    assert main(["recipes", "copy", "own", "--output", "mine"]) == 2
    assert "mine/own/cpu.yaml is there already" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "meant"), [("qwen2.5-7", "qwen2.5-7b"), ("own/cpus", "own/cpu")])
def test_a_name_that_there_is_not(name: str, meant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "copy", name, "--output", str(tmp_path)]) == 2
    assert f"there is no recipe {name} (did you mean {meant}?); the folders are gsm8k, " in capsys.readouterr().err
    assert main(["recipes", "--folder", "owm"]) == 2
    assert "there is no folder owm; the folders are gsm8k" in capsys.readouterr().err
