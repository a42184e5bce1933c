"""Sizes that nobody wrote give way to small data and to a short context; one that somebody wrote is kept, or refused.

A field's default is a `Default`, a number like any other. What a user writes is a plain int, also if it is the same
number. The config.yaml of a run holds the sizes that it had; there they are written, and who goes on has the same.
"""

from __future__ import annotations

import copy
from typing import Any

FITTED = ("max_completion_length", "problems_per_rollout")


class Default(int):
    """A size that may be lowered, since nobody wrote it. Example: ``Default(128) == 128``"""


def fitted_to_context(args: Any, tokens: int, whose: str) -> Any:
    """Of a context too short for the default completion, a prompt may have half and a completion the other half.

    The number follows from the context alone, so that methods with prompts of other lengths have the same.

    Args:
        args: the configuration; it stays as it is.
        tokens: the context's. `whose`: what it is called in the line that is printed.
    """
    length = tokens // 2
    if not isinstance(args.max_completion_length, Default) or length >= args.max_completion_length:
        return args
    print(
        f"max_completion_length is {length}, not the default of {args.max_completion_length}: half of {whose} of "
        f"{tokens} tokens."
    )
    return _changed(args, max_completion_length=length)


def fitted_to_problems(args: Any, count: int) -> Any:
    """A rollout batch of all problems, where there are fewer than the default."""
    updates = args.updates_per_rollout
    batch = count // updates * updates
    if not isinstance(args.problems_per_rollout, Default) or not 0 < batch < args.problems_per_rollout:
        return args
    parts = "" if batch == count else f", and a rollout batch has equal parts for {updates} updates"
    print(
        f"problems_per_rollout is {batch}, not the default of {args.problems_per_rollout}: there are {count} "
        f"problems{parts}."
    )
    return _changed(args, problems_per_rollout=batch, per_device_train_batch_size=batch // updates)


def as_written(args: Any) -> Any:
    """The configuration with sizes that do not give way any more."""
    return _changed(args, **{name: int(getattr(args, name)) for name in FITTED})


def _changed(args: Any, **values: int) -> Any:
    changed = copy.copy(args)  # not made anew: that would check, and derive, what has been derived already
    for name, value in values.items():
        setattr(changed, name, value)
    return changed
