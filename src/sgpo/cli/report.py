"""`sgpo report`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from sgpo.errors import usage_errors
from sgpo.files import check_file_writable


@dataclass(frozen=True)
class ReportArguments:
    """Which runs, and where to."""

    runs: list[Path] = field(metadata={"help": "Folders of training runs.", "positional": True})
    evaluations: list[Path] = field(
        default_factory=list, metadata={"help": "Outputs of sgpo eval, from before training to after it."}
    )
    output: Path = field(default=Path("report.html"), metadata={"help": "The page, one HTML file."})
    text: bool = field(default=False, metadata={"help": "Print a summary instead of writing a page."})
    watch: int = field(default=0, metadata={"help": "Seconds after which it is written again, until the runs end."})


def report(options: ReportArguments) -> None:
    """Write the page, or print the summary."""
    from sgpo.reports.run_folder import read_runs, scores_of_evaluation, short_names
    from sgpo.reports.run_output import write_report
    from sgpo.reports.run_text import print_runs

    with usage_errors():
        if options.watch < 0:
            raise ValueError(f"--watch is {options.watch}; it must be a number of seconds, or 0")
        if not options.text:
            check_file_writable(options.output, "--output")
    said = False
    while True:
        with usage_errors():
            runs = read_runs(options.runs)
            evaluations = short_names(options.evaluations)
            goes_on = options.watch and not all(run.is_finished for run in runs)
            if options.text:
                scores = [score for name, each in evaluations.items() for score in scores_of_evaluation(each, name)]
                print_runs(runs, scores)
            else:
                write_report(options.output, runs, evaluations, refresh=options.watch if goes_on else 0)
        if not options.text and not said:
            print(f"Written to {options.output}", flush=True)
            said = True
        if not goes_on:
            return
        time.sleep(options.watch)
