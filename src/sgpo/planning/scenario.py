"""A recipe's stages with all their values, and the machine that they are planned for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from sgpo.configuration import RECIPES, find_config, read_config
from sgpo.configuration.parser import option_keys
from sgpo.evaluation.arguments import EvalArguments
from sgpo.methods.method import Work
from sgpo.methods.registry import find_method, options_from, required_names
from sgpo.options.groups import EVAL, SFT, TRAIN
from sgpo.planning.devices import Assumptions, Machine
from sgpo.planning.memory import TrainedAs, adapted
from sgpo.planning.shapes import DEFAULT_TARGETS, KNOWN, ModelShape, shape_of
from sgpo.training.sft_losses import LOSSES

SHARDINGS = ("none", "fsdp2")
STRATEGIES = RECIPES / "paper" / "strategies.yaml"
USUAL_STAGES = ("strategies", "sft", "sgpo", "eval")
# Of TrainingArguments and SFTConfig, which take seconds to import.
OTHER_DEFAULTS = {"max_steps": -1, "gradient_accumulation_steps": 1}


@dataclass(frozen=True)
class PlannedFor:
    """One stage on one machine. Example: ``scenarios("qwen2.5-7b", machine)["sgpo"]``"""

    name: str
    kind: str  # strategies, sft, train or eval
    values: Mapping[str, Any]
    shape: ModelShape
    machine: Machine
    sharding: str = "none"
    problems: int | None = None
    assumed: Assumptions = field(default_factory=Assumptions)

    @property
    def how(self) -> TrainedAs:
        bf16 = self.values.get("bf16") is not False
        if not self.values.get("use_peft"):
            return TrainedAs(self.shape, bf16)
        targets = adapted(self.values.get("lora_target_modules"), DEFAULT_TARGETS)
        return TrainedAs(self.shape, bf16, self.values["lora_r"], targets)

    @property
    def checkpointing(self) -> bool:
        """The warm-up has it by default."""
        given = self.values.get("activation_checkpointing")
        return self.kind == "sft" if given is None else bool(given)

    @property
    def work(self) -> Work:
        """What a problem costs by the method."""
        method = find_method(self.values["method"])
        return method.work(options_from(method, _arguments(self.values)))

    @property
    def copies(self) -> int:
        """Of the trained weights beside them: those before training, or of a teacher."""
        if self.kind == "sft":
            return int(LOSSES[self.values["loss"]].compares_with == "reference")
        method = find_method(self.values["method"])
        return method.copies(options_from(method, _arguments(self.values)))

    @property
    def longest_row(self) -> int:
        """Tokens of the longest prompt and completion."""
        return self.assumed.longest_prompt + self.values["max_completion_length"]

    def changed(self, **values: Any) -> PlannedFor:
        return replace(self, values={**self.values, **values})


def scenarios(
    recipe: str,
    machine: Machine,
    *,
    sharding: str | None = None,
    stages: Sequence[str] = (),
    model: str | None = None,
    changes: Mapping[str, Any] | None = None,
    problems: Mapping[str, int | None] | None = None,
    assumed: Assumptions | None = None,
) -> dict[str, PlannedFor]:
    """The stages of a folder of recipes, or the one of a recipe.

    Args:
        recipe: a folder (`qwen2.5-7b`) or a recipe (`qwen2.5-7b/sgpo`), of the package or of the user's.
        sharding: default: fsdp2 with several GPUs.
        stages: of a folder; default: strategies, sft, sgpo and eval, as far as there are such.
        model: whose shape is taken; default: the model that the folder's warm-up begins with.
        changes: values that replace those of the recipe, where a stage has them.
        problems: by stage kind ("sft", "train"), their number; default: that of the folder's prepare.yaml.

    Raises:
        ValueError: a recipe, model, key, method or loss that there is not.
    """
    beside, files = _files(recipe, stages)
    found: dict[str, PlannedFor] = {}
    of_sft = beside / "sft.yaml"
    warmup = _with_defaults("sft", read_config(of_sft), of_sft) if of_sft.is_file() else {}
    prepared = _prepared(beside) | {kind: count for kind, count in (problems or {}).items() if count}
    unused = dict(changes or {})
    for name, path in files.items():
        kind = {"strategies": "strategies", "sft": "sft", "eval": "eval"}.get(name, "train")
        values = _with_defaults(kind, read_config(path), path)
        if kind == "train" and warmup.get("use_peft") and not values["use_peft"]:  # it goes on with that adapter
            values |= {key: value for key, value in warmup.items() if key == "use_peft" or key.startswith("lora_")}
        replaced = {key: value for key, value in (changes or {}).items() if key in values}
        values |= replaced
        unused = {key: value for key, value in unused.items() if key not in replaced}
        _check_objective(kind, values)
        shape = shape_of(_model(model, values, warmup))
        how = sharding or ("fsdp2" if machine.gpus > 1 else "none")
        count = prepared.get("train" if kind == "strategies" else kind)
        found[name] = PlannedFor(name, kind, values, shape, machine, how, count, assumed or Assumptions())
    if unused:
        raise ValueError(f"--change: no stage of {recipe} has {', '.join(unused)}")
    return found


def parsed_changes(pairs: Sequence[str]) -> dict[str, Any]:
    """``["max_completion_length=8192"]`` as values of YAML. Raises ValueError for another form."""
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"--change takes KEY=VALUE, not {pair}")
    return {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)}


def _model(given: str | None, values: Mapping[str, Any], warmup: Mapping[str, Any]) -> str:
    own = values.get("model")
    if given or own in KNOWN or (own and (Path(own) / "config.json").is_file()):
        return given or str(own)
    return str(warmup.get("model") or own)


def _files(recipe: str, stages: Sequence[str]) -> tuple[Path, dict[str, Path]]:
    """The folder, and the files of the stages; that of the strategies is the paper's where a folder has none."""
    folder = next((place for place in (Path(recipe), RECIPES / recipe) if place.is_dir()), None)
    if folder is None:
        path = find_config(recipe)
        return path.parent, {path.stem: path}
    there = {path.stem: path for path in sorted(folder.glob("*.yaml")) if path.stem not in ("prepare", "rl")}
    there.setdefault("strategies", STRATEGIES)
    named = list(stages) or [name for name in USUAL_STAGES if name in there]
    if not stages and not _extracted(folder, there):
        named.remove("strategies")
    if unknown := [name for name in named if name not in there]:
        raise ValueError(f"{folder} has no stage {unknown[0]}; it has {', '.join(there)}")
    if not named:
        raise ValueError(f"{folder} has none of the stages {', '.join(USUAL_STAGES)}; give --stages {' '.join(there)}")
    return folder, {name: there[name] for name in named}


def _extracted(folder: Path, there: Mapping[str, Path]) -> bool:
    """Whether the strategies of the problems are made by the stage, and do not come with them."""
    own = "sgpo" in there and read_config(there["sgpo"]).get("problems") in read_config(STRATEGIES)["output"]
    return own or there["strategies"].parent == folder


def _prepared(folder: Path) -> dict[str, int]:
    if not (folder / "prepare.yaml").is_file():
        return {}
    values = read_config(folder / "prepare.yaml")
    sizes = {"sft": values.get("sft_size"), "train": values.get("rl_size")}
    return {kind: size for kind, size in sizes.items() if size}


def _arguments(values: Mapping[str, Any]) -> Any:
    """As `sgpo train` has them; options that only a method of the user's own has stand at their defaults."""
    return SimpleNamespace(**values, method_options={})


def _check_objective(kind: str, values: Mapping[str, Any]) -> None:
    """Raises ValueError for a method or a loss that there is not, and a method whose work cannot be asked for."""
    if kind == "train" and (missing := required_names(find_method(values["method"]))):
        raise ValueError(f"method {values['method']} cannot be planned: its option {missing[0]} has no default")
    if kind == "sft" and values["loss"] not in LOSSES:
        raise ValueError(f"loss is {values['loss']!r}; choose one of {', '.join(LOSSES)}")


def _with_defaults(kind: str, values: dict[str, Any], path: Path) -> dict[str, Any]:
    if kind == "strategies":
        return {"candidates": 5, **values}
    options = {"sft": SFT, "train": TRAIN, "eval": EVAL}[kind]
    options.check_keys(values, str(path))
    kinds = options.kinds if kind != "eval" else [EvalArguments]
    defaults: dict[str, Any] = {}
    for each in [each for own in kinds for each in dataclasses.fields(own)]:
        if each.default is not dataclasses.MISSING:
            defaults[each.name] = each.default
        elif each.default_factory is not dataclasses.MISSING:
            defaults[each.name] = each.default_factory()
    keys = option_keys(kinds)
    given = {name: keys[name].from_yaml(value) if name in keys else value for name, value in values.items()}
    return {**OTHER_DEFAULTS, **defaults, **given}
