"""Ctrl-C during training: stop where a checkpoint may stand, write it, and say so.

A checkpoint stands between two rollout batches. So the first Ctrl-C waits for the last update of the rollout batch that
is being optimised; while completions are still sampled nothing of their batch is in the weights, and it stops at once.
The second Ctrl-C is an ordinary KeyboardInterrupt, wherever that leaves things.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from sgpo.errors import StopHere


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C after `step` of `max_steps` updates; `checkpoint` is None before the first one."""

    def __init__(self, step: int, max_steps: int, checkpoint: Path | None) -> None:
        self.checkpoint = checkpoint
        where = f"the checkpoint is {checkpoint}" if checkpoint else "there is nothing to save"
        super().__init__(f"stopped by Ctrl-C after {step} of {max_steps} updates; {where}")


class Interrupt(TrainerCallback):
    """Watches for Ctrl-C, and raises `StopHere` before the first update of a rollout batch of `updates` updates."""

    def __init__(self, updates: int) -> None:
        self.updates = updates
        self.requested = False
        self._may_leave = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Ctrl-C is ours meanwhile, unless someone else handles it or this is not the main thread."""
        self.requested = False
        ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if ours:
            signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield
        finally:
            if ours:
                signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextmanager
    def may_leave(self, *, at_once: bool = True) -> Iterator[None]:
        """What runs in here can be left half done.

        Args:
            at_once: else only before it has begun, since processes do it in step.
        """
        self._may_leave = at_once
        try:
            self.stop_if_requested()
            yield
        finally:
            self._may_leave = False

    def stop_if_requested(self) -> None:
        if self.requested:
            raise StopHere

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint stands after a line of the log, so that a resumed run owes none."""
        may_save = control.should_save or (control.should_evaluate and args.save_strategy == SaveStrategy.BEST)
        control.should_log = control.should_log or may_save

    on_epoch_end = on_step_end

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Of several processes one may not leave alone: they agree where they verify.
        if state.global_step % self.updates == 0 and args.world_size == 1:
            self.stop_if_requested()

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt("stopped at once by a second Ctrl-C")
        self.requested = True
        if self._may_leave:
            raise StopHere
        print("\nCtrl-C: a checkpoint follows after this rollout batch; once more stops at once.", flush=True)
