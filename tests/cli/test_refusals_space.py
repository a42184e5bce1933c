"""Too little room on the device: noticed before a run, and said when it comes during one.

The table of docs/errors.md lists the same.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from refusal_cases import PROBLEMS, Refuse, checkpoint_in
from transformers import AutoConfig, AutoModelForCausalLM

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.errors import NoSpaceError
from sgpo.runs.folder import explained_lack_of_space


@pytest.mark.parametrize(
    ("command", "changes", "checkpoints"),
    [
        ("train", ["--save_strategy", "no"], 1),  # that of Ctrl-C
        ("train", ["--save_steps", "2", "--max_steps", "14"], 7),
        ("train", ["--save_steps", "2", "--max_steps", "14", "--save_total_limit", "1"], 2),
        ("train", ["--save_strategy", "epoch", "--max_steps", "-1", "--num_train_epochs", "3"], 3),
        ("train", ["--save_steps", "2", "--max_steps", "14", "--save_only_model", "true"], 7),
        ("sft", ["--num_train_epochs", "5"], 2),
        ("sft", ["--num_train_epochs", "5", "--save_total_limit", "9"], 5),
    ],
)
def test_no_space_is_noticed_beforehand(
    refuse: Refuse,
    checkpoint: Path,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    changes: list[str],
    checkpoints: int,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 1_500_000))  # type: ignore[attr-defined]
    from sgpo.models.checkpoint import count_parameters

    parameters = count_parameters(AutoConfig.from_pretrained(checkpoint))
    each, final = (4 if "--save_only_model" in changes else 12) * parameters, 4 * parameters
    assert refuse(command, *changes) == (
        f"no space left for output_dir run: {checkpoints} x {each / 1e6:.1f} MB of checkpoints and the final "
        f"weights need "
        f"about {(checkpoints * each + final) / 1e6:.1f} MB, 1.5 MB are free; lower save_total_limit, save less "
        f"often, or "
        "write an output_dir on another device"
    )


def test_parameters_are_counted_without_weights(checkpoint: Path) -> None:
    from sgpo.models.checkpoint import count_parameters

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    assert count_parameters(model.config) == model.num_parameters()


def test_a_device_that_runs_full_says_so(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    checkpoint_in(tmp_path, 4)
    checkpoint_in(tmp_path, 6, complete=False)
    causes: list[Exception] = [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/0"),
    ]
    for cause in causes:
        with pytest.raises(NoSpaceError) as caught, explained_lack_of_space(tmp_path):
            raise cause
        assert caught.value.strerror == (
            f"no space left on the device while writing to {tmp_path}; free some and go on from checkpoint-4 with "
            f"--resume"
        )
        assert caught.value.__cause__ is cause
    with pytest.raises(RuntimeError, match="another"), explained_lack_of_space(tmp_path):
        raise RuntimeError("another")


def test_a_device_that_runs_full_while_saving(
    checkpoint: Path, make_config: Callable[..., SGPOConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = SGPOTrainer(str(checkpoint), make_config(save_strategy="steps", save_steps=2), train_dataset=PROBLEMS)

    def full(*arguments: Any, **keywords: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trainer.model, "save_pretrained", full)
    with pytest.raises(NoSpaceError, match="free some and start again: no checkpoint is complete"):
        trainer.train()
