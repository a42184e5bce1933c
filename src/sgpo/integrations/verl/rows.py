"""From veRL's batch to the rows of an update, and the way of the rows to the workers.

    SampledRow ... -> groups -> updates, by `sgpo.training.step.decide_updates` -> Parcel ... -> arranged -> a worker
    -> TrainingSequence ... -> `sgpo.engine.update.accumulate_gradients`

veRL cuts a batch into as many equal parts as there are processes, and each part into equal mini-batches, in their
order. Updates have unequal numbers of rows, so what an update lacks is filled up with rows that weigh nothing, which
cost no forward pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sgpo.methods.method import Method
from sgpo.methods.records import ProblemRollouts, TokenScores, TrainingSequence, UpdateContext
from sgpo.methods.terms import TERMS
from sgpo.methods.weights import group_advantages
from sgpo.problems import Problem
from sgpo.prompts import AUTONOMOUS, GUIDED
from sgpo.sampling.records import Rollout, rewards_of
from sgpo.training.step import Update, decide_updates

FIELDS = ("sgpo_term", "sgpo_weights", "sgpo_has_old", "sgpo_old_logprobs", "sgpo_teacher_ids")
_TERMS = list(TERMS)


@dataclass(frozen=True)
class SampledRow:
    """One completion in veRL's batch.

    Example: ``SampledRow("u_8_0", "u", [5, 17], [9, 2], [5, 3, 17], 1.0, True, False, logprobs, None)``
    """

    key: str
    problem: str  # veRL's uid
    prompt_ids: list[int]  # unguided
    completion_ids: list[int]
    guided_prompt_ids: list[int]  # of a guided completion; empty for an autonomous one
    reward: float
    correct: bool
    truncated: bool
    old_logprobs: Tensor  # [T] under the unguided prompt, by the policy that sampled, nats
    sampler_logprobs: Tensor | None  # [T] by the sampler, under the prompt that it had


@dataclass(frozen=True)
class Parcel:
    """What a worker is told of one row.

    Example: ``Parcel("u_8_0", term=4, weights=torch.tensor([0.1, 0.1]), old_logprobs=None, teacher_ids=[5, 3, 17])``
    """

    key: str
    term: int  # a place in sgpo.methods.terms.TERMS
    weights: Tensor  # [T] float32
    old_logprobs: Tensor | None  # [T]
    teacher_ids: list[int]  # the prompt of the fixed side; empty for a term without one

    @classmethod
    def nothing(cls, key: str, length: int) -> Parcel:
        """A row that does not enter the update."""
        return cls(key, _TERMS.index("surrogate"), torch.zeros(length), None, [])


def groups_of(rows: Sequence[SampledRow]) -> list[ProblemRollouts]:
    """The groups of each problem, in the order of the problems' names, which veRL draws at random."""
    by_problem: dict[str, list[SampledRow]] = {}
    for row in sorted(rows, key=lambda row: (row.problem, row.key)):
        by_problem.setdefault(row.problem, []).append(row)
    return [_group(name, some) for name, some in by_problem.items()]


def _group(name: str, rows: Sequence[SampledRow]) -> ProblemRollouts:
    guided = [row for row in rows if row.guided_prompt_ids]
    prompts = {AUTONOMOUS: rows[0].prompt_ids}
    groups = {AUTONOMOUS: [_rollout(row) for row in rows if not row.guided_prompt_ids]}
    if guided:
        prompts[GUIDED] = guided[0].guided_prompt_ids
        groups[GUIDED] = [_rollout(row) for row in guided]
    return ProblemRollouts(Problem(name, prompt="", answer=""), prompts, groups)


def _rollout(row: SampledRow) -> Rollout:
    """A truncated completion gets reward 0, and is not correct."""
    reward, correct = (0.0, False) if row.truncated else (row.reward, row.correct)
    return Rollout(row.completion_ids, row.sampler_logprobs, row.truncated, reward, correct)


@dataclass(frozen=True)
class Decided:
    """What a rollout batch becomes. Example: ``decided(rows, METHODS["sgpo"], options, updates=2).parcels[0]``"""

    updates: list[Update]
    parcels: list[list[Parcel]]  # of each update those that enter it
    advantages: Mapping[str, float]  # A_i by key; 0 for a guided completion


def decided(rows: Sequence[SampledRow], method: Method, options: object, updates: int) -> Decided:
    """What each update of a rollout batch learns from it, by the same functions as in `sgpo train`.

    Raises ValueError for a number of problems that the updates do not divide.
    """
    groups = groups_of(rows)
    if len(groups) % updates:
        raise ValueError(f"{len(groups)} problems cannot be parted among {updates} updates")
    by_ids = {id(row.completion_ids): row for row in rows}

    def policy(pairs: Sequence[tuple[list[int], list[int]]]) -> list[TokenScores]:
        scores = [by_ids[id(completion)].old_logprobs for _, completion in pairs]
        return [TokenScores(logprobs, torch.zeros_like(logprobs)) for logprobs in scores]

    context = UpdateContext(num_problems=len(groups) // updates, policy=policy)
    found = decide_updates(groups, method, options, context, updates)
    parcels = [
        [_parcel(by_ids[id(row.completion_ids)].key, row) for row in each.rows if row.contributes] for each in found
    ]
    advantages = {row.key: 0.0 for row in rows}
    for group in groups:
        for rollout, value in zip(
            group.autonomous, group_advantages(rewards_of(group.autonomous)).tolist(), strict=True
        ):
            advantages[by_ids[id(rollout.completion_ids)].key] = value
    return Decided(found, parcels, advantages)


def _parcel(key: str, row: TrainingSequence) -> Parcel:
    length = len(row.completion_ids)
    weights = torch.as_tensor(row.weights, dtype=torch.float32).expand(length)
    return Parcel(key, _TERMS.index(row.term), weights, row.old_logprobs, row.teacher_prompt_ids or [])


def arranged(parcels: Sequence[Sequence[Parcel]], spare: Sequence[Parcel], processes: int) -> list[Parcel]:
    """All rows in the order in which veRL hands them out: process by process, and in it update by update.

    Each update has the same number of rows in each process. The longest are dealt out first, to and fro, so that the
    processes have about as much to do.

    Args:
        parcels: of each update.
        spare: rows that weigh nothing, to fill up with.

    Raises ValueError for too few of them.
    """
    count = max(1, *(-(-len(some) // processes) for some in parcels))
    fill = iter(spare)
    shares: list[list[list[Parcel]]] = [[[] for _ in parcels] for _ in range(processes)]
    for number, some in enumerate(parcels):
        for place, parcel in enumerate(sorted(some, key=lambda each: (-len(each.weights), each.key))):
            lap, step = divmod(place, processes)
            shares[step if lap % 2 == 0 else processes - 1 - step][number].append(parcel)
        for share in shares:
            missing = count - len(share[number])
            share[number] += itertools.islice(fill, missing)
            if len(share[number]) < count:
                raise ValueError(f"too few rows are left to fill {processes} processes up to {count} rows an update")
    return [parcel for share in shares for some in share for parcel in some]


def to_fields(parcels: Sequence[Parcel]) -> dict[str, Tensor]:
    """The columns of `FIELDS`; what differs in length is nested."""
    olds = [torch.zeros(len(each.weights)) if each.old_logprobs is None else each.old_logprobs for each in parcels]
    return {
        "sgpo_term": torch.tensor([each.term for each in parcels]),
        "sgpo_weights": _nested([each.weights.contiguous() for each in parcels]),
        "sgpo_has_old": torch.tensor([each.old_logprobs is not None for each in parcels], dtype=torch.int64),
        "sgpo_old_logprobs": _nested([old.float() for old in olds]),
        # A nested row cannot be empty; the term says whether it has a meaning.
        "sgpo_teacher_ids": _nested([torch.tensor(each.teacher_ids or [0]) for each in parcels]),
    }


def _nested(tensors: list[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(tensors, layout=torch.jagged)


def sequences_from(data: Mapping[str, Tensor]) -> list[TrainingSequence]:
    """The rows of a worker, from the fields and veRL's ``prompts`` and ``responses``; those that weigh nothing too."""
    columns = {name: _lists(data[name]) for name in ("prompts", "responses", *FIELDS)}
    return [
        _sequence(*values)
        for values in zip(*(columns[name] for name in ("prompts", "responses", *FIELDS)), strict=True)
    ]


def _sequence(
    prompt: Tensor, completion: Tensor, term: Tensor, weights: Tensor, has_old: Tensor, old: Tensor, teacher: Tensor
) -> TrainingSequence:
    name = _TERMS[int(term)]
    enters = bool(weights.any())
    return TrainingSequence(
        term=name,
        prompt_ids=prompt.tolist(),
        completion_ids=completion.tolist(),
        weights=weights.float().cpu() if enters else 0.0,
        teacher_prompt_ids=teacher.tolist() if TERMS[name].has_teacher else None,
        old_logprobs=old.cpu() if has_old else None,
    )


def pairs_from(data: Mapping[str, Tensor]) -> list[tuple[list[int], list[int]]]:
    """(prompt, completion) of each row."""
    pairs = zip(_lists(data["prompts"]), _lists(data["responses"]), strict=True)
    return [(prompt.tolist(), completion.tolist()) for prompt, completion in pairs]


def _lists(column: Tensor) -> list[Tensor]:
    return list(column.unbind())


def aligned(scores: Sequence[Tensor], prompt_lengths: Sequence[int]) -> Tensor:
    """Numbers of completion tokens where veRL looks for them: one place before each token. Nested [N, L]"""
    return _nested(
        [
            torch.cat([values.new_zeros(prompt - 1), values, values.new_zeros(1)])
            for values, prompt in zip(scores, prompt_lengths, strict=True)
        ]
    )
