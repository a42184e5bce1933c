"""Processes that hold one engine together, each a part of its weights: tensor parallelism.

vLLM's ``external_launcher`` runs the engine in all processes of the group in step. Each schedules and draws by itself,
and comes to the same tokens, since all are given the same prompts in the same order, with the same seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sgpo import distributed

Prompt = TypeVar("Prompt")
Completed = TypeVar("Completed")
Complete = Callable[[Sequence[Prompt], Sequence[dict[str, Any]]], list[Completed]]


def completed_together(
    group: Any, prompts: Sequence[Prompt], options: Sequence[dict[str, Any]], complete: Complete[Prompt, Completed]
) -> list[Completed]:
    """What `complete` makes of this process's prompts, when it is called with those of the whole group.

    All processes of the group have to call it, also one that has no prompt.

    Args:
        group: of `sgpo.distributed.neighbours`; None: this process has an engine of its own.

    Raises RuntimeError if another process of the group does not come in time.
    """
    if group is None:
        return complete(prompts, options)
    parts = distributed.gather((distributed.rank(), list(prompts), list(options)), group)
    found = complete([each for _, some, _ in parts for each in some], [each for _, _, some in parts for each in some])
    before = sum(len(some) for rank, some, _ in parts if rank < distributed.rank())
    return found[before : before + len(prompts)]
