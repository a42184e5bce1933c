"""What a comparison will run: base models, data and cells, each with all that its result depends on."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sgpo.checkpoints import open_checkpoint
from sgpo.command_runner import Command
from sgpo.comparison.collecting import samples_of
from sgpo.comparison.recipe import SFT, SFT_ALL, Method, Recipe
from sgpo.configuration import parse, read_config
from sgpo.evaluation.arguments import EvalArguments, check_arguments, read_sets
from sgpo.evaluation.output import flat
from sgpo.miniworld.world import BASE_MODEL, VERSION, create_world
from sgpo.problems import Problem, load_problems, save_problems
from sgpo.problems.inspection import describe
from sgpo.resuming import FREE, FREE_PREFIXES

OF_A_CELL = {"model", "problems", "eval_problems", "output_dir", "seed"}  # that the comparison decides
SFT_SEED = 0
WARM_UP = Method(SFT)
# What may differ between a run and its continuation, but not between the cells of a comparison.
DECIDING = {"max_steps", "num_train_epochs", "load_best_model_at_end", "metric_for_best_model", "greater_is_better"}
BUDGET = (
    "max_steps",
    "num_train_epochs",
    "problems_per_rollout",
    "updates_per_rollout",
    "max_completion_length",
    "temperature",
    "top_p",
)
OF_THE_DATA = ("limit", "split", "revision")  # of a recipe, that would give methods other problems


@dataclass(frozen=True)
class Base:
    """A base model. Example: ``Base("base-102", Path("runs/comparison/base-102"), pretraining_seed=102)``"""

    name: str
    model: str
    pretraining_seed: int | None = None  # of one that is pretrained here if it is not there yet


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
    method: Method

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
class Plan:
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
        if cell.method.name == SFT_ALL:
            assert recipe.sft_all is not None
            all_responses = _deciding(read_config(recipe.sft_all), keeps_best=True)
            values = {"sft_all": {**all_responses, "problems": found["sft_all"]}}
        elif cell.method.path is not None:
            values["method"] = _deciding({**read_config(cell.method.path), **recipe.options})
            if code := code_of(values["method"]):
                values["code"] = code
            values["problems"] = found["rl"]
        values["base"] = cell.base.model if cell.base.pretraining_seed is None else cell.base.pretraining_seed
        values["evaluation"] = recipe.evaluation
        values["sets"] = of_sets
        return json.loads(json.dumps(values, default=str))


def make_plan(recipe: Recipe, output: Path, seeds: Sequence[int], base_seeds: Sequence[int]) -> Plan:
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
    check_training_data(recipe, data, bases[0])
    return Plan(recipe, output, bases, list(seeds), data, budgets)


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
    from sgpo.miniworld.pretrain import SHIPPED_SEED

    found = []
    for seed in seeds or [SHIPPED_SEED]:
        name = f"base-{seed}"
        shipped = seed == SHIPPED_SEED
        found.append(Base(name, str(BASE_MODEL if shipped else output / name), pretraining_seed=seed))
    return found


def is_pretrained(base: Base) -> bool:
    """The tokenizer is saved last."""
    return all((Path(base.model) / name).is_file() for name in ("model.safetensors", "tokenizer_config.json"))


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
    responses = {(each.prompt, each.answer, each.response): each for each in (*warmup, *training) if each.response}
    together = output / "sft-all.jsonl"
    save_problems(list(responses.values()), together)
    found = {"sft": warmup, "rl": training, "sft_all": list(responses.values())}
    return Data(
        sft, rl, str(together), dev or None, sets, _fingerprints(found), _fingerprints(_read_sets(recipe, sets))
    )


def _read_sets(recipe: Recipe, sets: Mapping[str, str]) -> dict[str, Sequence[Problem]]:
    """As `sgpo eval` will read them. Raises ValueError for what it would refuse."""
    options = {"model": "", "benchmarks": list(sets.values()), **recipe.evaluation}
    (args,) = parse("eval", (EvalArguments,), Command("", options).arguments)
    check_arguments(args)
    return {name: each.problems for name, each in zip(sets, read_sets(args), strict=True)}


def _fingerprints(problems: Mapping[str, Sequence[Problem]]) -> dict[str, str]:
    return {name: describe(some)["fingerprint"] for name, some in problems.items()}


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


# ---------------------------------------------------------------------- methods


def check_data(path: Path, data: Any, args: Any = None) -> None:
    """Refuse what would give one method other problems than another; strategies may come from another column.

    Raises:
        ValueError: the recipe's name, and what to leave out.
    """
    wrong = [name for name in OF_THE_DATA if getattr(data, name) != getattr(type(data), name)]
    wrong += ["columns" for pair in data.columns if not pair.startswith("strategy=")]
    for name in ("bad_rows", "without_strategy"):
        wrong += [f"{name}: drop"] if getattr(args, name, None) == "drop" else []
    if wrong:
        raise ValueError(
            f"{path} has {wrong[0]}: methods are compared on the same problems; write the problems that are meant "
            "into files with the columns prompt, answer, response and strategy, and leave it out"
        )


def check_methods(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Refuse what a command would refuse later, and tell the budget of each method.

    Raises:
        ValueError: the configuration of a method or a warm-up that its command does not take.
    """
    from sgpo.commands import SFTArguments, TrainArguments
    from sgpo.training.config import SGPOConfig
    from sgpo.training.sft import WarmupConfig

    # Whatever devices there are: nothing is computed here.
    given = {"model": "model", "problems": "problems", "output_dir": "run", "use_cpu": True}
    budgets: dict[str, dict[str, Any]] = {}
    with _unchanged_environment():
        for path in (recipe.sft, *([recipe.sft_all] if recipe.sft_all else [])):
            data, _ = parse("sft", (SFTArguments, WarmupConfig), Command("", {"config": path, **given}).arguments)
            check_data(path, data)
        for method in recipe.methods:
            if method.path is None:
                continue
            with _named(f"method {method.name}", method.path):
                options = {"config": method.path, **recipe.options, **given}
                data, args = parse("train", (TrainArguments, SGPOConfig), Command("", options).arguments)
                check_data(method.path, data, args)
            samples = samples_of(args.method, args.num_autonomous, args.num_guided)
            budgets[method.name] = {"samples": samples, **{name: getattr(args, name) for name in BUDGET}}
    return budgets


def check_training_data(recipe: Recipe, data: Data, base: Base) -> None:
    """Refuse what the cells would refuse once the warm-up has been trained; golds are parsed once for all methods.

    Raises:
        ValueError: too few problems, responses, strategies or tokens of the context; and whose recipe asks for them.
    """
    from sgpo.commands import SFTArguments, TrainArguments, read_problems
    from sgpo.training.config import SGPOConfig
    from sgpo.training.preflight import check_training, said_once
    from sgpo.training.sft import WarmupConfig, check_warmup

    there = base.pretraining_seed is None or is_pretrained(base)
    config, tokenizer = open_checkpoint(base.model if there else str(BASE_MODEL))
    given: dict[str, Any] = {"model": base.model, "output_dir": "run", "use_cpu": True}
    golds = True
    with _unchanged_environment(), said_once(main=False):
        for path, problems in ((recipe.sft, data.sft), (recipe.sft_all, data.sft_all)):
            if path is None:
                continue
            options = {"config": path, **given, "problems": problems}
            of_data, of_sft = parse("sft", (SFTArguments, WarmupConfig), Command("", options).arguments)
            with _named(path.stem, path):
                check_warmup(of_sft, config, tokenizer, read_problems(of_data))
        for method in recipe.methods:
            if method.path is None:
                continue
            options = {"config": method.path, **recipe.options, **given, "problems": data.rl}
            of_data, args = parse("train", (TrainArguments, SGPOConfig), Command("", options).arguments)
            with _named(f"method {method.name}", method.path):
                check_training(args, config, tokenizer, read_problems(of_data), golds=golds and not of_data.rewards)
            golds = golds and bool(of_data.rewards)


@contextmanager
def _unchanged_environment() -> Iterator[None]:
    """A configuration may set variables of its own; and what warns of it, the command says again."""
    before = dict(os.environ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def _named(name: str, path: Path) -> Iterator[None]:
    """Says of which method or warm-up an error is."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{name} ({path}): {error}") from error


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
