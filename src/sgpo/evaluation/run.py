"""One evaluation, from its plan to its results: sgpo eval.

    settings.json -> answers -> verdicts -> samples, summary

`settings.json` is written before the first answer: it is the part of the summary that is known beforehand, and an
evaluation that was killed is gone on with only under the same settings.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sgpo.evaluation.arguments import EvalArguments
from sgpo.evaluation.engines import Engine
from sgpo.evaluation.evaluate import Evaluation, score
from sgpo.evaluation.output import JOURNAL, begin_output, save_results
from sgpo.evaluation.plan import Plan, Result
from sgpo.evaluation.report import print_results
from sgpo.runs.folder import explained_lack_of_space
from sgpo.screen import counted


def evaluate_and_report(args: EvalArguments, plan: Plan, settings: Mapping[str, Any]) -> list[Result]:
    """Answer and score everything, write it and print it.

    Raises:
        UnfinishedError: answers are missing; those that were given are kept in the output.
    """
    engine = plan.engine()
    if args.output is None:
        results = _results(args, plan, engine)
    else:
        with explained_lack_of_space(args.output):
            begin_output(args, settings)
            results = _results(args, plan, engine)
            save_results(args, settings, results)
    print_results(args, results, engine.repeatable)
    return results


def _results(args: EvalArguments, plan: Plan, engine: Engine) -> list[Result]:
    evaluations: dict[tuple[str, bool], Evaluation] = {}
    with _journal(args) as journal:
        for job in plan.jobs:
            name, problems = job.problems.name, job.problems.problems
            title, completions_of_all = f"{name} greedy" if job.greedy else name, len(problems) * job.asked.k
            with counted(title, completions_of_all, "completions") as progress:
                completions = engine.answer(problems, job.asked, journal, progress)
            evaluations[name, job.greedy] = score(problems, completions)
    return [
        Result(
            job.problems, job.asked, evaluations[job.problems.name, False], evaluations.get((job.problems.name, True))
        )
        for job in plan.jobs
        if not job.greedy
    ]


@contextmanager
def _journal(args: EvalArguments) -> Iterator[Path]:
    """Where answers are kept: in the output, or for as long as the evaluation lasts."""
    if args.output:
        yield Path(args.output) / JOURNAL
        return
    with tempfile.TemporaryDirectory(prefix="sgpo-eval-") as folder:
        yield Path(folder) / JOURNAL
