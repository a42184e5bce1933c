"""Output folders that are refused at the start.

The table of docs/errors.md lists the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from refusal_cases import BAD_ROWS, PROBLEMS, Refuse, checkpoint_in

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.runs.checkpoints import newest_checkpoint


@pytest.mark.parametrize("command", ["train", "sft"])
def test_another_run_is_not_overwritten(refuse: Refuse, folder: Path, checkpoint: Path, command: str) -> None:
    run = folder / "run"
    run.mkdir()
    (run / "config.yaml").write_text("a run that died before its first update has nothing to lose\n")
    assert refuse(command, "--bad_rows", "x").startswith("bad_rows")
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    assert refuse(command) == (
        "output_dir run holds another run (metrics.jsonl); write another output_dir, or overwrite: true to "
        "delete that run"
    )
    checkpoint_in(run, 2)
    assert refuse(command) == (
        "output_dir run holds another run (checkpoint-2); add --resume to go on with it, write another output_dir, or "
        "overwrite: true to delete that run"
    )
    shutil.copytree(checkpoint, run / "checkpoint-2", dirs_exist_ok=True)
    assert refuse(command, "--overwrite", model="run/checkpoint-2") == (
        "the model run/checkpoint-2 lies in output_dir run, which overwrite would delete; write another output_dir"
    )
    assert refuse(command, "--output_dir", "problems.jsonl") == (
        "output_dir problems.jsonl is a file; write a folder's name"
    )


def test_a_checkpoint_that_was_cut_off_is_none(
    refuse: Refuse, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint_in(folder / "run", 4)
    (folder / "run" / "checkpoint-4" / "model.safetensors").write_text("w")
    checkpoint_in(folder / "run", 6, complete=False)
    checkpoint_in(folder / "run" / "unfinished", 8, complete=False)
    assert refuse("train", "--resume") == "there is no checkpoint in run to resume from; leave out --resume"
    checkpoint_in(folder / "run", 2)
    assert newest_checkpoint("run") == Path("run/checkpoint-2")
    assert capsys.readouterr().out.splitlines() == [
        "run/unfinished/checkpoint-8 was cut off while it was written, and is ignored.",
        "run/checkpoint-4 is not complete (model.safetensors has 1 bytes of 7), and is ignored.",
        "run/checkpoint-6 is not complete (checkpoint.json is missing), and is ignored.",
    ]


def test_another_evaluation_is_not_overwritten(refuse: Refuse, folder: Path, checkpoint: Path) -> None:
    (folder / "scores").mkdir()
    (folder / "scores" / "summary.json").write_text("{}")
    assert refuse("eval", "--output", "scores") == (
        "output scores holds another evaluation (summary.json); write another output, or overwrite: true to replace it"
    )


def test_other_data_than_that_of_the_run_are_refused(refuse: Refuse, folder: Path) -> None:
    entry = {"source": "problems.jsonl", "problems": 9, "fingerprint": "0123456789abcdef"}
    checkpoint_in(folder / "run", 2, data={"train": entry, "eval": None})
    from sgpo.problems.inspection import fingerprint

    assert refuse("train", "--resume") == (
        "the train data is not that of run/checkpoint-2: 9 problems with fingerprint 0123456789abcdef then, 8 with "
        f"{fingerprint(PROBLEMS)} now; resume with the old data, or begin a new run in another output_dir"
    )


@pytest.mark.parametrize("command", ["train", "sft"])
def test_another_configuration_than_that_of_the_run_is_refused(refuse: Refuse, folder: Path, command: str) -> None:
    was = {"seed": 1, "learning_rate": 0.5, "save_steps": 7, "unknown_to_this_version": 1}
    checkpoint_in(folder / "run", 2, configuration=was, processes=2)
    assert refuse(command, "--resume", "--learning_rate", "1e-3", "--seed", "1") == (
        "run/checkpoint-2 was made with another configuration: learning_rate was 0.5, is 0.001; number of processes "
        "was 2, is 1. Resume with the old values, or begin a new run in another output_dir"
    )


def test_the_number_of_updates_belongs_to_a_schedule_that_depends_on_it(refuse: Refuse, folder: Path) -> None:
    checkpoint_in(folder / "run", 2, configuration={"lr_scheduler_type": "linear", "max_steps": 8})
    assert refuse("train", "--resume", "--lr_scheduler_type", "linear") == (
        "run/checkpoint-2 was made with another configuration: max_steps was 8, is 2. Resume with the old values, or "
        "begin a new run in another output_dir"
    )


def test_a_checkpoint_of_weights_alone_is_not_resumed(refuse: Refuse, folder: Path) -> None:
    checkpoint_in(folder / "run", 2, resumable=False)
    assert refuse("train", "--resume") == (
        "run/checkpoint-2 holds the weights alone (save_only_model), which is no state to go on from; begin a new run "
        "with it as the model"
    )


def test_the_api_refuses_with_value_errors(
    checkpoint: Path, make_config: Callable[..., SGPOConfig], tmp_path: Path
) -> None:
    checkpoint_in(tmp_path / "run", 2)
    trainer = SGPOTrainer(str(checkpoint), make_config(), train_dataset=PROBLEMS)
    with pytest.raises(ValueError, match=r"holds another run \(checkpoint-2\); add --resume"):
        trainer.train()
    assert (tmp_path / "run" / "checkpoint-2").exists()
    with pytest.raises(ValueError, match=r"training problems: 1 of 9 rows cannot be used: duplicate: 1"):
        SGPOTrainer(str(checkpoint), make_config(), train_dataset=[*PROBLEMS, BAD_ROWS[0]])
