"""A command's arguments: those of a YAML file, and over them those of the command line.

Unknown keys are refused with the nearest known one, wherever they stand. `--config` takes a file, or the name of a
recipe of this package, such as `miniworld/sgpo`. A file may begin from another one: `extends: sgpo.yaml`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import shlex
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from sgpo.configuration.other_names import other_name
from sgpo.configuration.parser import OPTION, Key, option_keys, texts_of

RECIPES = Path(__file__).parents[1] / "recipes"
COMPARISON_KEYS = {"sft", "sets"}  # by which a recipe of sgpo compare is known
# How a run is started, not what it computes; and a secret.
NOT_SAVED = {"resume", "resume_from_checkpoint", "overwrite", "verbose", "hub_token"}


@dataclass(frozen=True)
class Given:
    """What a user gave a command.

    Example: ``Given(["--limit", "8"], Path("my.yaml"), {"model": "runs/base", "limit": 100})``
    """

    arguments: list[str]  # the command line without --config
    path: Path | None  # the configuration
    values: dict[str, Any]  # its values

    @property
    def options(self) -> list[str]:
        """The names on the command line, such as "--limit"."""
        return [argument.partition("=")[0] for argument in self.arguments if OPTION.fullmatch(argument)]


def read_given(prog: str, argv: Sequence[str]) -> Given:
    """Read the configuration that --config names.

    Raises:
        ValueError: there is none, it cannot be read, it is one of sgpo compare, or it sets the environment.
    """
    arguments, config = _take_config(argv)
    if config is None:
        return Given(arguments, None, {})
    path = find_config(config)
    values = read_config(path)
    if values.keys() >= COMPARISON_KEYS:
        raise ValueError(f"{path} says what sgpo compare runs, not sgpo {prog}: sgpo compare --recipe {config}")
    if "env" in values:  # TRL's
        raise ValueError(
            f"{path} sets variables of the environment (env), which libraries read before any file is: leave env out, "
            f"and begin the command with them: {_assignments(values['env'])}sgpo {prog} ..."
        )
    return Given(arguments, path, values)


def parse(
    prog: str, kinds: Sequence[Any], argv: Sequence[str], nested: Mapping[str, type] | None = None
) -> tuple[Any, ...]:
    """An object of each kind, a dataclass.

    Args:
        nested: by the name of a field that holds a mapping, the dataclass whose fields are its keys.

    Raises:
        ValueError: unknown keys, a configuration that cannot be read, or values that a kind refuses.
    """
    nested = nested or {}
    given, keys = read_given(prog, argv), option_keys([*kinds, *nested.values()])
    keys = {name: key for name, key in keys.items() if name not in nested}
    check_options(given, keys, {key.name for key in keys.values() if key.kind is bool}, prog)
    check_keys(given.values, keys, str(given.path), prog)
    texts, loose = texts_of(given.arguments, keys)
    if loose:
        raise ValueError(f"{loose[0]!r} belongs to no option; sgpo {prog} --help lists them")
    values = {name: keys[name].from_yaml(value) for name, value in given.values.items()}
    values |= {name: keys[name].from_texts(found) for name, found in texts.items()}
    check_required(keys, values)
    values |= {name: dataclasses.asdict(_made(kind, values)) for name, kind in nested.items()}
    return tuple(_made(kind, values) for kind in kinds)


def _made(kind: type, values: Mapping[str, Any]) -> Any:
    return kind(**{name: values[name] for name in option_keys([kind]) if name in values})


def _assignments(env: Any) -> str:
    """As a shell takes them before a command."""
    pairs = env.items() if isinstance(env, dict) else []
    return "".join(f"{name}={shlex.quote(str(value))} " for name, value in pairs)


def find_config(name: str) -> Path:
    """The file of that name, or the recipe."""
    path, recipe = Path(name), RECIPES / f"{name}.yaml"
    if path.is_file():
        return path
    if recipe.is_file():
        return recipe
    known = recipes()
    raise ValueError(
        f"there is no file {name} with a configuration (looked in {Path.cwd()}), and no recipe of that name"
        f"{nearest(name, known)}; the recipes are {', '.join(known)}"
    )


def recipes() -> list[str]:
    """Those of --config; the ones of sgpo compare, whose names begin with compare, are none of them."""
    paths = [path for path in RECIPES.rglob("*.yaml") if not path.stem.startswith("compare")]
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in paths)


def _take_config(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without --config, and its value."""
    arguments = [part for a in argv for part in (a.split("=", 1) if a.startswith("--config=") else [a])]
    if "--config" not in arguments:
        return arguments, None
    place = arguments.index("--config")
    if place + 1 == len(arguments):
        raise ValueError(f"--config needs a file or a recipe; the recipes are {', '.join(recipes())}")
    return arguments[:place] + arguments[place + 2 :], arguments[place + 1]


def read_config(path: Path) -> dict[str, Any]:
    """The values of a file, over those of the file that it extends, whose path is relative to it.

    Raises:
        ValueError: a file that cannot be read, is no mapping, or extends itself.
    """
    values = {name: value for _, own in reversed(_chain(path)) for name, value in own.items()}
    return {name: value for name, value in values.items() if name != "extends"}


def files_of_config(path: Path) -> list[Path]:
    """The file, the one that it extends, and so on. Raises ValueError as `read_config`."""
    return [file for file, _ in _chain(path)]


def _chain(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Each file with its own values."""
    found = [(path, _read(path))]
    while (name := found[-1][1].get("extends")) is not None:
        last = found[-1][0]
        base = Path(os.path.normpath(last.parent / str(name)))
        if not base.is_file():
            raise ValueError(f"{last} extends {base}, which is no file")
        if base in (file for file, _ in found):
            raise ValueError(f"{last} extends {base}, which extends it")
        found.append((base, _read(base)))
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold lines of the form key: value")
    return values


def check_options(given: Given, known: Collection[str], deniable: Iterable[str], prog: str) -> None:
    """As `check_keys`, of the options on the command line: with - or _, and --no_KEY for those that can be denied."""
    names = {*known, *(f"no_{name}" for name in deniable)}
    unknown = [option for option in given.options if option.removeprefix("--").replace("-", "_") not in names]
    spelled = {f"--{name}" for key in ("help", "config", *known) for name in (key, key.replace("_", "-"))}
    check_keys(unknown, sorted(spelled), "the command line", prog)


def check_required(keys: Mapping[str, Key], given: Container[str]) -> None:
    """Raises ValueError that names what has no default and is not given."""
    missing = [key for name, key in keys.items() if key.required and name not in given]
    if missing:
        shown = " and ".join(key.name.upper() if key.positional else f"--{key.name}" for key in missing)
        raise ValueError(f"{shown} must be given, here or as a key of the file that --config names")


def check_keys(keys: Iterable[str], known: Iterable[str], where: str, prog: str) -> None:
    """Raises ValueError that names the unknown keys, and for each what may have been meant."""
    unknown = [key for key in dict.fromkeys(map(str, keys)) if key not in known]
    if unknown:
        shown = ", ".join(f"{key}{_meant(key, known)}" for key in unknown)
        raise ValueError(f"unknown in {where}: {shown}; sgpo {prog} --help all lists what is known")


def _meant(key: str, known: Iterable[str]) -> str:
    """Another library's name of something, or else the nearest name."""
    names = {each.removeprefix("--") for each in known}
    here = other_name(key.removeprefix("--").replace("-", "_"), names)
    return nearest(key, known) if here is None else f" ({here})"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the name that may have been meant, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def save_configuration(output_dir: str, *parts: Any, comment: str = "") -> Path:
    """The resolved configuration beside the results, as a file that --config takes again.

    Args:
        parts: dataclasses of options, or mappings of names and values.
        comment: of the file, one line or several.
    """
    values: dict[str, Any] = {}
    for part in parts:
        values |= part if isinstance(part, Mapping) else _values(part)
    values = {name: value for name, value in values.items() if name not in NOT_SAVED}
    path = Path(output_dir) / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    path.write_text(head + yaml.safe_dump(json.loads(json.dumps(values, default=_plain)), sort_keys=True))
    return path


def _values(part: Any) -> dict[str, Any]:
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part) if field.init}
    # TrainingArguments turns its values into plain ones, but hides all tokens, also those of the vocabulary.
    plain = part.to_dict() if hasattr(part, "to_dict") else {}
    values |= {name: value for name, value in plain.items() if not name.endswith("_token")}
    return {name: value for name, value in values.items() if name not in getattr(part, "not_written", ())}


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else str(value)
