"""What every training run does around `Trainer.train`: its folder, its checkpoints, Ctrl-C, a full device."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import rotate_checkpoints

from sgpo import distributed, sharding
from sgpo.configuration import save_configuration
from sgpo.errors import StopHere
from sgpo.models.adapters import has_adapter, identity_of, options_of
from sgpo.models.precision import keep_masters
from sgpo.runs.checkpoints import UNFINISHED, broken, newest_checkpoint, publish
from sgpo.runs.folder import check_output_dir, clear, explained_lack_of_space, results_in, save_data
from sgpo.runs.interrupt import Interrupt, TrainingInterrupted
from sgpo.runs.resume import check_same_run, configuration_of
from sgpo.screen import no_progress_bars
from sgpo.tokenizers import name_end_tokens
from sgpo.training.metrics import cut_lines
from sgpo.training.model_card import write_model_card
from sgpo.training.progress import FirstUpdate, RunProgress
from sgpo.training.push import refused_push, refused_repository, repository_of, say_failed
from sgpo.training.seen import save_seen


def run_of(args: Any, data: dict[str, Any], adapter: Any = None) -> dict[str, Any]:
    """What a run and its continuation have in common, see `sgpo.runs.resume.check_same_run`.

    Args:
        adapter: the `peft.PeftConfig` of what is trained; None where all weights are.
    """
    resumable = not args.save_only_model
    return {
        "data": data,
        "configuration": configuration_of(args) | identity_of(adapter),
        "processes": args.world_size,
        "resumable": resumable,
    }


FROM_PYTHON = """\
Written by a run in Python, whose problems, reward functions and adapter have no name here. A command takes
this file with --problems FILE, with --rewards where the reward is not math_reward, and with --use_peft.
"""
UNNAMED_ADAPTER = "The adapter that was trained has settings for which there are no options.\n"


class RunTrainer(Trainer):
    """A `Trainer` whose runs do not overwrite others, know their data, and survive being stopped at any moment."""

    shown: ClassVar[dict[str, str]]  # metrics beside the progress bar, and their names there
    data: dict[str, Any]  # what data.json will hold, see `sgpo.problems.inspection.describe_problems`
    seen: frozenset[str] = frozenset()  # problems learnt in a warm-up, this one or one before, see `sgpo.training.seen`
    peft_config: Any = None  # of a new adapter
    has_copies = False  # of the policy, frozen, which forward passes are made with too
    command_line: Any = None  # the options of the command that this run is, beside `args`; None in Python

    def begin_run(
        self, data: dict[str, Any], base_model: str | None, adapter: Any = None, updates_per_rollout: int = 1
    ) -> None:
        """To be called at the end of the constructor.

        Args:
            base_model: what the training began with, a name for the model card.
            adapter: see `run_of`.

        Raises ValueError for a model without a trainable parameter.
        """
        keep_masters(self.model, autocast=self.args.mixed_precision != "no")
        name_end_tokens(self.model, self.processing_class)
        if has_adapter(self.model) and self.args.gradient_checkpointing:
            self.model.enable_input_require_grads()  # or nothing before the first adapter would have a gradient
        self.data, self.base_model, self.adapter = data, base_model, adapter
        self._found = results_in(self.args.output_dir)  # what this trainer writes itself comes later
        self._staging: Path | None = None
        for callback in (ProgressCallback, PrinterCallback):
            self.remove_callback(callback)
        self.add_callback(RunProgress(self.shown, bar=not self.args.disable_tqdm))
        self.add_callback(FirstUpdate(self.phase_seconds))
        self.interrupt = Interrupt(updates_per_rollout)
        self.add_callback(self.interrupt)

    def phase_seconds(self) -> dict[str, float]:
        """Of the updates since the last line of the log, in this process; nothing where phases are not measured."""
        return {}

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train, or go on from a checkpoint (``True``: the newest complete one).

        Raises:
            ValueError: an output_dir with another run that is neither resumed nor overwritten, or another run's
                checkpoint.
            TrainingInterrupted: Ctrl-C, once the checkpoint is written. A second Ctrl-C is a plain KeyboardInterrupt.
            NoSpaceError: the device ran full.
            ProcessError: another process of the run failed.
        """
        folder = self.args.output_dir
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(newest_checkpoint(folder))
        if resume_from_checkpoint:
            check_same_run(resume_from_checkpoint, run_of(self.args, self.data, self.adapter))
        elif self._found:
            check_output_dir(folder, overwrite=self.args.overwrite)
        with explained_lack_of_space(folder), distributed.failing_together(folder):
            if self.is_world_process_zero():
                if not resume_from_checkpoint:
                    clear(self._found)
                save_data(folder, self.data)
                save_seen(folder, self.seen)
                self._save_configuration()
            self.accelerator.wait_for_everyone()
            with self.interrupt.watching():
                try:
                    return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
                except StopHere:
                    raise TrainingInterrupted(*self._stop()) from None
                finally:
                    self._found = results_in(folder)

    def _save_configuration(self) -> None:
        """What the run was made of; in Python, only what has a name there."""
        own = getattr(self.args, "method_options", None) or {}
        if self.command_line is not None:
            save_configuration(self.args.output_dir, self.command_line, self.args, own)
            return
        model = {} if self.base_model is None else {"model": self.base_model}
        options = None if self.peft_config is None else options_of(self.peft_config)
        unnamed = UNNAMED_ADAPTER if self.peft_config is not None and options is None else ""
        save_configuration(self.args.output_dir, model | (options or {}), self.args, own, comment=FROM_PYTHON + unnamed)

    def _stop(self) -> tuple[int, int, Path | None]:
        """Write the checkpoint, unless it stands there already; the weights are those between two rollout batches."""
        step = self.state.global_step
        if step == 0:
            return step, self.state.max_steps, None
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{step}"
        if broken(checkpoint) is not None:
            self.control.should_log, self.control.should_evaluate, self.control.should_save = True, False, True
            epoch = self.state.epoch or 0.0
            self._maybe_log_save_evaluate(self._tr_loss, None, self.model, None, epoch, None, 0.0)
        self.callback_handler.on_train_end(self.args, self.state, self.control)  # ends progress bars and trackers
        return step, self.state.max_steps, checkpoint

    # Checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As Trainer's, but what stands under the name checkpoint-N is whole.

        Trainer writes into the folder that ``_get_output_dir`` names; it gets the final name when all processes have
        written, and only then an older one goes.
        """
        folder, main = Path(self.args.output_dir), self.is_world_process_zero()
        if main and (folder / UNFINISHED).exists():
            shutil.rmtree(folder / UNFINISHED)
        self.accelerator.wait_for_everyone()
        self._staging = folder / UNFINISHED
        try:
            with no_progress_bars():  # within that of the run
                super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        self.accelerator.wait_for_everyone()
        name = f"checkpoint-{self.state.global_step}"
        best = self.state.best_model_checkpoint
        if best and Path(best).parent == folder / UNFINISHED:
            self.state.best_model_checkpoint = str(folder / name)
        if main:
            staging = folder / UNFINISHED / name
            self.state.save_to_json(str(staging / "trainer_state.json"))
            self.write_own_state(staging)
            publish(staging, folder, run_of(self.args, self.data, self.adapter))
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            if main:
                say_failed(self.push_in_progress)
            super()._push_from_checkpoint(str(folder / name))

    def autocast_smart_context_manager(self) -> Any:
        """Accelerate makes the policy compute under autocast; copies of it are not prepared, and need it from here."""
        return self.accelerator.autocast() if self.has_copies else super().autocast_smart_context_manager()

    def write_own_state(self, folder: Path) -> None:
        """What a checkpoint holds beside Trainer's files. The first process calls it."""

    def read_own_state(self, folder: Path) -> None:
        """Of a checkpoint that is gone on from. Every process calls it."""

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging or super()._get_output_dir(trial))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Not from the folder that is about to get another name; ``_save_checkpoint`` does it afterwards."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Trainer calls this when it resumes, and knows by then which step it resumes from."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint:
            self.read_own_state(Path(checkpoint))
        if checkpoint and self.is_world_process_zero():
            cut_lines(self.args.output_dir, self.state.global_step)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Trainer calls tied weights missing, of which a checkpoint holds one copy."""
        tied = getattr(self.model, "all_tied_weights_keys", {})
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Trainer's; a final model, one that is no checkpoint, gets a model card.

        Of a sharded model Trainer writes the weights only if accelerate is told FULL_STATE_DICT, which it is not by
        default; here they are always written, as an ordinary checkpoint.
        """
        if sharding.is_sharded(self.model):
            self._save(output_dir or self.args.output_dir, state_dict=sharding.whole_state(self.model))
            if self.args.push_to_hub and not _internal_call:
                self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)
        else:
            super().save_model(output_dir, _internal_call)
        if not _internal_call and self.args.should_save:
            write_model_card(Path(output_dir or self.args.output_dir), self)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """Trainer's. Raises ValueError with what to do if the Hub refuses it."""
        with refused_repository(repository_of(self.args)):
            super().init_hf_repo(*args, **kwargs)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's. Raises PushError if the Hub refuses it; the folder is complete then."""
        if self.hub_model_id is None:
            self.init_hf_repo(token=kwargs.get("token"), private=kwargs.get("private"))
        with refused_push(self.args, self.hub_model_id or ""):
            return super().push_to_hub(*args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """In place of Trainer's and TRL's, which is called before a push."""
        if self.is_world_process_zero():
            write_model_card(Path(self.args.output_dir), self)
