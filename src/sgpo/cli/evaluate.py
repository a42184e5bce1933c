"""`sgpo eval` and `sgpo eval compare`."""

from __future__ import annotations

from dataclasses import dataclass, field

from sgpo.errors import usage_errors
from sgpo.evaluation.arguments import EvalArguments


def main(args: EvalArguments) -> None:
    from sgpo.evaluation.output import check_resumable, settings_of
    from sgpo.evaluation.plan import EvaluationPlan
    from sgpo.evaluation.run import evaluate_and_report
    from sgpo.miniworld.world import evaluation_sets
    from sgpo.runs.folder import check_output_of_evaluation
    from sgpo.screen import no_progress_bars

    if args.output:
        with usage_errors():
            check_output_of_evaluation(args.output, overwrite=args.overwrite)
    with no_progress_bars(everything=args.verbose):
        with usage_errors():
            plan = EvaluationPlan(args, evaluation_sets())
            settings = settings_of(args, plan)
            check_resumable(args, settings)
        evaluate_and_report(args, plan, settings)


@dataclass(frozen=True)
class EvalCompareArguments:
    """Which evaluations are compared."""

    first: str = field(metadata={"help": "Output folder of an evaluation.", "positional": True})
    second: str = field(metadata={"help": "Output folder of another one, on the same problems.", "positional": True})
    flipped: int = field(default=10, metadata={"help": "Problems that are listed."})
    seed: int = field(default=0, metadata={"help": "Of the bootstrap."})


def eval_compare(options: EvalCompareArguments) -> None:
    from sgpo.evaluation.compare import compare_evaluations, print_comparison

    with usage_errors():
        comparison = compare_evaluations(options.first, options.second, seed=options.seed)
    print_comparison(comparison, listed=options.flipped)
