"""What every training run does around `Trainer.train`: its folder, its data's fingerprint, Ctrl-C, a full device."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import Trainer

from sgpo.problems.inspection import check_bad_rows_option
from sgpo.run_folder import (
    COMPLETE,
    check_output_dir,
    check_same_data,
    clear,
    explained_lack_of_space,
    newest_checkpoint,
    results_in,
    save_data,
)
from sgpo.training.interrupt import Interrupt, StopHere, TrainingInterrupted


@dataclass
class RunArguments:
    """Options of every training run, beside those of `TrainingArguments`."""

    bad_rows: str = field(
        default="refuse",
        metadata={"help": "Rows that cannot be used (empty, repeated, too long, ...): 'refuse', or leave out: 'drop'."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Delete the run that output_dir holds."})

    def check_run_arguments(self) -> None:
        """Raises ValueError for a value that is no choice."""
        check_bad_rows_option(self.bad_rows)


class RunTrainer(Trainer):
    """A `Trainer` whose runs do not overwrite others, know their data, and can be stopped and resumed."""

    data: dict[str, Any]  # what data.json will hold, see `sgpo.problems.inspection.describe`

    def begin_run(self, data: dict[str, Any], updates_per_rollout: int = 1) -> None:
        """To be called at the end of the constructor."""
        self.data = data
        self._found = results_in(self.args.output_dir)  # what this trainer writes itself comes later
        self.interrupt = Interrupt(updates_per_rollout)
        self.add_callback(self.interrupt)

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train, or go on from a checkpoint (``True``: the newest complete one).

        Raises:
            ValueError: an output_dir with another run that is neither resumed nor overwritten, or other data than
                that of the run to be resumed.
            TrainingInterrupted: Ctrl-C, once the checkpoint is written. A second Ctrl-C is a plain KeyboardInterrupt.
            NoSpaceError: the device ran full.
        """
        folder = self.args.output_dir
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(newest_checkpoint(folder))
        if resume_from_checkpoint:
            check_same_data(Path(resume_from_checkpoint).parent, self.data)
        elif self._found:
            check_output_dir(folder, overwrite=self.args.overwrite)
            clear(self._found)
        with explained_lack_of_space(folder):
            save_data(folder, self.data)
            with self.interrupt.watching():
                try:
                    return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
                except StopHere:
                    raise TrainingInterrupted(*self._stop()) from None
                finally:
                    self._found = results_in(folder)

    def _stop(self) -> tuple[int, int, Path | None]:
        """Write the checkpoint, unless it stands there already; the weights are those between two rollout batches."""
        step = self.state.global_step
        if step == 0:
            return step, self.state.max_steps, None
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{step}"
        if not (checkpoint / COMPLETE).is_file():
            self._save_checkpoint(self.model, trial=None)
        self.callback_handler.on_train_end(self.args, self.state, self.control)  # ends progress bars and trackers
        return step, self.state.max_steps, checkpoint
