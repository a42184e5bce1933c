"""`sgpo eval` and `sgpo eval compare`."""

from __future__ import annotations

import argparse

from sgpo.errors import usage_errors


def main(argv: list[str]) -> None:
    if argv[:1] == ["compare"]:
        _compare(argv[1:])
    else:
        _evaluate(argv)


def _evaluate(argv: list[str]) -> None:
    from sgpo.options.groups import EVAL, check_beforehand
    from sgpo.options.help import asks_for_help, print_help

    if asks_for_help(argv):
        print_help(EVAL, argv)
        return
    with usage_errors():
        check_beforehand(EVAL, argv)
    from sgpo.configuration import parse
    from sgpo.evaluation.arguments import EvalArguments
    from sgpo.evaluation.output import check_resumable, settings_of
    from sgpo.evaluation.plan import EvaluationPlan
    from sgpo.evaluation.run import evaluate_and_report
    from sgpo.miniworld.world import evaluation_sets
    from sgpo.runs.folder import check_output_of_evaluation
    from sgpo.screen import no_progress_bars

    with usage_errors():
        (args,) = parse("eval", (EvalArguments,), argv)
        if args.output:
            check_output_of_evaluation(args.output, overwrite=args.overwrite)
    with no_progress_bars(everything=args.verbose):
        with usage_errors():
            plan = EvaluationPlan(args, evaluation_sets())
            settings = settings_of(args, plan)
            check_resumable(args, settings)
        evaluate_and_report(args, plan, settings)


def _compare(argv: list[str]) -> None:
    from sgpo.evaluation.compare import compare_evaluations, print_comparison

    parser = argparse.ArgumentParser(prog="sgpo eval compare", allow_abbrev=False)
    parser.add_argument("first", help="output folder of an evaluation")
    parser.add_argument("second", help="output folder of another one, on the same problems")
    parser.add_argument("--flipped", type=int, default=10, help="problems that are listed (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default 0)")
    options = parser.parse_args(argv)
    with usage_errors():
        comparison = compare_evaluations(options.first, options.second, seed=options.seed)
    print_comparison(comparison, listed=options.flipped)
