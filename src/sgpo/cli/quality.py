"""`sgpo strategies quality`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from sgpo.cli.strategies import MoneyArguments, ServerArguments, SourceArguments, ask_all, connect
from sgpo.errors import UnfinishedError, usage_errors
from sgpo.files import check_file_writable, replacing
from sgpo.problems import columns_from_pairs, load_problems
from sgpo.strategies.quality import Judging, quality_report, rate_one, sample_of
from sgpo.strategies.quality_report import quality_plot, quality_table


@dataclass(frozen=True)
class QualityArguments:
    """Which strategies are judged, and how."""

    output: list[Path] = field(default_factory=lambda: [Path("quality.json")], metadata={"help": "One .json file."})
    max_tokens: int = field(default=4096, metadata={"help": "Tokens of one answer."})
    sample: int = field(default=500, metadata={"help": "Strategies to judge."})
    seed: int = field(default=0, metadata={"help": "Of the sample."})
    temperature: float | None = field(default=0.0, metadata={"help": "Or 'default' to send none."})
    plot: Path | None = field(default=None, metadata={"help": "PNG file; default: beside the output."})


def strategies_quality(
    source: SourceArguments, server: ServerArguments, money: MoneyArguments, options: QualityArguments
) -> None:
    """Judge a sample; writes the report as JSON and as a picture."""
    with usage_errors():
        how = Judging(server.model, options.temperature, options.max_tokens, server.extra_body)
        (output,) = _one_output(options.output)
        plot = options.plot or output.with_suffix(".png")
        if plot.suffix != ".png":
            raise ValueError(f"--plot {plot}: the picture is written as .png, not {plot.suffix!r}")
        check_file_writable(output, "--output")
        check_file_writable(plot, "--plot")
        connection = connect(source, server, money, output)
        problems = load_problems(source.problems, columns=columns_from_pairs(source.columns), limit=source.limit)
        chosen = sample_of(problems, options.sample, options.seed)
    run = ask_all(chosen, lambda problem, client: rate_one(problem, client, how), connection, [how.model])
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
