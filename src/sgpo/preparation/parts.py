"""The parts: problems for the warm-up and others for RL, drawn with a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import overload

from sgpo.preparation.sources import Found
from sgpo.preparation.spool import Spool
from sgpo.problems import Problem
from sgpo.problems.loading import id_of


def split_parts(
    candidates: Sequence[Found], *, sft_size: int, rl_size: int | None, rl_needs_strategy: bool, seed: int
) -> dict[str, list[Found]]:
    """``sft`` (if any are asked for) and ``rl``, without a problem in common.

    The warm-up needs responses, and takes problems that RL has no use for first. `rl_size` None: all that are left.

    Raises:
        ValueError: too few problems.
    """
    order = list(candidates)
    random.Random(seed).shuffle(order)
    for_rl = [each for each in order if each.strategy or not rl_needs_strategy]
    with_response = [each for each in order if each.responses]
    chosen = {id(each) for each in for_rl}
    sft = sorted(with_response, key=lambda each: id(each) in chosen)[:sft_size]
    if len(sft) < sft_size:
        raise ValueError(f"sft_size is {sft_size}, and {len(sft)} problems have a response that is correct")
    taken = {id(each) for each in sft}
    left = [each for each in for_rl if id(each) not in taken]
    if rl_size is not None and len(left) < rl_size:
        having = " with a strategy" if rl_needs_strategy else ""
        raise ValueError(f"rl_size is {rl_size}, and {len(left)} problems{having} are left beside those of the warm-up")
    parts = {"sft": sft} if sft_size else {}
    return {**parts, "rl": left[:rl_size]}


class PartProblems(Sequence[Problem]):
    """The problems of a part, whose responses are read from the disk one at a time."""

    def __init__(self, part: Sequence[Found], spool: Spool) -> None:
        self._part, self._spool = part, spool

    def __len__(self) -> int:
        return len(self._part)

    def __iter__(self) -> Iterator[Problem]:
        return map(self._problem, self._part)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> PartProblems: ...
    def __getitem__(self, index: int | slice) -> Problem | PartProblems:
        if isinstance(index, slice):
            return PartProblems(self._part[index], self._spool)
        return self._problem(self._part[index])

    def _problem(self, each: Found) -> Problem:
        texts = [self._spool.text(response.place) for response in each.responses]
        return Problem(
            id=each.id or id_of(each.prompt, each.gold),
            prompt=each.prompt,
            answer=each.gold,
            response=texts[0] if texts else None,
            strategy=each.strategy,
            extra={"source": each.source},
            more_responses=tuple(texts[1:]),
        )
