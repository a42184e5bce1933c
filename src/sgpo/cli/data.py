"""`sgpo data prepare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sgpo.errors import usage_errors
from sgpo.preparation.contamination import WORDS
from sgpo.preparation.prepare import Preparation, prepare
from sgpo.preparation.sources import source_of_text
from sgpo.problems import columns_from_pairs
from sgpo.screen import no_progress_bars


@dataclass(frozen=True)
class ReadArguments:
    """What is read, and where it goes."""

    source: list[str] = field(metadata={"help": "Files, or NAME[:SUBSET[:SPLIT]][@REVISION] of the Hub."})
    output: Path = field(metadata={"help": "Folder for sft.jsonl, rl.jsonl, eval.jsonl and the report."})
    columns: list[str] = field(
        default_factory=list, metadata={"help": "With other names: prompt=question answer=final response=solution ..."}
    )
    limit: int | None = field(default=None, metadata={"help": "Take the first so many rows of each source."})
    strategies: str | None = field(
        default=None, metadata={"help": "gsm8k, or a JSONL file with question_sha256 and strategy."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace the prepared data that output holds."})


@dataclass(frozen=True)
class CleanArguments:
    """What is left out."""

    benchmarks: list[str] = field(
        default_factory=list,
        metadata={"help": "Problems of these are left out: math500,aime24, files, or Hub data sets (split test)."},
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder whose files stand for the benchmarks' data."})
    words: int = field(default=WORDS, metadata={"help": "So many words in a row shared with a benchmark are too many."})
    keep_unsolved: bool = field(
        default=False, metadata={"help": "Keep problems whose responses all have another answer, without these."}
    )


@dataclass(frozen=True)
class PartArguments:
    """Which parts are written, drawn with the seed."""

    sft_size: int = field(default=0, metadata={"help": "Problems for the warm-up; 0: no sft.jsonl."})
    rl_size: int | None = field(default=None, metadata={"help": "Problems for RL; default: all others."})
    rl_needs_strategy: bool = field(default=False, metadata={"help": "Only problems with a strategy are for RL."})
    eval_source: str | None = field(
        default=None, metadata={"help": "As source (split test): for eval.jsonl; none of it is trained on."}
    )
    eval_size: int | None = field(default=None, metadata={"help": "Problems of eval.jsonl; default: all."})
    seed: int = field(default=0, metadata={"help": "Of the draw."})


def data_prepare(read: ReadArguments, clean: CleanArguments, parts: PartArguments) -> None:
    """Make problem files of published sets of problems, responses and answers."""
    with usage_errors(), no_progress_bars():
        report = prepare(
            Preparation(
                sources=[source_of_text(text) for text in read.source],
                output=read.output,
                columns=columns_from_pairs(read.columns),
                limit=read.limit,
                strategies=read.strategies,
                overwrite=read.overwrite,
                benchmarks=clean.benchmarks,
                data_dir=clean.data_dir,
                words=clean.words,
                keep_unsolved=clean.keep_unsolved,
                sft_size=parts.sft_size,
                rl_size=parts.rl_size,
                rl_needs_strategy=parts.rl_needs_strategy,
                eval_source=source_of_text(parts.eval_source) if parts.eval_source else None,
                eval_size=parts.eval_size,
                seed=parts.seed,
            )
        )
    for what, dropped in report.dropped.items():
        for kind, count in dropped.counts.items():
            print(f"left out, {what}: {count.number:,} {kind}, e.g. {count.example}")
    for part in report.parts.values():
        print(f"{part['file']}: {part['problems']:,} problems, fingerprint {part['fingerprint']}")
    print(f"Written to {read.output}; report.md there says more")
