"""The recipe of a comparison: a YAML file; docs/comparison.md describes its keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sgpo.configuration import RECIPES, nearest, read_config
from sgpo.miniworld.world import EVALUATION_SPLITS, STRENGTHS, Sizes

SFT, SFT_ALL = "sft", "sft-all"  # methods without a file: the warm-up itself, and SFT on all responses
OF_TRAINING = ("config", "model", "problems", "eval_problems", "output_dir", "seed", "resume", "overwrite")
OF_EVALUATION = ("config", "model", "benchmarks", "problems", "output", "seed", "overwrite")
NAMES_OF_DATA = ("base_models", "sft_problems", "problems", "dev_problems")


@dataclass(frozen=True)
class World:
    """The mini-world's problems, and the strength of its base models.

    Example: ``World(seed=401, sizes=Sizes(test=300))``
    """

    seed: int = 0
    strength: str = "base"
    sizes: Sizes = field(default_factory=Sizes)


@dataclass(frozen=True)
class ComparedMethod:
    """Example: ``ComparedMethod("sgpo", Path("recipes/miniworld/sgpo.yaml"))``; the warm-up itself has no file."""

    name: str
    path: Path | None = None
    command: str = "train"  # that takes the file: of one called sft-something it is "sft"


@dataclass(frozen=True)
class Recipe:
    """What is compared on which data; paths of recipes are resolved."""

    path: Path
    sft: Path
    methods: list[ComparedMethod]
    baseline: str
    sets: dict[str, str]  # name -> file or benchmark; of a world its sets' names
    world: World | None = None
    base_models: list[str] = field(default_factory=list)
    sft_problems: str = ""
    problems: str = ""
    dev_problems: str | None = None
    sft_all: Path | None = None
    evaluation: dict[str, Any] = field(default_factory=dict)  # options of sgpo eval
    options: dict[str, Any] = field(default_factory=dict)  # options of sgpo train

    def sft_of(self, method: ComparedMethod) -> Path | None:
        """The file of a method that is SFT of the base model on all responses; None of another."""
        if method.name == SFT_ALL:
            return self.sft_all
        return method.path if method.command == "sft" else None


def read_recipe(
    name: str,
    *,
    methods: Sequence[str] = (),
    baseline: str | None = None,
    sets: Sequence[str] = (),
    base_models: Sequence[str] = (),
) -> Recipe:
    """The recipe of that name or file; what is given here goes over it.

    Raises:
        ValueError: unknown keys, missing ones, or names that lead nowhere.
    """
    path = _find(name)
    values = read_config(path)
    _check_keys(values, [each.name for each in fields(Recipe) if each.name != "path"], str(path))
    world = _world(values, path)
    _check_data(values, path, world)
    own_sets = _sets(values, path, world)
    chosen = _chosen(sets, own_sets, world)
    all_methods = [_method(each, path) for each in methods or _texts(values, "methods", path)]
    names = [each.name for each in all_methods]
    if repeated := [each for each in dict.fromkeys(names) if names.count(each) > 1]:
        raise ValueError(f"two methods are called {repeated[0]}: leave one out, or give its file another name")
    compared_with = baseline or values.get("baseline", "grpo")
    if compared_with not in names:
        raise ValueError(
            f"the baseline {compared_with} is none of the methods{nearest(compared_with, names)}: they are "
            f"{', '.join(names)}; add it to --methods, or choose another --baseline"
        )
    return Recipe(
        path=path,
        sft=_beside(path, values, "sft") or _required(path, "sft"),
        sft_all=_beside(path, values, "sft_all") or (_required(path, "sft_all") if SFT_ALL in names else None),
        methods=all_methods,
        baseline=compared_with,
        sets=chosen,
        world=world,
        base_models=list(base_models) or _texts(values, "base_models", path),
        sft_problems=values.get("sft_problems", ""),
        problems=values.get("problems", ""),
        dev_problems=values.get("dev_problems"),
        evaluation=_check_decided(_mapping(values, "evaluation", path), OF_EVALUATION, "evaluation", path),
        options=_check_decided(_mapping(values, "options", path), OF_TRAINING, "options", path),
    )


def _find(name: str) -> Path:
    """The file of that name, or the comparison of the package."""
    for path in (Path(name), RECIPES / f"{name}.yaml"):
        if path.is_file():
            return path
    known = sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("compare*.yaml"))
    raise ValueError(
        f"there is no file {name} with a recipe (looked in {Path.cwd()}), and no comparison of that name"
        f"{nearest(name, known)}; the comparisons are {', '.join(known)}"
    )


def _check_keys(values: dict[str, Any], known: Sequence[str], where: str) -> None:
    if unknown := [key for key in values if key not in known]:
        shown = ", ".join(f"{key}{nearest(str(key), known)}" for key in unknown)
        raise ValueError(f"unknown in {where}: {shown}; a recipe of sgpo compare has {', '.join(known)}")


def _world(values: dict[str, Any], path: Path) -> World | None:
    if "world" not in values:
        return None
    given = _mapping(values, "world", path)
    _check_keys(given, [each.name for each in fields(World)], f"world of {path}")
    strength = given.get("strength", "base")
    if strength not in STRENGTHS:
        raise ValueError(f"world of {path}: there is no strength {strength!r}; there are {', '.join(STRENGTHS)}")
    sizes = given.get("sizes") or {}
    _check_keys(sizes, [each.name for each in fields(Sizes)], f"sizes of {path}")
    return World(given.get("seed", 0), strength, Sizes(**sizes))


def _check_data(values: dict[str, Any], path: Path, world: World | None) -> None:
    given = [name for name in NAMES_OF_DATA if name in values]
    if world is not None and given:
        raise ValueError(f"{path} has a world and {', '.join(given)}; leave out one or the other")
    if world is None and (missing := [name for name in ("sft_problems", "problems") if name not in values]):
        raise ValueError(f"{path} has no {' and no '.join(missing)}; it needs them, or a world")


def _sets(values: dict[str, Any], path: Path, world: World | None) -> dict[str, str]:
    """All sets that can be asked for, those of the recipe first."""
    given = values.get("sets")
    if world is not None:
        names = list(given or EVALUATION_SPLITS[1:])
        if wrong := [name for name in names if name not in EVALUATION_SPLITS]:
            known = ", ".join(EVALUATION_SPLITS)
            raise ValueError(f"sets of {path}: the mini-world has no {wrong[0]}; its sets are {known}")
        return {name: name for name in names}
    if not isinstance(given, dict) or not given:
        raise ValueError(f"{path} needs sets, each a name and a file or a benchmark, such as  math500: math500")
    return {str(name): str(source) for name, source in given.items()}


def _chosen(names: Sequence[str], own: dict[str, str], world: World | None) -> dict[str, str]:
    known = {**own, **({name: name for name in EVALUATION_SPLITS} if world else {})}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"there is no set {unknown[0]}{nearest(unknown[0], known)}; the sets are {', '.join(known)}")
    return {name: known[name] for name in names} or own


def _method(name: str, recipe: Path) -> ComparedMethod:
    """A name stands for the file of that name beside the recipe."""
    if name == SFT:
        return ComparedMethod(SFT)
    if name == SFT_ALL:
        return ComparedMethod(SFT_ALL)
    for path in (recipe.parent / f"{name}.yaml", Path(name)):
        if path.is_file():
            if path.stem in (SFT, SFT_ALL):
                raise ValueError(f"{path}: {path.stem} is the name of a method without a file; call the file otherwise")
            of_sft = path.stem.startswith(f"{SFT}-") and "method" not in read_config(path)
            return ComparedMethod(path.stem, path, "sft" if of_sft else "train")
    known = [SFT, SFT_ALL, *(path.stem for path in sorted(recipe.parent.glob("*.yaml")))]
    known = [each for each in dict.fromkeys(known) if each != recipe.stem and not each.startswith("compare")]
    raise ValueError(
        f"there is no method {name}{nearest(name, known)}: no file, and none of {', '.join(known)} beside {recipe}"
    )


def _beside(recipe: Path, values: dict[str, Any], key: str) -> Path | None:
    if key not in values:
        return None
    path = recipe.parent / str(values[key])
    if not path.is_file():
        raise ValueError(f"{key} of {recipe}: there is no file {path}")
    return path


def _check_decided(values: dict[str, Any], decided: Sequence[str], key: str, path: Path) -> dict[str, Any]:
    """Options of all cells, none of which a comparison sets itself."""
    if wrong := [name for name in values if name in decided]:
        raise ValueError(f"{key} of {path} has {wrong[0]}, which sgpo compare sets for each cell: leave it out")
    return values


def _required(recipe: Path, key: str) -> Path:
    raise ValueError(f"{recipe} needs {key}, the name of a recipe of sgpo sft beside it")


def _texts(values: dict[str, Any], key: str, path: Path) -> list[str]:
    given = values.get(key, [])
    if not isinstance(given, list):
        raise ValueError(f"{key} of {path} must be a list such as [sft, grpo, sgpo]")
    return [str(each) for each in given]


def _mapping(values: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    given = values.get(key) or {}
    if not isinstance(given, dict):
        raise ValueError(f"{key} of {path} must hold lines of the form key: value")
    return given
