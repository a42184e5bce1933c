"""The recipes of GSM8K are read by their commands, fit together, and the shipped strategies pass the checks of form."""

from __future__ import annotations

import pytest

from sgpo.cli.data import CleanArguments, PartArguments, ReadArguments
from sgpo.configuration import RECIPES, parse, read_config
from sgpo.evaluation.arguments import EvalArguments
from sgpo.preparation.strategies import strategies_from
from sgpo.strategies.record import Limits, parse_strategy, structure_flaw
from sgpo.training.arguments import SFTArguments, TrainArguments
from sgpo.training.config import SGPOConfig
from sgpo.training.sft import WarmupConfig

COMMANDS = {
    "prepare": ("data prepare", (ReadArguments, CleanArguments, PartArguments)),
    "sft": ("sft", (SFTArguments, WarmupConfig)),
    "smollm2-sft": ("sft", (SFTArguments, WarmupConfig)),
    "sgpo": ("train", (TrainArguments, SGPOConfig)),
    "grpo": ("train", (TrainArguments, SGPOConfig)),
    "smollm2-sgpo": ("train", (TrainArguments, SGPOConfig)),
    "eval": ("eval", (EvalArguments,)),
}


def test_there_are_no_others() -> None:
    assert {path.stem for path in (RECIPES / "gsm8k").glob("*.yaml")} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_recipe_is_read(name: str) -> None:
    command, kinds = COMMANDS[name]
    on_cpu = ["--use_cpu", "true", "--bf16", "false"] if command in ("sft", "train") else []
    parse(command, kinds, ["--config", f"gsm8k/{name}", *on_cpu])


def test_they_fit_together() -> None:
    recipes = {name: read_config(RECIPES / "gsm8k" / f"{name}.yaml") for name in COMMANDS}
    output = recipes["prepare"]["output"]
    assert recipes["sft"]["problems"] == f"{output}/sft.jsonl"
    assert recipes["grpo"]["problems"] == recipes["sgpo"]["problems"] == f"{output}/rl.jsonl"
    assert recipes["eval"]["problems"] == recipes["sgpo"]["eval_problems"] == f"{output}/eval.jsonl"
    assert recipes["sgpo"]["model"] == recipes["sft"]["output_dir"]
    assert recipes["smollm2-sgpo"]["model"] == recipes["smollm2-sft"]["output_dir"]
    samples = [recipes[name]["num_autonomous"] + recipes[name].get("num_guided", 0) for name in ("sgpo", "grpo")]
    assert samples == [12, 12]


def test_shipped_strategies_are_in_form() -> None:
    strategies = strategies_from("gsm8k")
    assert len(strategies) == 800
    assert [key for key, text in strategies.items() if structure_flaw(parse_strategy(text), Limits())] == []
