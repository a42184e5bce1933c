"""Runs that are killed (SIGKILL) at given moments, and resumed: `python kill_cases.py CHECKPOINT FOLDER`.

Each run is a fork of this process, which has imported everything and computed nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from trainer_cases import make
from transformers import TrainerCallback

from sgpo import SGPOTrainer
from sgpo.runs import checkpoints
from sgpo.training import run

STEPS = 8  # of two updates a rollout batch, a checkpoint after each second rollout batch
# Where a run is killed: a phase, and the how-manieth time it gets there; and the step that the next one goes on from.
KILLS = {
    "sampling": ("sample", 5, 4),
    "second update of a rollout batch": ("optimise", 6, 4),
    "first update after a checkpoint": ("optimise", 5, 4),
    "before the weights are saved": ("save weights", 2, 4),
    "after the weights are saved": ("saved weights", 2, 4),
    "after the optimizer is saved": ("saved optimizer", 2, 4),
    "before a checkpoint is published": ("publish", 2, 4),
    "between its manifest and its name": ("sync", 26, 4),
    "before older ones are deleted": ("rotate", 2, 8),
    "before the first checkpoint": ("optimise", 3, 0),
}


class Killer(TrainerCallback):
    """Ends this process when a phase begins for the n-th time."""

    def __init__(self, phase: str, call: int) -> None:
        self.phase, self.left = phase, call

    def __call__(self, phase: str) -> None:
        self.left -= phase == self.phase
        if phase == self.phase and self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, owner: Any, name: str, phase: str) -> None:
        original = getattr(owner, name)

        def watched(*arguments: Any, **keywords: Any) -> Any:
            self(phase)
            return original(*arguments, **keywords)

        setattr(owner, name, watched)

    def on_pre_optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
        self("optimise")


def trainer_in(checkpoint: str, folder: Path, **changes: Any) -> SGPOTrainer:
    saving = {"save_strategy": "steps", "save_steps": 4, "save_total_limit": 1, "eval_strategy": "steps"}
    counts = {"max_steps": STEPS, "completions_steps": 1, "logging_steps": 3, "eval_steps": 2}
    return make(checkpoint, folder, **counts, **saving, **changes)


def straight(checkpoint: str, folder: Path) -> None:
    trainer_in(checkpoint, folder).train()


def killed(checkpoint: str, folder: Path, phase: str, call: int) -> None:

    trainer, killer = trainer_in(checkpoint, folder), Killer(phase, call)
    trainer.add_callback(killer)
    killer.before(trainer.sampler, "sample", "sample")
    killer.before(trainer, "save_model", "save weights")
    killer.before(trainer, "_save_optimizer_and_scheduler", "saved weights")
    killer.before(trainer, "_save_rng_state", "saved optimizer")
    killer.before(run, "publish", "publish")
    killer.before(checkpoints, "_sync", "sync")
    killer.before(run, "rotate_checkpoints", "rotate")
    trainer.train()


def resumed(checkpoint: str, folder: Path) -> None:
    """What a user does: go on from the newest checkpoint, or begin anew where there is none."""
    exists = bool(checkpoints.checkpoints_of(folder))
    trainer_in(checkpoint, folder, overwrite=not exists).train(resume_from_checkpoint=exists)


def in_fork(run: Callable[..., None], *arguments: Any) -> int:
    """How it ended: 0, or minus the number of the signal."""
    child = os.fork()
    if child == 0:
        try:
            run(*arguments)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(checkpoint: str, folder: Path) -> None:
    torch.set_num_threads(1)
    assert in_fork(straight, checkpoint, folder / "straight") == 0
    for name, (phase, call, step) in KILLS.items():
        run = folder / name.replace(" ", "-")
        assert in_fork(killed, checkpoint, run, phase, call) == -signal.SIGKILL, name
        whole = [path.name for path in checkpoints.checkpoints_of(run)]
        assert whole[-1:] == ([f"checkpoint-{step}"] if step else []), (name, whole)
        assert in_fork(resumed, checkpoint, run) == 0, name


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
