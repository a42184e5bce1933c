"""Texts of a command line and values of a configuration, as the fields of dataclasses want them.

Types are read as transformers' HfArgumentParser reads them, so that the keys of its classes take what they take there.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

OPTION = re.compile(r"--([^\W_][\w.-]*)(?:=(.*))?", re.DOTALL)  # a name, and a value after =
FORMS = {int: "a whole number", float: "a number", bool: "true or false", dict: 'a JSON object like {"top_k": 20}'}
TRUTHS = dict.fromkeys(("yes", "true", "t", "y", "1"), True) | dict.fromkeys(("no", "false", "f", "n", "0"), False)


@dataclass(frozen=True)
class Key:
    """What a field takes. Example: ``Key("limit", int)``"""

    name: str
    kind: Any  # of one value: bool, int, float, str, dict, a path, an Enum
    many: bool = False  # whether it is a list
    choices: tuple[Any, ...] = ()  # if not empty, all values that there are
    optional: bool = False  # whether none, null and default stand for None
    alone: Any = None  # the value of `--name` without one, if that is possible
    required: bool = False
    positional: bool = False  # whether texts that belong to no option belong to it

    def from_texts(self, texts: Sequence[str]) -> Any:
        """Raises ValueError for texts that are no such value."""
        if not texts and self.alone is None:
            raise ValueError(f"--{self.name} needs a value{', or several' if self.many else ''}")
        values = [self._from_text(text) for text in texts] or [self.alone]
        return values if self.many else values[0]

    def from_yaml(self, value: Any) -> Any:
        """As `from_texts`; null, a section, and a list for what is none stay what they are."""
        if isinstance(value, list) and self.many:
            return [self.from_yaml(each)[0] for each in value]
        if isinstance(value, bool) and self.kind is not bool:
            words = "yes, on or true" if value else "no, off or false"
            raise ValueError(f"{self.name}: YAML reads {words} without quotes as {value}; write it in quotes")
        return self.from_texts([str(value)]) if isinstance(value, str | int | float) else value

    def _from_text(self, text: str) -> Any:
        if self.optional and text.lower() in ("none", "null", "default"):
            return None
        if self.choices:
            named = {str(choice): choice for choice in self.choices}
            if text not in named:
                raise ValueError(f"{self.name} is {text!r}; choose one of {', '.join(named)}")
            return named[text]
        try:
            return TO_VALUE.get(self.kind, self.kind)(text)
        except (KeyError, TypeError, ValueError):
            form = FORMS.get(self.kind, f"a {self.kind.__name__}")
            raise ValueError(f"{self.name} is {text!r}; it must be {form}") from None


def option_keys(kinds: Iterable[Any]) -> dict[str, Key]:
    """What the fields of dataclasses take, by name."""
    keys: dict[str, Key] = {}
    for kind in kinds:
        hints = get_type_hints(kind)  # once: it evaluates the annotations of all fields
        keys |= {each.name: _key(each, hints[each.name]) for each in dataclasses.fields(kind) if each.init}
    return keys


def _key(each: dataclasses.Field[Any], hint: Any) -> Key:
    """Of several types the value is a str if one of them is None, else it is none."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    optional = NoneType in members
    kinds = [kind for kind in members if kind is not NoneType]
    kind = next(kind for kind in kinds if len(kinds) == 1 or (kind is str) is optional)
    many = get_origin(kind) is list
    literals = get_args(kind) if get_origin(kind) is Literal else ()
    kind = get_args(kind)[0] if many else get_origin(kind) or kind
    if not many and isinstance(kind, type) and issubclass(kind, Enum):
        literals = tuple(word.value for word in kind)
    flag = kind is bool and (hint is bool or each.default is not None)
    return Key(
        each.name,
        kind,
        many,
        choices=tuple(each.metadata.get("choices", literals)),
        optional=optional and not many and kind not in (bool, str, Path),
        alone=each.metadata.get("const", True if flag else None),
        required=each.default is MISSING and each.default_factory is MISSING,
        positional="positional" in each.metadata,
    )


def texts_of(arguments: Sequence[str], keys: Mapping[str, Key]) -> tuple[dict[str, list[str]], list[str]]:
    """The texts of each option, of one that stands twice the last, and what belongs to none.

    Args:
        keys: how many texts each takes; options that are not among them take all that follow.
    """
    found: dict[str, list[str]] = {}
    loose: list[str] = []
    taken, room = loose, float("inf")
    for argument in arguments:
        if option := OPTION.fullmatch(argument):
            name, value = option[1].replace("-", "_"), option[2]
            if name not in keys and (denied := keys.get(name.removeprefix("no_"))) and denied.kind is bool:
                name, value = denied.name, "false"
            taken = found[name] = [] if value is None else [value]
            room = float("inf") if name not in keys or keys[name].many else 1 - len(taken)
        else:
            (taken if room > 0 else loose).append(argument)
            room -= 1
    for key in keys.values():
        if key.positional and loose:
            count = len(loose) if key.many else 1
            found[key.name], loose = loose[:count], loose[count:]
    return found, loose


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError
    return value


TO_VALUE = {bool: lambda text: TRUTHS[text.lower()], dict: _object}
