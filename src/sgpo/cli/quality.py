"""`sgpo strategies quality`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from sgpo.chat.session import Connection, Run
from sgpo.errors import UnfinishedError, usage_errors
from sgpo.files import check_file_writable, replacing
from sgpo.problems import columns_from_pairs, load_problems
from sgpo.strategies.quality import Judging, quality_report, rate_one, sample_of
from sgpo.strategies.quality_report import quality_plot, quality_table

SAMPLE = 500


def add_options(parser: argparse.ArgumentParser, temperature: Callable[[str], float | None]) -> None:
    """What `quality` takes beside what all actions that ask a server take."""
    group = parser.add_argument_group("judging")
    group.add_argument("--sample", type=int, default=SAMPLE, help=f"strategies to judge (default {SAMPLE})")
    group.add_argument("--seed", type=int, default=0, help="of the sample (default 0)")
    group.add_argument("--temperature", type=temperature, default=0.0, help="or 'default' to send none (default 0)")
    group.add_argument("--plot", type=Path, default=None, help="PNG file (default: beside the output)")


def quality(
    options: argparse.Namespace,
    connect: Callable[[argparse.Namespace, str], Connection],
    run_all: Callable[..., Run[Any]],
) -> None:
    """Judge a sample; writes the report as JSON and as a picture."""
    with usage_errors():
        how = Judging(options.model, options.temperature, options.max_tokens, options.extra_body)
        (output,) = _one_output(options.output)
        plot = options.plot or output.with_suffix(".png")
        if plot.suffix != ".png":
            raise ValueError(f"--plot {plot}: the picture is written as .png, not {plot.suffix!r}")
        check_file_writable(output, "--output")
        check_file_writable(plot, "--plot")
        connection = connect(options, how.model)
        problems = load_problems(options.problems, columns=columns_from_pairs(options.columns), limit=options.limit)
        chosen = sample_of(problems, options.sample, options.seed)
    run = run_all(chosen, lambda problem, client: rate_one(problem, client, how), connection, [how.model], options)
    run.check_complete("strategies to judge")
    if not any(outcome.status == "kept" for outcome in run.outcomes):
        detail = next((outcome.detail or outcome.reason for outcome in run.outcomes), None)
        raise UnfinishedError(f"the judge rated no strategy; for example: {detail}")
    sample = {"size": options.sample, "seed": options.seed}
    report = {"model": how.model, "sample": sample, **quality_report(run.outcomes)}
    with replacing(output) as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    plot.parent.mkdir(parents=True, exist_ok=True)
    quality_plot(report, plot)
    console = Console()
    console.print(quality_table(report))
    if report["rated"] < report["asked"]:
        console.print(f"{report['asked'] - report['rated']} of {report['asked']} strategies got no four ratings.")
    print(f"Written to {output}, {plot}")


def _one_output(paths: list[Path]) -> list[Path]:
    if len(paths) != 1 or paths[0].suffix != ".json":
        raise ValueError(f"the report is one .json file, not {' '.join(map(str, paths))}")
    return paths
