"""What each method samples, and what it lets into the loss with which weight.

A method is two functions in a file of its own, and an entry here or a name in a configuration (docs/new-method.md):

    group_sizes(problem, config) -> (autonomous completions, guided completions)
    assemble(groups, scorer, config, num_problems=B)
                                 -> Assembly: the training sequences of one update, and what was decided

All normalisation is in the weights: the loss of an update is the sum over the tokens of its sequences.
"""

from __future__ import annotations

from sgpo.loading import load_object
from sgpo.training.method_arguments import MethodArguments
from sgpo.training.methods import grpo, hpt, luffy, sgpo
from sgpo.training.methods.base import Assembly, Method, Scorer, check_sequences

METHODS: dict[str, Method] = {
    "sgpo": Method(sgpo.group_sizes, sgpo.assemble, uses=("strategy",)),
    "grpo": Method(grpo.group_sizes, grpo.assemble),
    "luffy": Method(luffy.group_sizes, luffy.assemble, uses=("response",)),
    "hpt": Method(grpo.group_sizes, hpt.assemble, uses=("response",)),
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
        raise ValueError(f"method {name!r} is a {type(method).__name__}, not a sgpo.training.methods.Method")
    return method


__all__ = ["METHODS", "Assembly", "Method", "MethodArguments", "Scorer", "check_sequences", "find_method"]
