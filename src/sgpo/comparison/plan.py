"""What a comparison will run: base models, data and cells, each with all that its result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sgpo.command_runner import Command
from sgpo.comparison.checks import check_methods, check_training_data
from sgpo.comparison.recipe import SFT, ComparedMethod, Recipe
from sgpo.configuration import parse, read_config
from sgpo.evaluation.arguments import EvalArguments, check_arguments, read_sets
from sgpo.evaluation.output import flat
from sgpo.miniworld.world import BASE_MODEL, BASES, SHIPPED_SEED, VERSION, create_world, evaluation_sets
from sgpo.models.checkpoint import open_checkpoint
from sgpo.problems import Problem, load_problems, save_problems
from sgpo.problems.inspection import describe_problems
from sgpo.runs.resume import FREE, FREE_PREFIXES

OF_A_CELL = {"model", "problems", "eval_problems", "output_dir", "seed"}  # that the comparison decides
SFT_SEED = 0
WARM_UP = ComparedMethod(SFT)
# What may differ between a run and its continuation, but not between the cells of a comparison.
DECIDING = {"max_steps", "num_train_epochs", "load_best_model_at_end", "metric_for_best_model", "greater_is_better"}


@dataclass(frozen=True)
class Base:
    """A base model. Example: ``Base("base-102", Path("runs/comparison/base-102"), pretraining_seed=102)``"""

    name: str
    model: str
    pretraining_seed: int | None = None  # of one of the mini-world, which is pretrained here if it is not there yet
    strength: str = "base"  # of the mini-world


@dataclass(frozen=True)
class Data:
    """Where the problems are, and the fingerprints of "sft", "rl", "sft_all", and of each set."""

    sft: str
    rl: str
    sft_all: str
    dev: str | None
    sets: dict[str, str]
    fingerprints: dict[str, str]
    fingerprints_of_sets: dict[str, str]


@dataclass(frozen=True)
class Cell:
    """One method with one seed on one base model; the warm-up itself has no seed of its own."""

    base: Base
    seed: int | None
    method: ComparedMethod

    @property
    def key(self) -> tuple[str, int | None, str]:
        return self.base.name, self.seed, self.method.name

    @property
    def name(self) -> str:
        return self.name_of(*self.key)

    @staticmethod
    def name_of(base: str, seed: int | None, method: str) -> str:
        """Example: ``base-101/seed-3/sgpo``"""
        return "/".join([base, *([] if seed is None else [f"seed-{seed}"]), method])


@dataclass(frozen=True)
class ComparisonPlan:
    recipe: Recipe
    output: Path
    bases: list[Base]
    seeds: list[int]
    data: Data
    budgets: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the methods that `sgpo train` runs

    @property
    def cells(self) -> list[Cell]:
        """All methods of a seed before the next seed, so that early results can be compared."""
        methods = [method for method in self.recipe.methods if method.name != SFT]
        warmups = [Cell(base, None, WARM_UP) for base in self.bases if WARM_UP in self.recipe.methods]
        return warmups + [Cell(base, seed, method) for seed in self.seeds for base in self.bases for method in methods]

    def configuration(self, cell: Cell) -> dict[str, Any]:
        """Everything that the result of a cell depends on, as JSON has it."""
        recipe, found, of_sets = self.recipe, self.data.fingerprints, self.data.fingerprints_of_sets
        warmup = _deciding(read_config(recipe.sft), keeps_best=True)
        values: dict[str, Any] = {"sft": {**warmup, "problems": found["sft"]}}
        if (of_sft := recipe.sft_of(cell.method)) is not None:
            all_responses = _deciding(read_config(of_sft), keeps_best=True)
            values = {"sft_all": {**all_responses, "problems": found["sft_all"]}}
        elif cell.method.path is not None:
            values["method"] = _deciding({**read_config(cell.method.path), **recipe.options})
            if code := code_of(values["method"]):
                values["code"] = code
            values["problems"] = found["rl"]
        values["base"] = cell.base.model if cell.base.pretraining_seed is None else cell.base.name
        values["evaluation"] = recipe.evaluation
        values["sets"] = of_sets
        return json.loads(json.dumps(values, default=str))


def make_plan(recipe: Recipe, output: Path, seeds: Sequence[int], base_seeds: Sequence[int]) -> ComparisonPlan:
    """Check everything, and write the data; nothing is trained.

    Raises:
        ValueError: what cannot be compared; the message says what to write instead.
    """
    if not seeds:
        raise ValueError("there is nothing to run without a seed: give --seeds 1 2 3 4 5, or fewer")
    for name, given in (("--seeds", seeds), ("--base-seeds", base_seeds)):
        if len(set(given)) < len(given):
            raise ValueError(f"{name} has the same number twice: {' '.join(map(str, given))}")
    bases = find_bases(recipe, output, base_seeds)
    for base in bases:
        if base.pretraining_seed is None:
            open_checkpoint(base.model)
    budgets = check_methods(recipe)
    data = write_data(recipe, output)
    there = bases[0].pretraining_seed is None or is_pretrained(bases[0].model)
    check_training_data(recipe, bases[0].model if there else str(BASE_MODEL), data.sft, data.rl, data.sft_all)
    return ComparisonPlan(recipe, output, bases, list(seeds), data, budgets)


# ---------------------------------------------------------------------- base models


def find_bases(recipe: Recipe, output: Path, seeds: Sequence[int]) -> list[Base]:
    """Raises ValueError where there is no base model, or one is named in two ways."""
    if seeds and recipe.world is None:
        raise ValueError("--base-seeds are of the mini-world; for other recipes give --base-models")
    if seeds and recipe.base_models:
        raise ValueError("give --base-seeds or --base-models, not both")
    if recipe.base_models:
        names = [Path(model).name for model in recipe.base_models]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two base models are called {repeated[0]}: give one of the folders another name")
        return [Base(name, model) for name, model in zip(names, recipe.base_models, strict=True)]
    if recipe.world is None:
        raise ValueError(f"{recipe.path} names no base_models; give --base-models")
    found = []
    for seed in seeds or [SHIPPED_SEED]:
        name = f"{recipe.world.strength}-{seed}"
        shipped = BASES / name
        model = shipped if is_pretrained(shipped) else output / name
        found.append(Base(name, str(model), seed, recipe.world.strength))
    return found


def is_pretrained(model: str | Path) -> bool:
    """The tokenizer is saved last."""
    return all((Path(model) / name).is_file() for name in ("model.safetensors", "tokenizer_config.json"))


# ---------------------------------------------------------------------- data


def write_data(recipe: Recipe, output: Path) -> Data:
    """The mini-world's problem sets, or the files that the recipe names; and the union for sft-all."""
    output.mkdir(parents=True, exist_ok=True)
    if recipe.world is not None:
        folder = _write_world(recipe, output)
        sft, rl, dev = (str(folder / f"{name}.jsonl") for name in ("sft", "rl", "dev"))
        sets = {name: str(folder / f"{source}.jsonl") for name, source in recipe.sets.items()}
    else:
        sft, rl, dev, sets = recipe.sft_problems, recipe.problems, recipe.dev_problems or "", recipe.sets
    warmup, training = _load(sft), _load(rl)
    together, path = every_response([*warmup, *training]), output / "sft-all.jsonl"
    save_problems(together, path)
    found = {"sft": warmup, "rl": training, "sft_all": together}
    return Data(sft, rl, str(path), dev or None, sets, _fingerprints(found), _fingerprints(_read_sets(recipe, sets)))


def every_response(problems: Sequence[Problem]) -> list[Problem]:
    """The problems with a response, each response once: a later row keeps those that no earlier one has."""
    seen: set[tuple[str, str, str]] = set()
    found = []
    for each in problems:
        new = [text for text in dict.fromkeys(each.responses) if (each.prompt, each.answer, text) not in seen]
        seen |= {(each.prompt, each.answer, text) for text in new}
        if new:
            found.append(replace(each, response=new[0], more_responses=tuple(new[1:])))
    return found


def _read_sets(recipe: Recipe, sets: Mapping[str, str]) -> dict[str, Sequence[Problem]]:
    """As `sgpo eval` will read them. Raises ValueError for what it would refuse."""
    options = {"model": "", "benchmarks": list(sets.values()), **recipe.evaluation}
    (args,) = parse("eval", (EvalArguments,), Command("", options).arguments)
    check_arguments(args)
    return {name: each.problems for name, each in zip(sets, read_sets(args, evaluation_sets()), strict=True)}


def _fingerprints(problems: Mapping[str, Sequence[Problem]]) -> dict[str, str]:
    return {name: describe_problems(some)["fingerprint"] for name, some in problems.items()}


def _load(source: str) -> list[Problem]:
    return load_problems(source, bad_rows="keep")


def _write_world(recipe: Recipe, output: Path) -> Path:
    assert recipe.world is not None
    folder, marker = output / "world", output / "world" / "world.json"
    wanted = {"version": VERSION, "seed": recipe.world.seed, "sizes": asdict(recipe.world.sizes)}
    if marker.is_file():
        if differences := changes(json.loads(marker.read_text()), wanted):
            raise ValueError(f"{folder} holds other problems ({differences}); write another --output")
        return folder
    create_world(folder, seed=recipe.world.seed, sizes=recipe.world.sizes)
    marker.write_text(json.dumps(wanted) + "\n")
    return folder


# ---------------------------------------------------------------------- configurations


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first differences in words; nothing where there are none."""
    old, new = flat(dict(before)), flat(json.loads(json.dumps(now)))
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return "; ".join(f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in names[:3])


def code_of(values: Mapping[str, Any]) -> dict[str, str]:
    """A hash of each file with code of the user's own that a recipe names: path/to/file.py:NAME."""
    names = [str(values.get("method", "")), *map(str, values.get("rewards") or [])]
    files = [Path(name.rpartition(":")[0]) for name in names if ".py:" in name]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files if path.is_file()}


def _deciding(values: Mapping[str, Any], *, keeps_best: bool = False) -> dict[str, Any]:
    """What of a recipe decides a result."""
    best = values.get("load_best_model_at_end", keeps_best)  # then the evaluations decide which checkpoint it is
    free = tuple(prefix for prefix in FREE_PREFIXES if not (best and prefix in ("eval_", "save_")))
    kept = [name for name in values if name not in FREE - DECIDING | OF_A_CELL]
    return {name: values[name] for name in kept if not name.startswith(free)}
