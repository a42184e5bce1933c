"""All of it, in order: read, golds, one problem a text, responses, benchmarks, strategies, parts, report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sgpo.evaluation.benchmarks import BENCHMARKS, check_set, find_set, split_names
from sgpo.files import check_folder_writable
from sgpo.miniworld.world import evaluation_sets
from sgpo.preparation.contamination import WORDS, Benchmarks, without_contaminated
from sgpo.preparation.dropped import Dropped
from sgpo.preparation.duplicates import merged
from sgpo.preparation.judging import (
    compared,
    golds_of,
    judge_responses,
    pairs_of,
    readable_golds,
    with_readable_gold,
)
from sgpo.preparation.parts import PartProblems, split_parts
from sgpo.preparation.report import Report, described, save_report
from sgpo.preparation.sources import DataSource, Found, SourceReader, source_of_text
from sgpo.preparation.spool import Spool
from sgpo.preparation.strategies import join_strategies, strategies_from
from sgpo.problems import load_problems, save_problems
from sgpo.problems.inspection import fingerprint
from sgpo.screen import counted

FILES = ("sft.jsonl", "rl.jsonl", "eval.jsonl", "report.json", "report.md")


@dataclass(frozen=True)
class Preparation:
    """What is prepared, see the options of `sgpo data prepare`.

    Example: ``Preparation([source_of_text("train.jsonl")], Path("data"), sft_size=1000)``

    Raises:
        ValueError: numbers that cannot be.
    """

    sources: Sequence[DataSource]
    output: Path
    columns: dict[str, str] = field(default_factory=dict)
    strategies: str | None = None
    benchmarks: Sequence[str] = ()
    data_dir: str | None = None
    words: int = WORDS
    eval_source: DataSource | None = None
    eval_size: int | None = None
    sft_size: int = 0
    rl_size: int | None = None
    rl_needs_strategy: bool = False
    keep_unsolved: bool = False
    limit: int | None = None
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("name a source: a file, or a data set on the Hub")
        for name, least in (("sft_size", 0), ("rl_size", 1), ("eval_size", 1), ("limit", 1), ("words", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        if self.eval_size is not None and self.eval_source is None:
            raise ValueError("eval_size needs eval_source: the problems to draw from")

    def check(self) -> None:
        """Raises ValueError or OSError for files that are not there, and for results that would be replaced unasked."""
        check_folder_writable(self.output, "output")
        found = [name for name in FILES if (self.output / name).exists()]
        if found and not self.overwrite:
            raise ValueError(
                f"output {self.output} holds prepared data ({found[0]}); write another output, or overwrite: true to "
                "replace it"
            )
        for source in (*self.sources, *([self.eval_source] if self.eval_source else [])):
            source.check()
        for name in split_names(self.benchmarks):
            if not _own_set(name):
                check_set(name, self.data_dir, evaluation_sets())


def prepare(asked: Preparation) -> Report:
    """Write the parts and the report.

    Raises:
        ValueError: sources that cannot be read, or too few problems for the parts that were asked for.
        FileNotFoundError: a file that is not there.
    """
    asked.check()
    strategies = strategies_from(asked.strategies) if asked.strategies else {}
    benchmarks = read_benchmarks(asked)
    with closing(Spool(asked.output)) as spool:
        reader = SourceReader(spool, asked.columns)
        evaluation = evaluation_part(asked, benchmarks, spool)
        found = read_all(asked, reader)
        dropped, responses = reader.rows_dropped, reader.responses_dropped
        golds = golds_of(found)
        with counted("golds", len(golds), "golds") as meter:
            readable = readable_golds(golds, meter.add)
        found = with_readable_gold(found, readable, dropped)
        pairs = pairs_of(found)
        with counted("responses", len(pairs), "answers") as meter:
            statuses = compared(pairs, meter.add)
        found = judge_responses(found, statuses, dropped, responses, keep_unsolved=asked.keep_unsolved)
        found = merged(found, dropped, responses, spool)
        found = without_contaminated(found, benchmarks, dropped)
        flawed = Dropped()
        joined = join_strategies(found, strategies, flawed, spool)
        parts = split_parts(
            found,
            sft_size=asked.sft_size,
            rl_size=asked.rl_size,
            rl_needs_strategy=asked.rl_needs_strategy,
            seed=asked.seed,
        )
        parts |= {"eval": evaluation} if evaluation else {}
        if empty := [name for name, part in parts.items() if not part]:
            raise ValueError(f"no problem is left for {empty[0]}.jsonl: {_reasons(dropped)}")
        shown = {"rows": dropped, "responses": responses, "strategies": flawed}
        report = Report(
            reader.read, shown, joined, benchmarks.sizes, write_parts(parts, asked.output, spool), _options(asked)
        )
    save_report(report, asked.output)
    return report


def write_parts(parts: dict[str, list[Found]], output: Path, spool: Spool) -> dict[str, dict[str, Any]]:
    """The files, and what the report says of each."""
    entries = {}
    for name, part in parts.items():
        problems = PartProblems(part, spool)
        save_problems(problems, output / f"{name}.jsonl")
        entries[name] = {"file": f"{name}.jsonl", "fingerprint": fingerprint(problems), **described(part)}
    return entries


def read_all(asked: Preparation, reader: SourceReader) -> list[Found]:
    found: list[Found] = []
    for source in asked.sources:
        found += reader.candidates(source, "train", asked.limit)
    return found


def evaluation_part(asked: Preparation, benchmarks: Benchmarks, spool: Spool) -> list[Found]:
    """Problems to evaluate on; all that there are count as a benchmark, those that were not drawn too."""
    if asked.eval_source is None:
        return []
    reader = SourceReader(spool, asked.columns)
    found = list(reader.candidates(asked.eval_source, "test"))
    benchmarks.add(asked.eval_source.name, (each.prompt for each in found))
    ignored = Dropped()
    readable = with_readable_gold(found, readable_golds(golds_of(found), lambda count: None), ignored)
    found = merged(readable, ignored, ignored, spool)
    size = asked.eval_size or len(found)
    if size > len(found):
        raise ValueError(f"eval_size is {size}, and {asked.eval_source.name} has {len(found)} problems")
    return split_parts(found, sft_size=0, rl_size=size, rl_needs_strategy=False, seed=asked.seed)["rl"]


def read_benchmarks(asked: Preparation) -> Benchmarks:
    """Those that are named: of the registry of `sgpo eval`, of the mini-world, files, or data sets on the Hub."""
    benchmarks = Benchmarks(asked.words)
    for name in split_names(asked.benchmarks):
        if _own_set(name):
            with closing(Spool(asked.output)) as spool:
                prompts = [each.prompt for each in SourceReader(spool, {}).candidates(source_of_text(name), "test")]
        else:
            found = find_set(name, asked.data_dir, load_problems, evaluation_sets())
            prompts = [problem.prompt for problem in found.problems]
        benchmarks.add(name, prompts)
    return benchmarks


def _own_set(name: str) -> bool:
    return name not in BENCHMARKS and name not in evaluation_sets() and ("/" in name or bool(Path(name).suffix))


def _reasons(dropped: Dropped) -> str:
    shown = [f"{kind}: {count.number}, e.g. {count.example}" for kind, count in dropped.counts.items()]
    return "; ".join(shown) or "none was asked for"


def _options(asked: Preparation) -> dict[str, Any]:
    """Those that decide what is in the files."""
    values = {name: value for name, value in asdict(asked).items() if name not in ("output", "overwrite")}
    values["sources"] = [_text(each) for each in asked.sources]
    values["eval_source"] = _text(asked.eval_source) if asked.eval_source else None
    values["benchmarks"] = split_names(asked.benchmarks)
    return values


def _text(source: DataSource) -> str:
    revision = f"@{source.revision}" if source.revision else ""
    return ":".join(part for part in (source.name, source.subset, source.split) if part) + revision
