"""The folder of an evaluation.

settings.json           what is known before the first answer; the summary repeats it
answers.journal.jsonl   every answer as it came, for going on after a kill
samples/NAME.parquet    a row for each sample: prompt, completion, verdict
summary.json            the settings and all numbers; there once the evaluation is complete
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

from sgpo import __version__
from sgpo.evaluation.arguments import EvalArguments
from sgpo.evaluation.statistics import standard_error
from sgpo.files import replacing
from sgpo.problems.inspection import describe_problems
from sgpo.runs.folder import clear, evaluation_in

if TYPE_CHECKING:
    from sgpo.evaluation.evaluate import Evaluation
    from sgpo.evaluation.plan import EvaluationPlan
    from sgpo.evaluation.results import Result

JOURNAL, SETTINGS, SUMMARY, SAMPLES = "answers.journal.jsonl", "settings.json", "summary.json", "samples"
PACKAGES = ("torch", "transformers", "math-verify", "vllm", "openai")
MAY_DIFFER = ("engine.base_url",)  # where a server is, not what it says


def settings_of(args: EvalArguments, plan: EvaluationPlan) -> dict[str, Any]:
    """Everything that a score depends on."""
    return {
        "engine": plan.identity,
        "prompt": {"system": args.system_prompt, "guided": args.guided},
        "sampling": {"temperature": args.temperature, "top_p": args.top_p, "seed": args.seed},
        "greedy": args.greedy,
        "benchmarks": {
            each.problems.name: {
                **describe_problems(each.problems.problems, each.problems.source),
                **({"of": describe_problems(each.problems.of, each.problems.source)} if each.problems.of else {}),
                "licence": each.problems.licence,
                "limit": args.limit,
                "k": each.asked.k,
                "max_completion_length": each.asked.sampling.max_new_tokens,
            }
            for each in plan.sets
            if not each.greedy
        },
        "versions": versions_of_evaluation(),
    }


def versions_of_evaluation() -> dict[str, str]:
    found = {"python": python_version(), "sgpo": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def begin_output(args: EvalArguments, settings: Mapping[str, Any]) -> None:
    """Clear what is to be overwritten, and write the settings; or go on with the evaluation that has the same ones."""
    assert args.output is not None
    folder = Path(args.output)
    if args.overwrite:
        clear(evaluation_in(folder))
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / JOURNAL).exists():
        print(f"Going on with the evaluation in {folder}.")
    _write(folder / SETTINGS, settings)


def check_resumable(args: EvalArguments, settings: Mapping[str, Any]) -> None:
    """Raises ValueError for an output with an unfinished evaluation under other settings."""
    if args.output is None or args.overwrite:
        return
    path, journal = Path(args.output) / SETTINGS, Path(args.output) / JOURNAL
    if not path.is_file() or not journal.is_file() or not journal.stat().st_size:
        return  # nothing has been answered
    old, new = flat(json.loads(path.read_text())), flat(json.loads(json.dumps(settings)))
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if changed := [name for name in changed if name not in MAY_DIFFER]:
        shown = "; ".join(f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in changed[:3])
        raise ValueError(
            f"output {args.output} holds an unfinished evaluation with other settings ({shown}); go on with those, "
            "write another output, or overwrite: true to begin anew"
        )


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}.{key}" if name else key).items()}


def save_results(args: EvalArguments, settings: Mapping[str, Any], results: Sequence[Result]) -> None:
    """The samples, and last the summary, which says that all is there."""
    assert args.output is not None
    folder = Path(args.output)
    (folder / SAMPLES).mkdir(exist_ok=True)
    for result in results:
        save_samples(result.evaluation, folder / SAMPLES / f"{result.problems.name}.parquet")
        if result.greedy is not None:
            save_samples(result.greedy, folder / SAMPLES / f"{result.problems.name}.greedy.parquet")
    _write(folder / SUMMARY, summary_of(args, settings, results))


def summary_of(args: EvalArguments, settings: Mapping[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """The settings, and beside those of each benchmark its numbers."""
    numbers = {result.problems.name: _numbers(result.evaluation, args.group_by) for result in results}
    for result in results:
        if result.greedy is not None:
            numbers[result.problems.name]["greedy"] = _numbers(result.greedy, args.group_by)
    benchmarks = {name: {**settings["benchmarks"][name], **numbers[name]} for name in numbers}
    return {**settings, "benchmarks": benchmarks, **_average(results), "configuration": asdict(args)}


def _numbers(evaluation: Evaluation, group_by: str | None) -> dict[str, Any]:
    return {
        "average": evaluation.average,
        "standard_error": evaluation.standard_error,
        "pass_at": {str(j): value for j, value in evaluation.pass_at.items()},
        "majority": evaluation.majority,
        "truncated": evaluation.truncated,
        "length": evaluation.length,
        "verdicts": evaluation.verdicts,
        **({"by": evaluation.by(group_by)} if group_by else {}),
    }


def _average(results: Sequence[Result]) -> dict[str, Any]:
    """The mean of the scores, each benchmark with the same weight."""
    if len(results) < 2:
        return {}
    n = len(results)
    errors = [standard_error(result.evaluation.rates) for result in results]
    return {
        "average": sum(result.evaluation.average for result in results) / n,
        "standard_error": sum(error**2 for error in errors) ** 0.5 / n,
    }


def save_samples(evaluation: Evaluation, path: Path) -> None:
    """A row for each sample, those of a problem together; an existing file is replaced once the new one is complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "id": sample.problem.id,
            "sample": number % evaluation.k,
            "prompt": sample.problem.prompt,
            "answer": sample.problem.answer,
            "completion": _writable(sample.completion),
            "reasoning": _writable(sample.reasoning),
            "extracted": _writable(sample.verdict.extracted) if sample.verdict else None,
            "verdict": sample.verdict.status if sample.verdict else None,
            "reward": sample.reward,
            "correct": sample.correct,
            "truncated": sample.truncated,
            "length": sample.length,
        }
        for number, sample in enumerate(evaluation.samples)
    ]
    texts = ("id", "prompt", "answer", "completion", "reasoning", "extracted", "verdict")
    types = {**dict.fromkeys(texts, pa.string()), "sample": pa.int32(), "length": pa.int64(), "reward": pa.float64()}
    table = pa.table({name: pa.array([row[name] for row in rows], types.get(name, pa.bool_())) for name in rows[0]})
    with replacing(path) as partial:
        pq.write_table(table, partial)


def _writable(text: str | None) -> str | None:
    """Halves of surrogate pairs, which models write now and then, as question marks: no file format takes them."""
    return text if text is None else text.encode("utf-8", errors="replace").decode("utf-8")


def _write(path: Path, value: Mapping[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
