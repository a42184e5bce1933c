"""Which problems form a rollout batch."""

from __future__ import annotations

from sgpo.training.batches import RolloutBatchSampler


def test_rollout_batches_repeat_for_their_updates() -> None:
    sampler = RolloutBatchSampler(11, 4, 2, seed=3)
    epoch = list(sampler)
    assert len(epoch) == len(sampler) == 4
    assert epoch[0] == epoch[1]
    assert epoch[2] == epoch[3]
    assert len(set(epoch[0] + epoch[2])) == 8
    assert list(sampler) == epoch
    sampler.set_epoch(1)
    assert list(sampler) != epoch
