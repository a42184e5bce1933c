"""The weights that a sampler has while it is called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from sgpo import sharding
from sgpo.sampling.records import Sampler


@contextmanager
def current_weights(sampler: Sampler, model: Any, timed: AbstractContextManager[Any] | None = None) -> Iterator[None]:
    """Around calls of the sampler: inside, it samples from the present weights of the model.

    All processes enter it together. Inside, each may call the sampler as often as it likes. An engine with weights of
    its own gets them once. Others use the model itself, so a sharded one is gathered.

    Args:
        timed: entered around what is done before the first call.

    Raises:
        EngineError: the weights did not reach the engine.
        ProcessError: they did not in another process.
    """
    with ExitStack() as inside:
        with timed or nullcontext():
            current = getattr(sampler, "current", None)
            inside.enter_context(sharding.gathered(model) if current is None else current())
        yield
