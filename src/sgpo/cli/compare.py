"""`sgpo compare` and `sgpo plot`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sgpo.errors import UnfinishedError, usage_errors
from sgpo.files import check_folder_writable

if TYPE_CHECKING:
    from sgpo.comparison.recipe import Recipe


@dataclass(frozen=True)
class CompareArguments:
    """What is compared over which seeds, and where."""

    recipe: str = field(metadata={"help": "File, or name such as miniworld/compare."})
    methods: list[str] = field(default_factory=list, metadata={"help": "By name beside the recipe, or by path."})
    seeds: list[int] = field(default_factory=list, metadata={"help": "Of data order, sampling and training."})
    base_seeds: list[int] = field(default_factory=list, metadata={"help": "Mini-world: of the base models."})
    base_models: list[str] = field(default_factory=list, metadata={"help": "Folders or Hub names of base models."})
    baseline: str | None = field(default=None, metadata={"help": "Method that the others are compared with."})
    sets: list[str] = field(default_factory=list, metadata={"help": "Evaluated ones (dev: for tuning)."})
    output: Path = field(default=Path("runs/comparison"), metadata={"help": "Folder."})
    parallel: int | None = field(default=None, metadata={"help": "Cells at once; default: one a core, or a device."})
    keep_models: bool = field(default=False, metadata={"help": "Keep the final weights of every cell."})
    table_only: bool = field(default=False, metadata={"help": "The table of what is finished; nothing is run."})


def compare(options: CompareArguments) -> None:
    """Run a comparison and write its table; with --table-only the table of what is there."""
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


def _run(options: CompareArguments, recipe: Recipe) -> None:
    from sgpo.comparison.devices import find_places, only_one
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


@dataclass(frozen=True)
class PlotArguments:
    """What is drawn."""

    sources: list[Path] = field(metadata={"help": "A results.jsonl, or folders of training runs.", "positional": True})
    output: Path | None = field(default=None, metadata={"help": "Default: beside results.jsonl, or runs/plots."})
    methods: list[str] = field(default_factory=list, metadata={"help": "Only these, in this order."})
    baseline: str = field(default="grpo", metadata={"help": "That of the differences."})


def plot(options: PlotArguments) -> None:
    """Draw what a results.jsonl holds, or the metrics.jsonl of training runs."""
    from sgpo.comparison.pictures import draw_all
    from sgpo.comparison.trajectories import read_source

    with usage_errors():
        source = read_source(options.sources)
        output = options.output or (options.sources[0].parent if source.scored else Path("runs/plots"))
        check_folder_writable(output, "--output")
        for path in draw_all(source, output, methods=options.methods, baseline=options.baseline):
            print(f"Written to {path}, {path.with_suffix('.svg')} and {path.with_suffix('.pdf')}")
