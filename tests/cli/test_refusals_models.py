"""Models and tokenizers that are refused at the start.

The table of docs/errors.md lists the same.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from refusal_cases import Refuse, checkpoint_in
from transformers import AutoConfig, AutoTokenizer


@pytest.mark.parametrize("command", ["train", "sft", "eval"])
def test_models_that_are_not_there(refuse: Refuse, folder: Path, checkpoint: Path, command: str) -> None:
    (folder / "runs" / "bare").mkdir(parents=True)
    shutil.copy(checkpoint / "config.json", folder / "runs" / "config.json")
    cases = {
        "runs/nothing": f"there is no folder runs/nothing to take the model from (looked in {folder})",
        "./nothing": f"there is no folder ./nothing to take the model from (looked in {folder})",
        "runs/bare": "model runs/bare has no config.json, so it is no checkpoint that transformers can load",
        "runs": "model runs has no tokenizer; copy there the tokenizer's files of the model that it was made from",
        "problems.jsonl": "model problems.jsonl is a file; write the folder that holds it, or a model's name on "
        "the Hub",
    }
    for model, message in cases.items():
        assert refuse(command, model=model) == message
    checkpoint_in(folder / "runs" / "bare", 4)
    assert refuse(command, model="runs/bare").endswith("; its newest checkpoint is runs/bare/checkpoint-4")


def test_a_model_that_the_hub_has_not(refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(name: str) -> None:
        raise OSError(f"{name} is not a valid model identifier\nIf this is a private repository ...")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # whatever the environment says
    monkeypatch.setattr("sgpo.hub.out_of_reach", lambda address: None)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", not_found)
    assert refuse("train", model="someone/nothing") == (
        "the model 'someone/nothing' is no folder here, and cannot be read from the Hub: someone/nothing is not "
        "a valid "
        "model identifier"
    )


@pytest.mark.parametrize("command", ["train", "sft", "eval"])
def test_tokenizers_are_refused(refuse: Refuse, folder: Path, checkpoint: Path, command: str) -> None:
    def changed(name: str, **attributes: Any) -> str:
        shutil.copytree(checkpoint, folder / name)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        for attribute, value in attributes.items():
            setattr(tokenizer, attribute, value)
        (folder / name / "chat_template.jinja").unlink()
        tokenizer.save_pretrained(folder / name)
        return name

    assert refuse(command, model=changed("template", chat_template=None)) == (
        "the tokenizer has no chat template; train an instruction-tuned checkpoint, or put a "
        "chat_template.jinja beside the model"
    )
    assert refuse(command, model=changed("pad", pad_token=None)) == (
        "the tokenizer has no pad token; set pad_token to a token that no text contains, such as '<|pad|>'"
    )
    small = folder / changed("vocabulary")
    config = AutoConfig.from_pretrained(small)
    rows, config.vocab_size = config.vocab_size, 300
    config.save_pretrained(small)
    assert refuse(command, model=small) == (
        f"the tokenizer has token ids up to {rows - 1}, the model's embedding only 300 rows; take the model's own "
        "tokenizer, or enlarge the model with model.resize_token_embeddings"
    )


def test_a_pad_token_can_be_given(refuse: Refuse, folder: Path, checkpoint: Path) -> None:
    """The next refusal comes: that of the tokenizer is over."""
    shutil.copytree(checkpoint, folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder / "model")
    changes = ["--pad_token", "<|end|>", "--problems_per_rollout", "10"]
    assert refuse("train", *changes, model="model").startswith("8 problems do not fill a rollout batch")
