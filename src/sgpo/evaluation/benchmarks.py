"""Benchmarks by name, each pinned: which rows of which revision, how many, and how many samples a problem.

Two sets of different size never share a name: they are different tests. A set whose number of problems is not the
expected one is refused, since a mirror with repeated or missing rows gives another score in silence.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sgpo.errors import first_line
from sgpo.hub import hub_or_cache
from sgpo.problems import Problem, problems_from
from sgpo.problems.reading import FILE_SUFFIXES, RawRow, is_file_of_problems, read_rows

ShippedSets = Mapping[str, Callable[[], list[Problem]]]  # made when they are asked for
NONE_SHIPPED: ShippedSets = MappingProxyType({})
OWN_K = 4  # samples a problem of a set that is no benchmark


@dataclass(frozen=True)
class Benchmark:
    """A published test set.

    Example: ``Benchmark("aime24", problems=30, k=32, hub="HuggingFaceH4/aime_2024", revision="2fe8...", licence=None,
    split="train", prompt="problem", answer="answer", files=("AIME24",))``
    """

    name: str
    problems: int  # how many there must be
    k: int  # samples a problem: docs/evaluation.md, "Benchmarks"
    licence: str | None  # that the data set's card declares
    hub: str | None = None  # None: from a file only
    revision: str | None = None  # commit
    config: str | None = None
    split: str = "test"
    prompt: str = "problem"  # columns
    answer: str = "answer"
    id: str | None = None
    files: tuple[str, ...] = ()  # further names of local files, without suffix

    @property
    def source(self) -> str:
        return f"{self.hub}@{self.revision}" if self.hub else "a local file"


BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "math500",
            problems=500,
            k=4,
            licence="MIT (of MATH, from which the problems come; the card declares none)",
            hub="HuggingFaceH4/MATH-500",
            revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
            id="unique_id",
            files=("MATH-500",),
        ),
        Benchmark(
            "amc23",
            problems=40,
            k=32,
            licence=None,
            hub="math-ai/amc23",
            revision="80815d37005feb82cd7f8fbc6901d5d3eff43057",
            prompt="question",
            files=("AMC23",),
        ),
        Benchmark(
            "amc83",
            problems=83,
            k=32,
            licence="Apache-2.0",
            hub="AI-MO/aimo-validation-amc",
            revision="69d78a4a2c840e82d69af6bc742bda09005f6316",
            split="train",
            files=("aimo-validation-amc",),  # its column id starts again for each year
        ),
        Benchmark(
            "olympiad",
            problems=674,
            k=4,
            licence="Apache-2.0",
            hub="Hothan/OlympiadBench",
            revision="91184b52131e7fc9455fef848035173aea8cc01a",
            config="OE_TO_maths_en_COMP",
            split="train",
            prompt="question",
            answer="final_answer",
            id="id",
            files=("OlympiadBench", "OE_TO_maths_en_COMP"),
        ),
        Benchmark(
            "olympiad675",
            problems=675,
            k=4,
            licence=None,
            prompt="question",
            answer="final_answer",
            files=("OlympiadBench675",),
        ),
        Benchmark(
            "aime24",
            problems=30,
            k=32,
            licence=None,
            hub="HuggingFaceH4/aime_2024",
            revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
            split="train",
            files=("AIME24", "aime_2024"),
        ),
    )
}


@dataclass(frozen=True)
class ProblemSet:
    """Problems to evaluate on, and where they come from.

    Of a guided evaluation, ``problems`` are those with a strategy; where others were left out, ``of`` are all.

    Example: ``ProblemSet("aime24", problems, source="HuggingFaceH4/aime_2024@2fe8...", k=32, licence=None)``
    """

    name: str
    problems: Sequence[Problem]
    source: str
    k: int = OWN_K
    licence: str | None = None
    of: Sequence[Problem] | None = None


def partly_guided(problems: ProblemSet) -> str | None:
    """What a guided evaluation has left out of a set; None if nothing."""
    if problems.of is None:
        return None
    counts = f"{len(problems.problems)} of {len(problems.of)}"
    return f"{problems.name}: guided evaluation of the {counts} problems that have a strategy; the others are left out."


def split_names(names: Sequence[str]) -> list[str]:
    """The names of a list in which commas separate too."""
    return [part for name in names for part in name.split(",") if part]


def find_set(
    name: str, data_dir: str | None, load: Callable[[str], list[Problem]], shipped: ShippedSets = NONE_SHIPPED
) -> ProblemSet:
    """A benchmark, a set that comes with the package (``miniworld/test``), or any file or data set of one's own.

    Args:
        name: of the registry, or what `load` takes.
        data_dir: a folder whose files stand for the benchmarks' data sets on the Hub.
        load: reads a set of one's own.
        shipped: the sets that come with the package, by name.

    Raises:
        ValueError: no such set, or a number of problems that is not the expected one.
    """
    _check_name(name, shipped)
    if name in BENCHMARKS:
        return _benchmark(BENCHMARKS[name], data_dir)
    if name in shipped:
        return ProblemSet(name.replace("/", "-"), shipped[name](), f"{name}, seed 0")
    return own_set(name, load)


def check_set(name: str, data_dir: str | None, shipped: ShippedSets = NONE_SHIPPED) -> None:
    """Whether there may be such a set, without reading it; the arguments are those of `find_set`.

    Raises:
        ValueError: an unknown name, or a file of another kind.
        FileNotFoundError: a file that is not there.
    """
    _check_name(name, shipped)
    if name in BENCHMARKS:
        if data_dir is not None:
            _local_file(BENCHMARKS[name], Path(data_dir))
    elif name not in shipped:
        is_file_of_problems(name)


def _check_name(name: str, shipped: ShippedSets) -> None:
    if name in BENCHMARKS or name in shipped:
        return
    alike = [each for each in shipped if each.partition("/")[0] == name.partition("/")[0]]
    if alike:
        raise ValueError(f"there is no set {name}; there are {', '.join(alike)}")
    if "/" not in name and not Path(name).suffix:
        known = ", ".join([*BENCHMARKS, *shipped])
        raise ValueError(f"there is no benchmark {name!r}: the names are {known}; or give a file or a Hub data set")


def own_set(source: str, load: Callable[[str], list[Problem]]) -> ProblemSet:
    """A file or a data set of the Hub, under its name without folders and suffix."""
    return ProblemSet(Path(source).stem, load(source), source)


def _benchmark(benchmark: Benchmark, data_dir: str | None) -> ProblemSet:
    if data_dir is None:
        rows, source = _hub_rows(benchmark), benchmark.source
    else:
        path = _local_file(benchmark, Path(data_dir))
        rows, source = list(read_rows(path)), str(path)
    if len(rows) != benchmark.problems:
        raise ValueError(
            f"{benchmark.name} has {benchmark.problems} problems, {source} has {len(rows)}: another variant, or "
            f"rows are missing or repeated{_of_that_size(len(rows))}; to evaluate on it all the same, give it as a set "
            "of your own, by its path"
        )
    problems = problems_from([_row(row, benchmark) for row in rows], bad_rows="keep")
    return ProblemSet(benchmark.name, problems, source, benchmark.k, benchmark.licence)


def _of_that_size(count: int) -> str:
    names = [name for name, other in BENCHMARKS.items() if other.problems == count]
    return f" ({' or '.join(names)} has as many)" if names else ""


def _hub_rows(benchmark: Benchmark) -> list[RawRow]:
    if benchmark.hub is None:
        raise ValueError(
            f"{benchmark.name} is on no pinned data set of the Hub: give the folder of its file as data_dir"
        )
    import datasets

    try:
        with hub_or_cache():
            data = datasets.load_dataset(
                benchmark.hub, benchmark.config, split=benchmark.split, revision=benchmark.revision
            )
    except (OSError, ValueError) as error:
        reason = first_line(error).removesuffix(".")
        raise ValueError(
            f"{benchmark.name} cannot be read from the Hub ({benchmark.source}): {reason}; where there is no network, "
            "give a folder that holds its file as data_dir"
        ) from error
    return list(data)


def _local_file(benchmark: Benchmark, folder: Path) -> Path:
    """The file with the benchmark's name, whatever its case and punctuation: AIME24.json, math-500.jsonl."""
    if not folder.is_dir():
        raise ValueError(f"data_dir {folder} is no folder (looked in {Path.cwd()})")
    names = {_plain(name) for name in (benchmark.name, *benchmark.files)}
    files = sorted(path for path in folder.iterdir() if path.suffix in FILE_SUFFIXES)
    found = [path for path in files if _plain(path.stem) in names]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"data_dir {folder} has several files of {benchmark.name} ({', '.join(path.name for path in found)}): keep "
            "one of them"
        )
    wanted = " or ".join(f"{name}{{{','.join(FILE_SUFFIXES)}}}" for name in (benchmark.name, *benchmark.files))
    has = ", ".join(path.name for path in files) or "no file of problems"
    raise ValueError(f"data_dir {folder} has no file of {benchmark.name}: it should be {wanted}; the folder has {has}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _row(row: RawRow, benchmark: Benchmark) -> RawRow:
    """A row with the columns prompt and answer, those of the Hub or, in files, these themselves."""
    new = dict(row)
    named_as_ours = "prompt" in row and "answer" in row
    prompt, answer = ("prompt", "answer") if named_as_ours else (benchmark.prompt, benchmark.answer)
    if missing := [column for column in (prompt, answer) if column not in row]:
        raise ValueError(
            f"{benchmark.name}: no column {' and no column '.join(missing)}; the data has the columns {', '.join(row)}"
        )
    own_id = new.pop("id", None)  # of the Hub's, used where the registry says that it is unique
    new["prompt"], new["answer"] = new.pop(prompt), _answer_text(new.pop(answer))
    new.pop("solution", None)  # an alias of the answer for sets of one's own
    if benchmark.id is not None and not named_as_ours:
        own_id = own_id if benchmark.id == "id" else new.pop(benchmark.id, None)
    elif not named_as_ours:
        own_id = None
    return new if own_id is None else {**new, "id": own_id}


def _answer_text(value: Any) -> Any:
    """Answers as the data sets hold them: 142.0 where only whole numbers occur, lists of equally valid parts."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str) and value.startswith("['") and value.endswith("']"):
        value = ast.literal_eval(value)
    if isinstance(value, list):
        return ", ".join(part.strip().removeprefix("$").removesuffix("$") for part in map(str, value))
    return value
