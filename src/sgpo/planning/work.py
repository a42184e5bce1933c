"""Tokens, requests and hours of a stage, each a formula.

A token goes forward through 2 P operations, P the parameters that multiply, and through 4 L Q n in the attention to n
tokens before it; backward takes twice that, or once where weights are frozen. Training is bound by the products, so its
seconds are operations over the rate. Sampling is bound by the memory: for each token of a batch weights, keys and
values are read once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sgpo.methods.method import Work
from sgpo.planning.devices import Assumptions, Machine
from sgpo.planning.memory import TrainedAs
from sgpo.planning.shapes import ModelShape

# Prompts of sgpo.strategies.prompts, at 4 characters a token; docs/strategies.md, "What it costs".
EXTRACT_PROMPT, SCORE_PROMPT, SCORES = 215, 225, 25


@dataclass(frozen=True)
class TrainingTokens:
    """Tokens through the model, prompts too. Example: ``TrainingTokens(learnt=9000, only_forward=3000, length=600)``"""

    learnt: float  # forward and backward
    only_forward: float
    length: float  # mean of a row


def operations_of_a_token(shape: ModelShape, length: float) -> float:
    """Of a token in a row of that length: it attends to half of the row on average."""
    return 2 * shape.multiplying + 4 * shape.layers * shape.query_size * length / 2


def training_seconds(
    how: TrainedAs, tokens: TrainingTokens, machine: Machine, assumed: Assumptions, *, checkpointing: bool
) -> float:
    """Forward 1, backward 2 (frozen weights: 1), with checkpointing forward once more."""
    passes = 1 + (2 if how.full else 1) + (1 if checkpointing else 0)
    operations = operations_of_a_token(how.shape, tokens.length) * (passes * tokens.learnt + tokens.only_forward)
    return operations / (machine.specs.flops * assumed.utilisation * machine.gpus)


def sft_tokens(problems: float, epochs: float, assumed: Assumptions, *, compares: bool = False) -> TrainingTokens:
    """Responses that are learnt.

    Args:
        problems: without those that choose the checkpoint.
        compares: whether the loss compares with another policy, before training or some updates ago: forward once more.
    """
    length = assumed.prompt_tokens + assumed.response_tokens
    learnt = problems * epochs * length
    return TrainingTokens(learnt, learnt if compares else 0.0, length)


def rl_tokens(work: Work, visits: float, updates: int, assumed: Assumptions) -> TrainingTokens:
    """Rows that are learnt, and rows that only go forward, of all visits to problems.

    Groups without a difference in reward cost nothing, which is not counted on.

    Args:
        work: of the method.
        visits: problems x passes over them.
        updates: of a rollout batch; in all but the first the old log-probabilities are computed.
    """
    length = assumed.prompt_tokens + assumed.completion_tokens
    forward = work.scored + work.ratios * (updates - 1) / updates
    return TrainingTokens(visits * work.learnt * length, visits * forward * length, length)


@dataclass(frozen=True)
class SamplingWork:
    """Completions in rounds, which are rollout batches or sets of an evaluation.

    Example: ``SamplingWork(completions=1536, rounds=1, longest=16_384, mean=2048, rows=100)``
    """

    completions: float  # of all rounds and GPUs
    rounds: float
    longest: int  # tokens of the longest completion of a round
    mean: float  # tokens of a completion
    rows: float  # that one GPU has room for
    least_step: float = 0.0  # seconds that a step takes at least


def sampling_seconds(
    shape: ModelShape, work: SamplingWork, machine: Machine, assumed: Assumptions
) -> tuple[float, float]:
    """Seconds of all rounds, and of them those that the longest completion of each takes at least.

    A step gives each row a token. It reads the weights in bfloat16, and keys and values of all rows. A round cannot be
    shorter than the steps of its longest completion, alone.
    """
    bandwidth = machine.specs.bandwidth * assumed.bandwidth_share
    at_once = max(1.0, min(work.rows, work.completions / work.rounds / machine.gpus))
    cache = 2 * 2 * shape.layers * shape.kv_size * (assumed.prompt_tokens + work.mean / 2)
    step = max(work.least_step, (2 * shape.parameters + at_once * cache) / bandwidth)
    steps = work.completions * work.mean / (at_once * machine.gpus)
    alone = max(work.least_step, 2 * shape.parameters / bandwidth)
    longest = work.rounds * work.longest * alone
    return max(steps * step, longest), longest


@dataclass(frozen=True)
class StrongModelWork:
    """Example: ``strategy_requests(8500, 5, Assumptions())``"""

    requests: int
    prompt_tokens: float
    completion_tokens: float


def strategy_requests(problems: int, candidates: int, assumed: Assumptions) -> StrongModelWork:
    """One request for all candidates, and one for their scores; repairs are not counted."""
    both = assumed.prompt_tokens + assumed.response_tokens
    strategies = candidates * assumed.strategy_tokens
    return StrongModelWork(
        2 * problems,
        problems * (EXTRACT_PROMPT + SCORE_PROMPT + 2 * both + strategies),
        problems * (strategies + SCORES),
    )


def updates_of(problems: int, values: Mapping[str, Any]) -> tuple[int, int]:
    """Updates of a run of RL, and its rollout batches."""
    rollout, updates = int(values["problems_per_rollout"]), int(values["updates_per_rollout"])
    if values.get("max_steps", -1) > 0:
        return int(values["max_steps"]), math.ceil(values["max_steps"] / updates)
    batches = math.ceil(values["num_train_epochs"] * (problems // rollout))
    return batches * updates, batches
