"""The way of the weights from the model in training into vLLM's engines, and the check that they arrived.

All processes go through it together. Each takes part in gathering a sharded weight, in one order; an engine in its own
process loads what was gathered, and to servers the first process sends it. What fails in one process ends all of them,
and nothing waits longer than the time limit.

After each synchronisation the engine computes the log-probabilities of a fixed text, and so does the model. They have
to agree up to rounding; and where training has changed the model's noticeably, the engine's have to have followed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from sgpo import distributed
from sgpo.errors import EngineError
from sgpo.models.merged import full_parameters
from sgpo.models.modes import evaluation_mode
from sgpo.sampling.engine_errors import Failure, within

Named = tuple[str, Tensor]
BUCKET_BYTES = 1 << 30  # of gathered weights that are held at a time
PROBE = "Compute 12*7+5. First 12*7=84, then 84+5=89. The answer is \\boxed{89}."
PROBE_TOKENS = 48
# Nats a token. How far the engine's log-probabilities may lie from the model's: in float32 measured below 1e-5, in 16
# bits about 0.02; other weights differ by much more.
EXACT_LIMIT, ROUNDED_LIMIT = 0.01, 0.3
# How far training has to have moved them before an engine's that did not move at all are called old.
EXACT_FLOOR, ROUNDED_FLOOR = 1e-5, 1e-3


class WeightReceiver(Protocol):
    """An engine whose weights can be replaced. Each process has one, and all are called together."""

    def begin_sync(self) -> Failure:
        """What it returns tells of a failure from which one of the calls below may not come back."""
        ...

    def start_update(self) -> None:
        """Weights will come."""

    def load(self, weights: Sequence[Named]) -> None:
        """Some of the weights, under the names of the checkpoint."""

    def finish_update(self) -> None:
        """The last weight was loaded; keys and values of the old ones are dropped."""

    def prompt_logprobs(self, ids: list[int]) -> list[list[float]]:
        """Log-probability of each token but the first, from each engine that this process has or may ask."""
        ...

    def rest(self) -> None:
        """Nothing is asked before new weights come."""


class Synchronisation:
    """Sends the weights of a model to an engine.

    Args:
        model: in training; sharded or with an adapter as it may be.
        probe_ids: the fixed text, two tokens or more.
        autocast: entered around the model's forward pass.
        exact: engine and model compute in float32.
        seconds: that one synchronisation may take.
        failures: further exceptions of the engine that end the run.
    """

    def __init__(
        self,
        engine: WeightReceiver,
        model: Any,
        probe_ids: list[int],
        autocast: Callable[[], AbstractContextManager[Any]],
        *,
        exact: bool,
        seconds: float,
        failures: Sequence[type[Exception]] = (),
    ) -> None:
        self.engine, self.model, self.probe_ids, self.seconds = engine, model, probe_ids, seconds
        self._autocast, self._failures = autocast, failures
        self._check = WeightCheck(exact)

    def run(self) -> None:
        """Every process has to call it.

        Raises:
            EngineError: it failed, took too long, or the engine has other weights afterwards.
            ProcessError: it failed in another process.
        """
        distributed.gather(None)  # no process samples any more: weights that are loaded cannot be sampled from
        deadline = time.monotonic() + self.seconds
        failure = self.engine.begin_sync()

        def in_time(action: Callable[[], None]) -> None:
            left = max(deadline - time.monotonic(), 0.1)
            what = "the weight synchronisation"
            with distributed.together():
                within(what, left, action, *self._failures, failure=failure, limit=self.seconds)

        in_time(self.engine.start_update)
        for weights in buckets(self.weights()):
            in_time(partial(self.engine.load, weights))
        in_time(self.engine.finish_update)
        ours, theirs = self._probe(), list[list[float]]()
        in_time(lambda: theirs.extend(self.engine.prompt_logprobs(self.probe_ids)))
        with distributed.together():
            self._check.compare(ours, torch.tensor(theirs, dtype=torch.float64))

    def weights(self) -> Iterator[Named]:
        return full_parameters(self.model)

    @torch.no_grad()
    def _probe(self) -> Tensor:
        """The model's log-probabilities of the text. float64 [T], on the CPU"""
        ids = torch.tensor([self.probe_ids], device=self.model.device)
        with evaluation_mode(self.model), self._autocast():
            logits = self.model(input_ids=ids).logits[0, :-1].double()
        return logits.log_softmax(-1).gather(-1, ids[0, 1:, None]).squeeze(-1).cpu()


class WeightCheck:
    """Whether an engine has the model's present weights, from the log-probabilities that both give a fixed text."""

    def __init__(self, exact: bool) -> None:
        self._limit, self._floor = (EXACT_LIMIT, EXACT_FLOOR) if exact else (ROUNDED_LIMIT, ROUNDED_FLOOR)
        self._before: tuple[Tensor, Tensor, Tensor] | None = None

    def compare(self, ours: Tensor, theirs: Tensor) -> None:
        """After a synchronisation.

        Args:
            ours: the model's log-probabilities [T].
            theirs: those of each engine [S, T].

        Raises EngineError for an engine with other weights.
        """
        error = (theirs - ours).abs().mean(-1)
        for number, found in enumerate(error.tolist()):
            if not found <= self._limit:
                raise EngineError(
                    f"after the weight synchronisation vLLM{_which(number, theirs)} does not compute what the model "
                    f"does: log-probabilities of a fixed text differ by {found:.3g} nats a token, where rounding "
                    f"explains {self._limit:g}; it serves another architecture, or a part of the weights did not arrive"
                )
        if self._before is not None:
            old, served, noise = self._before
            moved = (ours - old).abs().mean()
            unchanged = (theirs == served).all(-1)
            stale = (moved > self._floor) & (unchanged | ((moved > 4 * noise) & (error > moved / 2)))
            for number in stale.nonzero().flatten().tolist():
                raise EngineError(
                    f"after the weight synchronisation vLLM{_which(number, theirs)} still has old weights: training "
                    f"changed the log-probabilities of a fixed text by {moved:.3g} nats a token, and the engine's are "
                    f"{error[number]:.3g} away from the new ones"
                )
        self._before = ours, theirs, error


def _which(number: int, engines: Tensor) -> str:
    return f" server {number + 1}" if len(engines) > 1 else ""


def buckets(weights: Iterator[Named], limit: int = BUCKET_BYTES) -> Iterator[list[Named]]:
    """The weights in order, so many at a time that they have `limit` bytes or more."""
    found, size = list[Named](), 0
    for name, value in weights:
        found.append((name, value))
        size += value.numel() * value.element_size()
        if size >= limit:
            yield found
            found, size = [], 0
    if found:
        yield found
