"""What the commands of a comparison would refuse, some of them hours later, is refused before anything is trained."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sgpo.command_runner import Command
from sgpo.comparison.collecting import samples_of
from sgpo.comparison.recipe import ComparedMethod, Recipe
from sgpo.configuration import parse, read_config
from sgpo.errors import Refusals
from sgpo.evaluation.benchmarks import check_set
from sgpo.miniworld.world import evaluation_sets
from sgpo.models.adapters import adapter_from
from sgpo.models.checkpoint import Opened, check_place, count_parameters, open_checkpoint
from sgpo.options.groups import EVAL, SFT, TRAIN, FileCheck, adapted_to_method
from sgpo.problems.reading import is_file_of_problems
from sgpo.rewards import check_signatures, choose_rewards, column_names

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


def check_recipe_beforehand(recipe: Recipe) -> None:
    """Refuse what is plainly wrong in the files that a recipe names, before torch and transformers are imported.

    Raises:
        ValueError: an unknown key, or a model or data that cannot be.
        OSError: a file that is not there.
    """
    refusals = Refusals()
    for check in (*_checks_of_keys(recipe), *_checks_of_data(recipe)):
        with refusals.collected():
            check()
    refusals.refuse()


def _checks_of_keys(recipe: Recipe) -> Iterator[FileCheck]:
    for path in _warmups(recipe):
        yield partial(SFT.check_keys, read_config(path), str(path))
    for _, path in _methods(recipe):
        yield partial(_check_keys_of_method, path)
    yield partial(TRAIN.check_keys, recipe.options, f"options of {recipe.path}")
    yield partial(EVAL.check_keys, recipe.evaluation, f"evaluation of {recipe.path}")


def _check_keys_of_method(path: Path) -> None:
    adapted_to_method(["--config", str(path)], False).check_keys(read_config(path), str(path))


def _checks_of_data(recipe: Recipe) -> Iterator[FileCheck]:
    for model in recipe.base_models:
        yield partial(check_place, model)
    if recipe.world is None:
        for source in filter(None, (recipe.sft_problems, recipe.problems, recipe.dev_problems)):
            yield partial(is_file_of_problems, source)
        for source in recipe.sets.values():
            yield partial(check_set, source, recipe.evaluation.get("data_dir"), evaluation_sets())


def check_methods(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Whether the commands take all configurations; returns the budget of each method that is trained by RL.

    Raises:
        ValueError: a configuration that its command does not take, or with which methods would have other problems.
    """
    budgets: dict[str, dict[str, Any]] = {}
    with _unchanged_environment():
        for path in _warmups(recipe):
            with _named(path.stem, path):
                data, _ = _parse_sft(path)
                _check_same_problems(path, data)
                adapter_from(data)
        for method, path in _methods(recipe):
            with _named(f"method {method.name}", path):
                data, args = _parse_train(recipe, path)
                _check_same_problems(path, data, args)
                adapter_from(data)
            samples = samples_of({**vars(args), **args.method_options})
            budgets[method.name] = {"samples": samples, **{name: getattr(args, name) for name in BUDGET}}
    return budgets


def check_training_data(recipe: Recipe, model: str, warmup: str, training: str, together: str) -> None:
    """Whether all methods can learn from the problems; golds are parsed once, since all have the same.

    Args:
        model: a checkpoint, for its tokenizer and its context. `warmup`, `training`, `together`: files of problems.

    Raises:
        ValueError: too few problems, responses, strategies or tokens of the context; and whose recipe asks for them.
    """
    from sgpo.training.arguments import read_problems, read_rewards
    from sgpo.training.preflight import TRAINING, check_training, said_once
    from sgpo.training.sft import warmup_problems

    opened = Opened(*open_checkpoint(model))
    with _unchanged_environment(), said_once(main=False):
        for number, path in enumerate(_warmups(recipe)):
            data, args = _parse_sft(path, together if number else warmup)
            with _named(path.stem, path):
                warmup_problems(args, opened, read_problems(data))
                count_parameters(opened.config, adapter_from(data))  # refuses an adapter that does not fit
        parsed = False
        for method, path in _methods(recipe):
            data, args = _parse_train(recipe, path, training)
            with _named(f"method {method.name}", path):
                rows = read_problems(data)
                rewards = choose_rewards(read_rewards(data), data.reward_weights or None, args.correctness)
                check_signatures(rewards, column_names(rows), TRAINING)
                golds = not parsed and rewards.ask_verifier
                check_training(args, opened, rows, {}, golds=golds)
                count_parameters(opened.config, adapter_from(data))
            parsed = parsed or golds


def _warmups(recipe: Recipe) -> list[Path]:
    """That of the methods, then what learns all responses."""
    others = [method.path for method in recipe.methods if method.command == "sft" and method.path]
    return [recipe.sft, *([recipe.sft_all] if recipe.sft_all else []), *others]


def _methods(recipe: Recipe) -> list[tuple[ComparedMethod, Path]]:
    return [(method, method.path) for method in recipe.methods if method.command == "train" and method.path]


def _parse_sft(path: Path, problems: str = "problems") -> Any:
    from sgpo.training.arguments import SFTArguments
    from sgpo.training.sft import WarmupConfig

    return parse("sft", (SFTArguments, WarmupConfig), _arguments(path, {}, problems))


def _parse_train(recipe: Recipe, path: Path, problems: str = "problems") -> Any:
    from sgpo.sizes import as_written
    from sgpo.training.arguments import TrainArguments
    from sgpo.training.config import SGPOConfig

    arguments = _arguments(path, recipe.options, problems)
    nested = adapted_to_method(arguments, False).nested
    data, args = parse("train", (TrainArguments, SGPOConfig), arguments, nested)
    return data, as_written(args)  # one size for all base models, whatever their contexts


def _arguments(path: Path, options: dict[str, Any], problems: str) -> list[str]:
    """Whatever devices there are: nothing is computed here."""
    given = {"model": "model", "problems": problems, "output_dir": "run", "use_cpu": True}
    return Command("", {"config": path, **options, **given}).arguments


def _check_same_problems(path: Path, data: Any, args: Any = None) -> None:
    """Refuse what would give one method other problems than another; strategies may come from another column."""
    wrong = [name for name in OF_THE_DATA if getattr(data, name) != getattr(type(data), name)]
    wrong += ["columns" for pair in data.columns if not pair.startswith("strategy=")]
    for name in ("bad_rows", "without_strategy"):
        wrong += [f"{name}: drop"] if getattr(args, name, None) == "drop" else []
    if wrong:
        raise ValueError(
            f"{path} has {wrong[0]}: methods are compared on the same problems; write the problems that are meant "
            "into files with the columns prompt, answer, response and strategy, and leave it out"
        )


@contextmanager
def _unchanged_environment() -> Iterator[None]:
    """transformers' arguments set variables that cells would inherit; what warns of them, commands say again."""
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
