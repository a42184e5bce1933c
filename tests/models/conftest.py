"""A base model, an adapter of it, an adapter of that, and a trainer of adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_cases import PROBLEMS, Make, parity, save_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo import SGPOConfig, SGPOTrainer


@pytest.fixture(scope="module")
def base(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint; every fourth token ends a completion, or random weights would hardly ever end one."""
    folder = tmp_path_factory.mktemp("models") / "base"
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model.generation_config.eos_token_id = list(range(1, model.config.vocab_size, 4))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return save_adapter(base, base.parent / "adapter")


@pytest.fixture(scope="module")
def adapter_of_adapter(adapter: Path) -> Path:
    return save_adapter(adapter, adapter.parent / "second", seed=1, r=2)


@pytest.fixture
def make_trainer(make_config: Callable[..., SGPOConfig], base: Path, tmp_path: Path) -> Make:
    def make(model: Any = None, peft_config: Any = None, folder: str = "run", **changes: Any) -> SGPOTrainer:
        values = {"max_completion_length": 9, "learning_rate": 1e-6, "delta": 20.0, **changes}
        config = make_config(output_dir=str(tmp_path / folder), **values)
        return SGPOTrainer(model or str(base), config, PROBLEMS, reward_funcs=parity, peft_config=peft_config)

    return make
