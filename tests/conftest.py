from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from sgpo.miniworld.pretrain import build_model, save_base_model
from sgpo.miniworld.tokenizer import build_tokenizer
from sgpo.sampling.records import Rollout, SampleRequest, SamplingConfig
from sgpo.training.config import SGPOConfig

# A shell that starts the tests in the background has SIGINT ignored; the tests of Ctrl-C need it, here and in children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The assertions of these show their values, as those of the tests do.
pytest.register_assert_rewrite("extraction_cases", "family_checks", "trainer_setup")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 checkpoint with random weights, large enough that a prompt changes the distributions noticeably."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    tokenizer = build_tokenizer(documents=100)
    model = build_model(tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6.0)
    save_base_model(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint)


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., SGPOConfig]:
    """A configuration of small groups for tests; keywords change it."""

    def make(**changes: Any) -> SGPOConfig:
        values: dict[str, Any] = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "num_autonomous": 3,
            "num_guided": 2,
            "problems_per_rollout": 4,
            "updates_per_rollout": 2,
            "max_completion_length": 12,
            "max_steps": 2,
            **changes,
        }
        return SGPOConfig(**values)

    return make


@dataclass
class ScriptedSampler:
    """A sampler that answers each prompt with given rollouts, the first `count` of them, and remembers the calls."""

    script: Mapping[tuple[int, ...], Sequence[Rollout]]
    calls: list[tuple[list[SampleRequest], SamplingConfig, int]] = field(default_factory=list)

    def sample(
        self, requests: Sequence[SampleRequest], sampling: SamplingConfig, *, seed: int, watch: Any = None
    ) -> list[list[Rollout]]:
        self.calls.append((list(requests), sampling, seed))
        for request in requests:
            assert len(self.script[tuple(request.prompt_ids)]) >= request.count
        return [list(self.script[tuple(request.prompt_ids)][: request.count]) for request in requests]


@pytest.fixture(scope="session")
def scripted_sampler() -> type[ScriptedSampler]:
    return ScriptedSampler
