"""What is refused of DeepSpeed before it is imported or a weight loaded; test_sharded_training.py trains with it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sgpo.configuration import RECIPES
from sgpo.layouts import refusals_of_deepspeed
from sgpo.training.config import SGPOConfig
from sgpo.training.sft import WarmupConfig

ZERO_3 = {"zero_optimization": {"stage": 3}, "gradient_clipping": "auto", "gradient_accumulation_steps": "auto"}


class Asked:
    """Of `TrainingArguments`, what the refusals look at."""

    def __init__(self, **changes: Any) -> None:
        self.deepspeed: Any = ZERO_3
        self.fsdp, self.skip_grad_norm, self.max_grad_norm, self.gradient_accumulation_steps = [], None, 1.0, 1
        self.__dict__.update(changes)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ZERO_3.items() if key != name}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skip_grad_norm": 3.0}, "skip_grad_norm has no effect with deepspeed"),
        ({"fsdp": ["full_shard"]}, "fsdp and deepspeed both divide the model"),
        ({"deepspeed": {**ZERO_3, "zero_optimization": {"stage": 2}}}, "deepspeed: ZeRO stage 2 is not supported"),
        ({"deepspeed": without("zero_optimization")}, "deepspeed: ZeRO stage 0 is not supported"),
        ({"deepspeed": without("gradient_clipping")}, "deepspeed: write gradient_clipping: auto"),
        (
            {"deepspeed": without("gradient_accumulation_steps"), "gradient_accumulation_steps": 2},
            "deepspeed: write gradient_accumulation_steps: auto",
        ),
        ({"deepspeed": "nowhere.json"}, "deepspeed: its configuration cannot be read"),
        ({"deepspeed": "{stage: 3}"}, "deepspeed: its configuration cannot be read"),
    ],
)
def test_each_has_one_message(changes: dict[str, Any], message: str, installed: None) -> None:
    (said,) = refusals_of_deepspeed(Asked(**changes))
    assert said.startswith(message)


def test_what_is_not_refused(installed: None, tmp_path: Path) -> None:
    file = tmp_path / "zero3.json"
    file.write_text(json.dumps(ZERO_3))
    unclipped = {"deepspeed": without("gradient_clipping"), "max_grad_norm": 0.0}
    single = {"deepspeed": without("gradient_accumulation_steps")}
    for changes in ({}, {"deepspeed": str(file)}, {"deepspeed": json.dumps(ZERO_3)}, unclipped, single):
        assert [*refusals_of_deepspeed(Asked(**changes))] == []


def test_of_a_launcher(installed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = Asked(deepspeed=None)
    assert [*refusals_of_deepspeed(asked)] == []
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    (said,) = refusals_of_deepspeed(asked)
    assert said.startswith("deepspeed: ZeRO stage 2")  # accelerate's default
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    assert [*refusals_of_deepspeed(asked)] == []
    file = tmp_path / "zero3.json"
    file.write_text(json.dumps(without("gradient_clipping")))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    (said,) = refusals_of_deepspeed(asked)
    assert said.startswith("deepspeed: write gradient_clipping: auto")


def test_the_launch_file_asks_for_what_is_supported(installed: None) -> None:
    text = (RECIPES / "launch" / "zero3.sh").read_text()
    configuration = text.partition("--deepspeed '")[2].partition("'")[0]
    assert [*refusals_of_deepspeed(Asked(deepspeed=configuration, gradient_accumulation_steps=8))] == []


def test_both_commands_refuse(
    make_config: Callable[..., SGPOConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else find(name))
    message = r"deepspeed: it is not installed; pip install 'sgpo\[deepspeed\]', or divide the model with fsdp"
    with pytest.raises(ValueError, match=message):
        make_config(deepspeed=ZERO_3)
    with pytest.raises(ValueError, match=message):
        WarmupConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", deepspeed=ZERO_3)
