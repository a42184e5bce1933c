"""The progress bar of a training run: the few numbers that matter."""

from __future__ import annotations

from typing import Any

from transformers.trainer_callback import ProgressCallback

SHOWN = {"reward/autonomous": "reward", "reward/guided": "guided", "alpha": "alpha", "entropy": "entropy"}


class ShortProgressCallback(ProgressCallback):
    """Trainer's progress bar, with the newest metrics beside it in place of printed dictionaries."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs is not None:
            shown = {short: f"{logs[name]:.3f}" for name, short in SHOWN.items() if name in logs}
            if shown:
                self.training_bar.set_postfix(shown)
