"""What a command takes; here for those that train and evaluate, known before torch and transformers are imported.

So a typo is refused at once (`check_beforehand`), and `--help` shows our own options first (`sgpo.options.help`).
What is checked here is checked again, with all values, once the classes themselves are there.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, get_type_hints

from sgpo.configuration import check_keys, check_options, check_required, parse, read_given
from sgpo.configuration.parser import option_keys, texts_of
from sgpo.configuration.source_fields import init_fields
from sgpo.errors import Refusals, usage_errors
from sgpo.evaluation.arguments import EvalArguments
from sgpo.evaluation.benchmarks import check_set, split_names
from sgpo.methods.registry import DEFAULTS, METHODS, find_method, kind_of, names_taken, own_names, owners
from sgpo.miniworld.world import evaluation_sets
from sgpo.models.arguments import AdapterArguments
from sgpo.models.checkpoint import check_place
from sgpo.problems.reading import is_file_of_problems
from sgpo.sampling.engines import EngineArguments
from sgpo.training.arguments import (
    CorrectnessArguments,
    DataArguments,
    EvaluationArguments,
    EvaluationDataArguments,
    FixedArguments,
    MethodArguments,
    ResumeArguments,
    RewardArguments,
    RunArguments,
    SamplingArguments,
    ScreenArguments,
    SeenArguments,
    UpdateArguments,
    WarmupArguments,
)
from sgpo.training.sft_losses import SFTLossArguments

Values = Mapping[str, Sequence[str]]  # of each key, as texts
FileCheck = Callable[[], Any]


@dataclass(frozen=True)
class Options:
    """Example: ``Options("eval", {"options": (EvalArguments,)}, files_of_evaluation)``"""

    command: str
    groups: Mapping[str, tuple[type, ...]]  # title -> dataclasses, whose fields stand under it in --help
    # Each raises ValueError or OSError for what is not there.
    checks_of_files: Callable[[Values], Iterator[FileCheck]] = lambda values: iter(())
    other: tuple[str, str] | None = None  # module and name of another package's dataclass, whose fields are taken too
    usual: Mapping[str, str] = field(default_factory=dict)  # of those, the ones that --help shows, with their help
    fixed: tuple[type, ...] = ()  # dataclasses whose fields only --help all shows
    parsed: tuple[str, ...] = ()  # MODULE:NAME of the classes whose objects the command gets; default: those of groups
    # By the name of a field of one of those that holds a mapping, the dataclass whose fields are its keys.
    nested: Mapping[str, type] = field(default_factory=dict)
    # (command line, whether for --help) -> the options, where they depend on it
    adapted: Callable[[Sequence[str], bool], Options] | None = None

    @property
    def kinds(self) -> list[type]:
        """Our own dataclasses."""
        return [*(kind for group in self.groups.values() for kind in group), *self.fixed]

    @property
    def own(self) -> list[dataclasses.Field[Any]]:
        """The fields of our own dataclasses."""
        return [each for kind in self.kinds for each in dataclasses.fields(kind)]

    def known(self) -> frozenset[str] | None:
        """All keys; None where the source of the other package's class cannot be read."""
        others = init_fields(*self.other) if self.other else frozenset()
        return None if others is None else others | {each.name for each in self.own}

    def check_keys(self, keys: Iterable[str], where: str) -> None:
        """Raises ValueError for keys of a configuration that are unknown, as far as that can be told."""
        known = self.known()
        if known is not None:
            check_keys(keys, known, where, self.command)


def check_beforehand(options: Options, argv: Sequence[str]) -> None:
    """Refuse what is plainly wrong: an unknown key, or a file that is not there.

    Raises:
        ValueError: such a key, or a configuration, model or data that cannot be.
        OSError: a file that is not there.
    """
    given, refusals = read_given(options.command, argv), Refusals()
    known, keys = options.known(), option_keys(options.kinds)
    if known is not None:
        with refusals.collected():
            check_options(given, known, known, options.command)
    with refusals.collected():
        options.check_keys(given.values, str(given.path))
    values = {name: _texts(value) for name, value in given.values.items() if value is not None}
    values |= texts_of(given.arguments, keys)[0]
    with refusals.collected():
        check_required(keys, values)
    for check in options.checks_of_files(values):
        with refusals.collected():
            check()
    refusals.refuse()


def parse_options(options: Options, argv: Sequence[str]) -> tuple[Any, ...]:
    """What a command gets. Imports what takes seconds, such as transformers, once all is well as far as it can be told.

    Raises:
        UsageError: anything else than what the options are.
    """
    with usage_errors():
        options = options.adapted(argv, False) if options.adapted else options
        check_beforehand(options, argv)
    kinds = [load(place) for place in options.parsed] or options.kinds
    with usage_errors():
        return parse(options.command, kinds, argv, options.nested)


def options_for(command: str, function: Callable[..., None]) -> Options:
    """Those of a command whose function takes dataclasses; the docstring of each is the title in --help."""
    kinds = [kind for name, kind in get_type_hints(function).items() if name != "return"]
    return Options(command, {str(kind.__doc__).rstrip("."): (kind,) for kind in kinds})


def load(place: str) -> Any:
    """What ``MODULE:NAME`` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _texts(value: Any) -> list[str]:
    return [str(each) for each in (value if isinstance(value, list) else [value])]


# ---------------------------------------------------------------------- the commands


def files_of_training(values: Values) -> Iterator[FileCheck]:
    """The problems and the model of sft and train."""
    for name in ("problems", "eval_problems"):
        for source in values.get(name, []):
            yield partial(is_file_of_problems, source)
    for model in values.get("model", []):
        yield partial(check_place, model)


def files_of_evaluation(values: Values) -> Iterator[FileCheck]:
    """The sets and the model of eval."""
    folder = next(iter(values.get("data_dir", [])), None)
    for name in split_names(values.get("benchmarks", [])):
        yield partial(check_set, name, folder, evaluation_sets())
    for source in values.get("problems", []):
        yield partial(is_file_of_problems, source)
    if "http" not in values.get("sampler", []):  # there the model is a name that the server knows
        for model in values.get("model", []):
            yield partial(check_place, model)


def _options_of_all_methods() -> dict[str, tuple[type, ...]]:
    """The options of the methods of this package, in groups of those that the same methods know."""
    known_to: dict[tuple[str, ...], list[str]] = {}
    for name in DEFAULTS:
        known_to.setdefault(tuple(owners(name)), []).append(name)
    groups: dict[str, tuple[type, ...]] = {"method": (MethodArguments,)}
    for of, names in known_to.items():
        title = "of every method" if len(of) == len(METHODS) else f"of {' and '.join(of)}"
        groups[title] = (kind_of("MethodGroup", METHODS[of[0]].options, names),)
    return groups


def adapted_to_method(argv: Sequence[str], shown: bool) -> Options:
    """The options of `sgpo train` with the method that a command line or its configuration names.

    In --help only what it knows; else all, so that the owner is named where another method's option is refused, and
    those that only the user's own method has.

    Raises ValueError for a method that cannot be found, or one with an option of a name that is taken.
    """
    given = read_given("train", argv)
    named = texts_of(given.arguments, {})[0].get("method") or _texts(given.values.get("method") or [])
    if not named:
        return TRAIN
    name = named[0]
    method = find_method(name)
    if shown:
        return _train({"method": (MethodArguments,), f"of {name}": (method.options,)})
    if taken := [*names_taken(name, method, TRAIN.known() or {each.name for each in TRAIN.own})]:
        raise ValueError(taken[0])
    own = kind_of("OwnOptions", method.options, own_names(method))
    return replace(TRAIN, groups={**TRAIN.groups, f"of {name} alone": (own,)}, nested={"method_options": own})


_USUAL = {
    "output_dir": "Folder of the run: checkpoints, metrics, final weights.",
    "max_steps": "Updates in all; goes before num_train_epochs.",
    "seed": "Of data order, sampling and training.",
    "weight_decay": "Of AdamW.",
    "max_grad_norm": "Gradients are clipped to this norm.",
    "save_steps": "Updates between two checkpoints, with save_strategy steps.",
    "report_to": "Trackers: tensorboard, wandb, trackio, or none.",
    "run_name": "The run's name at the trackers.",
    "use_cpu": "Although there may be a GPU.",
}


def _train(methods: Mapping[str, tuple[type, ...]]) -> Options:
    return Options(
        "train",
        {
            "model and problems": (DataArguments, SeenArguments),
            **methods,
            "reward": (RewardArguments, CorrectnessArguments),
            "sampling": (SamplingArguments,),
            "sampling engine": (EngineArguments,),
            "update": (UpdateArguments,),
            "adapter": (AdapterArguments,),
            "evaluation and logging": (EvaluationDataArguments, EvaluationArguments),
            "run": (RunArguments, ResumeArguments, ScreenArguments),
        },
        files_of_training,
        other=("transformers", "TrainingArguments"),
        usual={
            **_USUAL,
            "warmup_steps": "Updates of rising rate; below 1: a share of all.",
            "save_strategy": "When checkpoints are written: steps, epoch, best or no.",
            "save_total_limit": "Checkpoints that are kept.",
            "eval_steps": "Updates between two evaluations, with eval_strategy steps.",
            "load_best_model_at_end": "End with the best checkpoint.",
        },
        fixed=(FixedArguments,),
        parsed=("sgpo.training.arguments:TrainArguments", "sgpo.training.config:SGPOConfig"),
        adapted=adapted_to_method,
    )


TRAIN = _train(_options_of_all_methods())
SFT = Options(
    "sft",
    {
        "model and problems": (DataArguments,),
        "loss": (SFTLossArguments,),
        "warm-up": (WarmupArguments,),
        "adapter": (AdapterArguments,),
        "run": (RunArguments, ResumeArguments, ScreenArguments),
    },
    files_of_training,
    other=("trl", "SFTConfig"),
    usual={
        **_USUAL,
        "gradient_accumulation_steps": "Passes that an update adds up.",
        "pad_token": "The token that pads, if the tokenizer has none.",
    },
    parsed=("sgpo.training.arguments:SFTArguments", "sgpo.training.sft:WarmupConfig"),
)
EVAL = Options("eval", {"options": (EvalArguments,)}, files_of_evaluation)
