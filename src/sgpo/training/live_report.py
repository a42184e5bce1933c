"""report.html in the folder of a run, which stays current while the run goes on: `sgpo.reports` of the run itself."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sgpo.reports.run_folder import read_run
from sgpo.reports.run_output import write_report
from sgpo.runs.folder import REPORT

REFRESH = 30  # seconds after which an open page loads itself again
PAUSE, SHARE = 10.0, 0.01  # seconds between two pages after lines of metrics, and the most of the time for them

logger = logging.getLogger(__name__)


class LiveReport(TrainerCallback):
    """Writes the page after each evaluation, at the end, and now and then after an update's line of metrics.

    Whatever goes wrong there is said once, and the run goes on. Only the first process has one.

    Args:
        folder: the run's.
        versions: of packages, by name; the model card, where `sgpo report` finds them, is written after the last page.
        clock: in seconds.
    """

    def __init__(
        self, folder: str | Path, versions: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder, self.versions, self.clock = Path(folder), versions, clock
        self.goes_on = self.failed = False
        self.next = -math.inf  # when a line of metrics is reason enough

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.goes_on = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.write()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.goes_on = False
        self.write()

    def after_line(self) -> None:
        """To be called once metrics.jsonl has the line of an update; Trainer calls ``on_log`` before that."""
        if self.clock() >= self.next:
            self.write()

    def write(self) -> None:
        """A page that loads itself again while training goes on."""
        begun = self.clock()
        try:
            run = replace(read_run(self.folder, self.folder.resolve().name), versions=[*self.versions.items()])
            write_report(self.folder / REPORT, [run], refresh=REFRESH if self.goes_on else 0)
        except Exception as error:  # a page is no reason to lose a run
            if not self.failed:
                logger.warning("%s was not written: %s: %s", self.folder / REPORT, type(error).__name__, error)
            self.failed = True
        end = self.clock()
        self.next = end + max(PAUSE, (end - begun) / SHARE)
