"""`--help` of a command: its own options in groups; with `--help all` those of other packages too."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

from sgpo.errors import usage_errors
from sgpo.options.groups import Options


def asks_for_help(argv: Sequence[str]) -> bool:
    return "--help" in argv or "-h" in argv


def print_help(options: Options, argv: Sequence[str]) -> None:
    """What `argv` asks for; ``--help all`` imports the other package, for its texts."""
    if options.adapted is not None:
        with usage_errors():
            options = options.adapted([each for each in argv if each not in ("--help", "-h", "all")], True)
    places = [place for place, argument in enumerate(argv) if argument in ("--help", "-h")]
    help_parser(options, full=any(argv[place + 1 : place + 2] == ["all"] for place in places)).print_help()


def help_parser(options: Options, *, full: bool = False) -> argparse.ArgumentParser:
    """For its help alone, at most as wide as the terminal and 110 columns."""
    width = min(shutil.get_terminal_size().columns, 110)
    positional = [_called(each) for each in options.own if "positional" in each.metadata]
    parser = argparse.ArgumentParser(
        prog=f"sgpo {options.command}",
        usage=" ".join([f"sgpo {options.command}", *positional, "[--config FILE_OR_RECIPE] [--KEY VALUE ...]"]),
        description=None if full else _description(options),
        add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=width),
    )
    for title, kinds in options.groups.items():
        _add_fields(parser.add_argument_group(title), [each for kind in kinds for each in dataclasses.fields(kind)])
    if options.fixed and full:
        group = parser.add_argument_group("decided here, to be left as they are")
        _add_fields(group, [each for kind in options.fixed for each in dataclasses.fields(kind)])
    if options.other is not None and full:
        _add_fields(parser.add_argument_group(f"of {'.'.join(options.other)}"), _other_fields(options))
    elif options.other is not None:
        group = parser.add_argument_group(f"of {'.'.join(options.other)}, the usual ones")
        for key, text in options.usual.items():
            _add(group, f"--{key}", {"metavar": "VALUE"}, text)
    return parser


def _other_fields(options: Options) -> list[dataclasses.Field[Any]]:
    """Of the other package's class, the fields that are not also ours."""
    assert options.other is not None
    module, name = options.other
    own = {each.name for each in options.own}
    fields = dataclasses.fields(getattr(importlib.import_module(module), name))
    return [each for each in fields if each.init and each.name not in own]


def _description(options: Options) -> str:
    if options.other is None:
        return "A configuration holds lines of the form key: value; the command line goes over it."
    return (
        "A configuration holds lines of the form key: value; the command line goes over it. All keys of "
        f"{'.'.join(options.other)} work; sgpo {options.command} --help all shows those too."
    )


def _add_fields(group: Any, fields: Iterable[dataclasses.Field[Any]]) -> None:
    for each in fields:
        _add(group, _called(each), _form(each), _with_default(each))


def _called(each: dataclasses.Field[Any]) -> str:
    if "positional" not in each.metadata:
        return f"--{each.name}"
    return f"{each.name.upper()}{' ...' if 'list' in str(each.type) else ''}"


def _add(group: Any, name: str, form: dict[str, Any], text: str) -> None:
    group.add_argument(name, help=text.replace("%", "%%"), **form)


def _form(each: dataclasses.Field[Any]) -> dict[str, Any]:
    """How its values look."""
    kind = str(each.type)
    if "bool" in kind:
        return {"metavar": "true|false", "nargs": None if each.default is None else "?"}
    if "positional" in each.metadata:
        return {}
    if "list" in kind:
        return {"metavar": "VALUE", "nargs": "+"}
    return {"metavar": "N" if "int" in kind else "X" if "float" in kind else "VALUE"}


def _with_default(each: dataclasses.Field[Any]) -> str:
    text = " ".join(str(each.metadata.get("help", "")).replace("%%", "%").split())
    if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
        return f"{text} Required."
    default = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
    return text if default in (None, "", [], {}) else f"{text} (default {_shown(default)})"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(getattr(value, "value", value))
