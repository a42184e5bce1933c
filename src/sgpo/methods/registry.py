"""What each method samples, and what it lets into the loss with which weight.

A method is two functions in a file of its own, and an entry here or a name in a configuration (docs/new-method.md):

    group_sizes(problem, config) -> (autonomous completions, guided completions)
    assemble(groups, scorer, config, num_problems=B)
                                 -> Assembly: the training sequences of one update, and what was decided

All normalisation is in the weights: the loss of an update is the sum over the tokens of its sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from sgpo.methods import grpo, hpt, luffy, sgpo
from sgpo.methods.arguments import MethodArguments
from sgpo.methods.records import Assembly, Method, Scorer, check_sequences
from sgpo.user_code import load_object

METHODS: dict[str, Method] = {
    "sgpo": Method(sgpo.group_sizes, sgpo.assemble, uses=("strategy",), options=sgpo.OPTIONS),
    "grpo": Method(grpo.group_sizes, grpo.assemble, options=grpo.OPTIONS),
    "luffy": Method(luffy.group_sizes, luffy.assemble, uses=("response",), options=luffy.OPTIONS),
    "hpt": Method(grpo.group_sizes, hpt.assemble, uses=("response",), options=hpt.OPTIONS),
}


def find_method(name: str) -> Method:
    """The method of that name, or the one that ``package.module:METHOD`` or ``path/to/file.py:METHOD`` names.

    Raises:
        ValueError: there is none.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        known = ", ".join(sorted(METHODS))
        raise ValueError(f"method is {name!r}; choose one of {known}, or name your own: path/to/file.py:METHOD")
    method = load_object(name, "method", "METHOD")
    if not isinstance(method, Method):
        raise ValueError(f"method {name!r} is a {type(method).__name__}, not a sgpo.methods.registry.Method")
    return method


def foreign_options(method: Method, args: MethodArguments) -> Iterator[str]:
    """A refusal for each option that is set away from its default, and that the method does not know."""
    for option in fields(MethodArguments):
        name = option.name
        if name == "method" or name in method.known_options or getattr(args, name) == option.default:
            continue
        owners = sorted(owner for owner, each in METHODS.items() if name in each.known_options)
        named = f"method{'s' if len(owners) > 1 else ''} {' and '.join(owners)}"
        own = ", or name it in the options of your Method" if args.method not in METHODS else ""
        yield f"{name} belongs to {named}; {args.method} does not use it: leave it out{own}"


__all__ = [
    "METHODS",
    "Assembly",
    "Method",
    "MethodArguments",
    "Scorer",
    "check_sequences",
    "find_method",
    "foreign_options",
]
