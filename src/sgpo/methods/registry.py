"""The methods by name, and their options among those of a run.

A method is a file with a dataclass of options and two functions, and an entry here or a name in a configuration
(docs/new-method.md):

    samples(problem, options)          -> {"autonomous": 8, "guided": 4}: completions of each named prompt
    decide(groups, options, update)    -> a decision for each problem: rows of the update, and why

All normalisation is in the weights of the rows: the loss of an update is the sum over their tokens. A method of this
package is also a base of `sgpo.training.config.SGPOConfig`, by its options; for a user's own the commands see to that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, field, fields, make_dataclass
from typing import Any

from sgpo.errors import Refusals
from sgpo.methods import ampo, grpo, hpt, luffy, opsd, scaf_grpo, sdpo, sgpo, srft
from sgpo.methods.method import Method
from sgpo.methods.options import MethodOptions
from sgpo.user_code import load_object

METHODS: dict[str, Method] = {
    "sgpo": sgpo.METHOD,
    "grpo": grpo.METHOD,
    "luffy": luffy.METHOD,
    "hpt": hpt.METHOD,
    "srft": srft.METHOD,
    "ampo": ampo.METHOD,
    "opsd": opsd.METHOD,
    "sdpo": sdpo.METHOD,
    "scaf_grpo": scaf_grpo.METHOD,
}
DEFAULTS: dict[str, Any] = {each.name: each.default for method in METHODS.values() for each in fields(method.options)}


def find_method(name: str) -> Method:
    """The method of that name, or the one that ``package.module:METHOD`` or ``path/to/file.py:METHOD`` names.

    Raises:
        ValueError: there is none, or it has an option of a name that means something else here.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        known = ", ".join(sorted(METHODS))
        raise ValueError(f"method is {name!r}; choose one of {known}, or name your own: path/to/file.py:METHOD")
    method = load_object(name, "method", "METHOD")
    if not isinstance(method, Method):
        raise ValueError(f"method {name!r} is a {type(method).__name__}, not a sgpo.methods.method.Method")
    for each in fields(method.options):
        if each.name in DEFAULTS and each.default != DEFAULTS[each.name]:
            raise ValueError(
                f"option {each.name} of method {name} has the default {each.default}, and {DEFAULTS[each.name]} in "
                f"{' and '.join(owners(each.name))}: one name has one default, so give it another name"
            )
    return method


def owners(option: str) -> list[str]:
    """The methods of this package that know an option."""
    return sorted(name for name, method in METHODS.items() if option in names_of(method))


def names_of(method: Method) -> list[str]:
    """The names of a method's options."""
    return [each.name for each in fields(method.options)]


def own_names(method: Method) -> list[str]:
    """Of those the ones that no method of this package has."""
    return [name for name in names_of(method) if name not in DEFAULTS]


def required_names(method: Method) -> list[str]:
    """Of those the ones that have no default."""
    return [each.name for each in fields(method.options) if each.default is each.default_factory is MISSING]


def kind_of(name: str, options: type, names: Collection[str]) -> type:
    """A dataclass of some of the fields of another one, in their order."""
    chosen = [each for each in fields(options) if each.name in names]
    # By keyword, so that one without a default may follow one that has it.
    kind = make_dataclass(name, [(each.name, each.type, _copy(each)) for each in chosen], kw_only=True)
    kind.__module__ = options.__module__  # where the names in its annotations are known
    return kind


def _copy(each: Field[Any]) -> Any:
    if each.default_factory is not MISSING:
        return field(default_factory=each.default_factory, metadata=each.metadata)
    return field(default=each.default, metadata=each.metadata)


def options_from(method: Method, args: Any) -> Any:
    """The options of a method among the arguments of a run.

    Args:
        args: with an attribute for each option that this package knows, and ``method_options`` for the others.
    """
    own: Mapping[str, Any] = args.method_options or {}
    values = {name: getattr(args, name) for name in names_of(method) if name in DEFAULTS}
    return method.options(**values, **own)


def check_method_options(name: str, args: Any, taken: set[str]) -> None:
    """Refuse what a method does not know, and values that it refuses.

    Args:
        args: as of `options_from`.
        taken: names of arguments that are no options of methods.

    Raises:
        ValueError: all of them in one message; an option that only another method knows may stand at its default.
    """
    method, refusals = find_method(name), Refusals()
    own, given = own_names(method), set(args.method_options or {})
    refusals.add(names_taken(name, method, taken))
    refusals.add(_foreign(method, args))
    if missing := [each for each in required_names(method) if each not in given]:
        refusals.add([f"{missing[0]} must be given: method {name} has no default for it"])
    elif unknown := sorted(given - set(own)):
        known = f"they are {', '.join(own)}" if own else "it has none of its own"
        refusals.add([f"{unknown[0]} is none of the own options of method {name}: {known}"])
    else:
        refusals.add(options_from(method, args).refusals())
    refusals.refuse()


def names_taken(name: str, method: Method, taken: Collection[str]) -> Iterator[str]:
    """A refusal for each of a method's own options with a name that means something else in every run."""
    for each in own_names(method):
        if each in taken:
            yield f"{each} is an option of method {name} and an argument of every run: give it another name"


def _foreign(method: Method, args: Any) -> Iterator[str]:
    """A refusal for each option that is set away from its default, and that the method does not know."""
    for name, default in DEFAULTS.items():
        if name in names_of(method) or getattr(args, name) == default:
            continue
        of = owners(name)
        named = f"method{'s' if len(of) > 1 else ''} {' and '.join(of)}"
        own = ", or give it to the options of your Method" if args.method not in METHODS else ""
        yield f"{name} belongs to {named}; {args.method} does not use it: leave it out{own}"


__all__ = ["METHODS", "Method", "MethodOptions", "check_method_options", "find_method", "options_from"]
