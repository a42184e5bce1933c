"""veRL's process in charge, with the trainer of sgpo, and an end for runs that stand still."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

from verl.trainer.main_ppo import TaskRunnerV1

from sgpo.integrations.verl.trainer import SGPOVerlTrainer


class SGPOTaskRunner(TaskRunnerV1.__ray_metadata__.modified_class):
    """Ray loads this module in its process, to make the class; with it comes the trainer, which registers itself."""

    def run(self, config: Any) -> None:
        SGPOVerlTrainer.progress = StallWatch(config.sgpo.stall_minutes)
        super().run(config)


class StallWatch:
    """Ends the process if no part of a step ended for so many minutes: veRL waits for ever for some failed workers.

    Example: ``StallWatch(120).note("the update")``
    """

    def __init__(self, minutes: float) -> None:
        self.minutes, self.last, self.time = minutes, "the start", time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def note(self, what: str) -> None:
        self.last, self.time = what, time.monotonic()

    def _watch(self) -> None:
        while time.monotonic() - self.time < 60 * self.minutes:
            time.sleep(min(5.0, 6 * self.minutes))
        print(
            f"error: nothing ended for {self.minutes:g} minutes since {self.last}: a worker failed where veRL does not "
            "look, or steps take longer; then set sgpo.stall_minutes",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)
