"""`sgpo compare` and `sgpo plot`."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from sgpo.errors import UnfinishedError, usage_errors
from sgpo.files import check_folder_writable

if TYPE_CHECKING:
    from sgpo.comparison.recipe import Recipe


def compare(argv: list[str]) -> None:
    """Run a comparison and write its table; with --table-only the table of what is there."""
    options = _compare_parser().parse_args(argv)
    from sgpo.comparison.checks import check_recipe_beforehand
    from sgpo.comparison.recipe import read_recipe
    from sgpo.comparison.results import RESULTS, read_results
    from sgpo.comparison.table import write_table

    with usage_errors():
        check_folder_writable(options.output, "--output")
        recipe = read_recipe(
            options.recipe,
            methods=options.methods,
            baseline=options.baseline,
            sets=options.sets,
            base_models=options.base_models,
        )
        if not options.table_only:
            check_recipe_beforehand(recipe)
    unfinished = None
    if not options.table_only:
        try:
            _run(options, recipe)
        except UnfinishedError as error:  # said last, below the table of what is there
            unfinished = error
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; the same command goes on with what is left") from None
    with usage_errors():
        rows = read_results(options.output / RESULTS)
        if rows or unfinished is None:
            write_table(rows, recipe.baseline, options.output, [method.name for method in recipe.methods])
    if unfinished is not None:
        raise unfinished


def _run(options: argparse.Namespace, recipe: Recipe) -> None:
    from sgpo.comparison.places import find_places, only_one
    from sgpo.comparison.plan import make_plan
    from sgpo.comparison.run import run_plan, unfinished_cells
    from sgpo.comparison.summary import notes_of

    with ExitStack() as stack:
        with usage_errors():
            places = find_places(options.parallel, on_cpu=bool(recipe.options.get("use_cpu")))
            lock = stack.enter_context(only_one(options.output))
            plan = make_plan(recipe, options.output, options.seeds, options.base_seeds)
            todo = unfinished_cells(plan)
        for note in notes_of(plan.budgets, recipe.baseline):
            print(f"{note}.")
        run_plan(plan, todo, places, lock, keep_models=options.keep_models)


def _compare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sgpo compare", allow_abbrev=False)
    parser.add_argument("--recipe", required=True, help="file, or name such as miniworld/compare")
    parser.add_argument("--methods", nargs="+", default=[], help="files beside the recipe, by name, or others by path")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="of data order, sampling and training")
    parser.add_argument(
        "--base-seeds", nargs="+", type=int, default=[], help="mini-world: base models of these pretraining seeds"
    )
    parser.add_argument("--base-models", nargs="+", default=[], help="folders or Hub names of base models")
    parser.add_argument("--baseline", default=None, help="method that the others are compared with")
    parser.add_argument("--sets", nargs="+", default=[], help="sets that are evaluated, by name (dev: for tuning)")
    parser.add_argument("--output", type=Path, default=Path("runs/comparison"), help="default runs/comparison")
    parser.add_argument("--parallel", type=int, default=None, help="cells at once; default: one a core, or a device")
    parser.add_argument("--keep-models", action="store_true", help="keep the final weights of every cell")
    parser.add_argument("--table-only", action="store_true", help="the table of what is finished; nothing is run")
    return parser


def plot(argv: list[str]) -> None:
    """Draw what a results.jsonl holds, or the metrics.jsonl of training runs."""
    options = _plot_parser().parse_args(argv)
    from sgpo.comparison.pictures import draw_all
    from sgpo.comparison.trajectories import read_source

    with usage_errors():
        source = read_source(options.sources)
        output = options.output or (options.sources[0].parent if source.scored else Path("runs/plots"))
        check_folder_writable(output, "--output")
        for path in draw_all(source, output, methods=options.methods, baseline=options.baseline):
            print(f"Written to {path} and {path.with_suffix('.svg')}")


def _plot_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sgpo plot", allow_abbrev=False)
    parser.add_argument("sources", nargs="+", type=Path, help="a results.jsonl, or folders of training runs")
    parser.add_argument("--output", type=Path, default=None, help="default: beside results.jsonl, or runs/plots")
    parser.add_argument("--methods", nargs="+", default=[], help="only these, in this order")
    parser.add_argument("--baseline", default="grpo", help="that of the differences (default grpo)")
    return parser
