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
from sgpo.evaluation.card import CARD, add_scores
from sgpo.evaluation.engines import EvaluationEngine
from sgpo.evaluation.evaluate import Evaluation, evaluation_of
from sgpo.evaluation.output import JOURNAL, begin_output, save_results
from sgpo.evaluation.plan import EvaluationPlan
from sgpo.evaluation.report import print_set_results
from sgpo.evaluation.results import Result
from sgpo.runs.folder import explained_lack_of_space
from sgpo.screen import counted


def evaluate_and_report(args: EvalArguments, plan: EvaluationPlan, settings: Mapping[str, Any]) -> list[Result]:
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
    print_set_results(args, results, engine.repeatable)
    if args.card:
        with explained_lack_of_space(args.model):
            add_scores(args.model, results)
        print(f"The scores are on the model card, {Path(args.model) / CARD}")
    return results


def _results(args: EvalArguments, plan: EvaluationPlan, engine: EvaluationEngine) -> list[Result]:
    evaluations: dict[tuple[str, bool], Evaluation] = {}
    with _journal(args) as journal:
        for each in plan.sets:
            name, problems = each.problems.name, each.problems.problems
            title, completions_of_all = f"{name} greedy" if each.greedy else name, len(problems) * each.asked.k
            with counted(title, completions_of_all, "completions") as progress:
                completions = engine.answer(problems, each.asked, journal, progress)
            evaluations[name, each.greedy] = evaluation_of(problems, completions)
    return [
        Result(
            each.problems,
            each.asked,
            evaluations[each.problems.name, False],
            evaluations.get((each.problems.name, True)),
        )
        for each in plan.sets
        if not each.greedy
    ]


@contextmanager
def _journal(args: EvalArguments) -> Iterator[Path]:
    """Where answers are kept: in the output, or for as long as the evaluation lasts."""
    if args.output:
        yield Path(args.output) / JOURNAL
        return
    with tempfile.TemporaryDirectory(prefix="sgpo-eval-") as folder:
        yield Path(folder) / JOURNAL
