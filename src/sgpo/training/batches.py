"""Which problems form which rollout batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class RolloutBatchSampler(Sampler[list[int]]):
    """The indices of each rollout batch, repeated for each of its updates.

    The order of an epoch follows from (seed, epoch) alone, so a resumed run sees what the first one would have seen.
    Problems that do not fill a rollout batch at the end of an epoch wait for the next one.

    Raises:
        ValueError: fewer problems than a rollout batch has.
    """

    def __init__(self, num_problems: int, problems_per_rollout: int, updates_per_rollout: int, seed: int) -> None:
        if num_problems < updates_per_rollout:
            raise ValueError(
                f"{num_problems} problem{'s' * (num_problems != 1)} cannot be parted among {updates_per_rollout} "
                "updates; give more problems, or lower updates_per_rollout"
            )
        if num_problems < problems_per_rollout:
            raise ValueError(
                f"{num_problems} problems do not fill a rollout batch of {problems_per_rollout}; lower "
                "problems_per_rollout or give more problems"
            )
        self.num_problems = num_problems
        self.problems_per_rollout = problems_per_rollout
        self.updates_per_rollout = updates_per_rollout
        self.seed = seed
        self.epoch = 0

    @property
    def batch_sampler(self) -> RolloutBatchSampler:
        """Where Trainer looks for `set_epoch` in a data loader that accelerate did not make."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_problems // self.problems_per_rollout * self.updates_per_rollout

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = torch.randperm(self.num_problems, generator=generator).tolist()
        for start in range(0, self.num_problems - self.problems_per_rollout + 1, self.problems_per_rollout):
            for _ in range(self.updates_per_rollout):
                yield order[start : start + self.problems_per_rollout]
