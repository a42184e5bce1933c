"""What each method samples, and what it lets into the loss with which weight.

A method is two functions in a file of its own and an entry here:

    group_sizes(problem, config) -> (autonomous completions, guided completions)
    assemble(groups, scorer, config, num_problems=B)
                                 -> Assembly: the training sequences of one update, and what was decided

All normalisation is in the weights: the loss of an update is the sum over the tokens of its sequences.
"""

from __future__ import annotations

from sgpo.training.methods import grpo, hpt, luffy, sgpo
from sgpo.training.methods.arguments import MethodArguments
from sgpo.training.methods.base import Assembly, Method, Scorer

METHODS: dict[str, Method] = {
    "sgpo": Method(sgpo.group_sizes, sgpo.assemble, uses=("strategy",)),
    "grpo": Method(grpo.group_sizes, grpo.assemble),
    "luffy": Method(luffy.group_sizes, luffy.assemble, uses=("response",)),
    "hpt": Method(hpt.group_sizes, hpt.assemble, uses=("response",)),
}

__all__ = ["METHODS", "Assembly", "Method", "MethodArguments", "Scorer"]
