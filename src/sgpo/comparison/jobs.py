"""What is run for the base models, the warm-ups and the cells: generators of commands, which go on from what is there.

OUTPUT/base-102/            a base model that was pretrained here
OUTPUT/BASE/sft/            the warm-up of a base model
OUTPUT/cells/NAME/run/      training of a cell      OUTPUT/cells/NAME/evaluation/     its evaluation
OUTPUT/cells/NAME/cell.json the cell's configuration, and the seconds of what has ended
OUTPUT/logs/                what the commands said
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sgpo.command_runner import Command, Job
from sgpo.comparison.collecting import evaluation_result, training_result, versions_of_comparison
from sgpo.comparison.plan import SFT_SEED, WARM_UP, Base, Cell, ComparisonPlan, changes, is_pretrained
from sgpo.comparison.recipe import SFT
from sgpo.comparison.results import CellResult
from sgpo.errors import UsageError
from sgpo.evaluation.output import JOURNAL, SUMMARY
from sgpo.files import replacing
from sgpo.runs.checkpoints import checkpoints_of
from sgpo.runs.folder import WEIGHTS, clear, evaluation_in
from sgpo.sizes import FITTED

ALWAYS = {"disable_tqdm": True}


def all_jobs(
    plan: ComparisonPlan, todo: list[Cell], finished: Callable[[CellResult], None], *, keep_models: bool
) -> dict[str, Job]:
    """Base models and warm-ups as far as they are missing and needed, then the cells."""
    bases = {cell.base.name: cell.base for cell in todo}
    needing_warmup = {cell.base.name for cell in todo if plan.recipe.sft_of(cell.method) is None}
    jobs: dict[str, Job] = {}
    for name, base in bases.items():
        if base.pretraining_seed is not None and not is_pretrained(base.model):
            jobs[name] = Job(_pretraining(base))
        if name in needing_warmup:
            jobs[f"{name}/warm-up"] = Job(_warmup(plan, base), after=(name,) if name in jobs else ())
    for cell in todo:
        needed = cell.base.name if plan.recipe.sft_of(cell.method) else f"{cell.base.name}/warm-up"
        run = CellRun(plan, cell, finished, keep_models)
        jobs[cell.name] = Job(run.commands(), after=(needed,) if needed in jobs else ())
    return jobs


# ---------------------------------------------------------------------- what cells begin with


def _pretraining(base: Base) -> Iterator[Command]:
    yield Command(
        "miniworld pretrain", {"seed": base.pretraining_seed, "strength": base.strength, "output": base.model}
    )


def warmup_folder(plan: ComparisonPlan, base: Base) -> Path:
    return plan.output / base.name / "sft"


def check_warmup_is_same(plan: ComparisonPlan, base: Base) -> None:
    """Raises ValueError for a finished warm-up that was made in another way, UsageError for one with a damaged file."""
    path = warmup_folder(plan, base) / "warm-up.json"
    if path.is_file() and (found := changes(_read(path), _warmup_configuration(plan, base))):
        raise ValueError(
            f"the warm-up in {path.parent} was made with another configuration: {found}. Go on with the old one, or "
            "write another --output"
        )


def _warmup_configuration(plan: ComparisonPlan, base: Base) -> dict[str, Any]:
    values = plan.configuration(Cell(base, None, WARM_UP))
    return {"sft": values["sft"], "base": values["base"]}


def _warmup(plan: ComparisonPlan, base: Base) -> Iterator[Command]:
    folder = warmup_folder(plan, base)
    marker = folder / "warm-up.json"
    if marker.is_file():
        return
    options = {"config": plan.recipe.sft, "model": base.model, "problems": plan.data.sft, "seed": SFT_SEED}
    yield Command("sft", {**options, **ALWAYS, "output_dir": folder, **_way_on(folder)})
    clear(list(folder.glob("checkpoint-*")))
    _write(marker, _warmup_configuration(plan, base))


def _way_on(folder: Path, *, same: bool = True) -> dict[str, bool]:
    """Go on from the newest checkpoint; where there is none, begin anew."""
    return {"resume": True} if same and checkpoints_of(folder) else {"overwrite": True}


# ---------------------------------------------------------------------- one cell


class CellRun:
    """Train, evaluate, collect. cell.json says what of it has ended."""

    def __init__(
        self, plan: ComparisonPlan, cell: Cell, finished: Callable[[CellResult], None], keep_model: bool
    ) -> None:
        self.plan, self.cell, self.finished, self.keep_model = plan, cell, finished, keep_model
        self.folder = plan.output / "cells" / cell.name
        self.state_path = self.folder / "cell.json"
        self.configuration = plan.configuration(cell)

    def commands(self) -> Iterator[Command]:
        state = self._state()
        model = warmup_folder(self.plan, self.cell.base)
        if self.cell.method.name != SFT:
            model = self.folder / "run"
            if "train" not in state["seconds"]:
                clear(evaluation_in(self.folder / "evaluation"))
                yield from self._timed("train", state, self._training(model, same=state["begun"]))
        evaluation = self.folder / "evaluation"
        if not (evaluation / SUMMARY).is_file():
            yield from self._timed("evaluate", state, self._evaluation(model, evaluation))
        self.finished(self._row(state))
        _write(self.state_path, {**state, "collected": True})
        clear(self._leftovers(model, evaluation))

    def _state(self) -> dict[str, Any]:
        """What has been done with this configuration; under another one all is begun anew."""
        if self.state_path.is_file():
            state = _read(self.state_path)
            # Of a cell that was collected and has no result any more, the line was deleted: it is run again.
            if not changes(state["configuration"], self.configuration) and not state.get("collected"):
                return {**state, "begun": True}
            clear(evaluation_in(self.folder / "evaluation"))
        state = {"configuration": self.configuration, "seconds": {}, "begun": False}
        _write(self.state_path, state)
        return state

    def _timed(self, phase: str, state: dict[str, Any], command: Command) -> Iterator[Command]:
        begun = time.monotonic()
        yield command
        state["seconds"][phase] = round(time.monotonic() - begun, 1)
        _write(self.state_path, state)

    def _training(self, folder: Path, *, same: bool) -> Command:
        plan, cell = self.plan, self.cell
        common: dict[str, Any] = {"seed": cell.seed, **ALWAYS, "output_dir": folder, **_way_on(folder, same=same)}
        if (of_sft := plan.recipe.sft_of(cell.method)) is not None:
            data = {"config": of_sft, "model": cell.base.model, "problems": plan.data.sft_all}
            return Command("sft", {**data, **common})
        data = {"config": cell.method.path, "model": warmup_folder(plan, cell.base), "problems": plan.data.rl}
        if plan.data.dev is not None:
            data["eval_problems"] = plan.data.dev
        sizes = {name: plan.budgets[cell.method.name][name] for name in FITTED}
        return Command("train", {**data, **plan.recipe.options, **sizes, "logging_steps": 1, **common})

    def _evaluation(self, model: Path, output: Path) -> Command:
        options = {"model": model, "benchmarks": list(self.plan.data.sets.values()), "output": output}
        return Command("eval", {**options, **self.plan.recipe.evaluation, "seed": self.cell.seed or 0})

    def _row(self, state: dict[str, Any]) -> CellResult:
        cell, budget = self.cell, self.plan.budgets.get(self.cell.method.name)
        row: CellResult = {"base": cell.base.name, "seed": cell.seed, "method": cell.method.name}
        row["sets"] = evaluation_result(self.folder / "evaluation", list(self.plan.data.sets))
        row["budget"] = budget
        row["totals"] = {"seconds": {}}
        if budget is not None:
            counts = budget["samples"], budget["problems_per_rollout"], budget["updates_per_rollout"]
            row |= training_result(self.folder / "run", *counts)
        row["totals"]["seconds"] |= {f"{phase} command": value for phase, value in state["seconds"].items()}
        return {**row, "configuration": self.configuration, "versions": versions_of_comparison()}

    def _leftovers(self, model: Path, evaluation: Path) -> list[Path]:
        """Hundreds of cells of large models would fill a disk."""
        found = [*model.glob("checkpoint-*"), evaluation / JOURNAL]
        if self.cell.method.name == SFT:
            found = [evaluation / JOURNAL]
        elif not self.keep_model:
            found += [path for pattern in WEIGHTS for path in model.glob(pattern)]
        return [path for path in found if path.exists()]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}); delete it, and what it belongs to begins anew") from error


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n")
