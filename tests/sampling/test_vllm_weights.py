"""Whether an engine has the model's weights, told from log-probabilities; and weights in buckets. Without vLLM."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sgpo.errors import EngineError
from sgpo.sampling.vllm_weights import WeightCheck, buckets

TEXT = torch.linspace(-6.0, -0.1, 30, dtype=torch.float64)


def engines(*found: Tensor) -> Tensor:
    return torch.stack(found)


def noise(size: float, seed: int) -> Tensor:
    """Of that mean absolute size, in float64 [T]."""
    drawn = torch.randn(len(TEXT), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn * size / drawn.abs().mean()


def test_an_engine_that_follows_is_accepted() -> None:
    for exact, rounding, step in ((True, 1e-6, 1e-4), (False, 0.02, 1e-4), (False, 0.02, 0.3)):
        check = WeightCheck(exact)
        for number in range(6):
            ours = TEXT + number * step
            check.compare(ours, engines(ours + noise(rounding, 2 * number), ours + noise(rounding, 2 * number + 1)))


@pytest.mark.parametrize(("exact", "limit"), [(True, 0.01), (False, 0.3)])
def test_an_engine_that_computes_something_else_is_refused(exact: bool, limit: float) -> None:
    WeightCheck(exact).compare(TEXT, engines(TEXT + 0.99 * limit))
    said = rf"vLLM server 2 does not compute what the model does: .* differ by {1.01 * limit:.3g} nats a token, where r"
    with pytest.raises(EngineError, match=said):
        WeightCheck(exact).compare(TEXT, engines(TEXT, TEXT - 1.01 * limit))
    with pytest.raises(EngineError, match=r"synchronisation vLLM does not compute .* differ by nan nats"):
        WeightCheck(exact).compare(TEXT, engines(TEXT * math.nan))


def test_in_float32_old_weights_show_after_a_small_step() -> None:
    check = WeightCheck(exact=True)
    served = TEXT + noise(1e-6, 0)
    check.compare(TEXT, engines(served))
    moved = TEXT + noise(2e-5, 1)
    with pytest.raises(EngineError, match=r"still has old weights: .* by 2e-05 nats a token, and .* are 1.97e-05 away"):
        check.compare(moved, engines(served))
    # As far as half of the way: some of the weights did not arrive.
    with pytest.raises(EngineError, match="vLLM server 2 still has old weights"):
        WeightCheck.compare(check, moved, engines(moved, served + 0.4 * (moved - TEXT)))
    check.compare(moved, engines(moved + noise(1e-6, 2)))


def test_in_16_bits_an_engine_that_did_not_move_at_all_has_old_weights() -> None:
    served = TEXT + noise(0.02, 0)
    for step, refused in ((5e-4, False), (2e-3, True)):
        check = WeightCheck(exact=False)
        check.compare(TEXT, engines(served))
        moved = TEXT + noise(step, 1)
        if refused:
            with pytest.raises(EngineError, match="still has old weights"):
                check.compare(moved, engines(served))
        else:  # rounding may hide so little
            check.compare(moved, engines(served))
    check.compare(moved, engines(served + noise(1e-3, 2)))


def test_without_training_the_same_answer_is_right() -> None:
    check = WeightCheck(exact=True)
    for _ in range(3):
        check.compare(TEXT, engines(TEXT + 1e-6))


def test_buckets_hold_all_weights_in_order() -> None:
    weights = [(f"w{n}", torch.zeros(size)) for n, size in enumerate((10, 100, 5, 5, 200, 1))]
    found = list(buckets(iter(weights), limit=400))
    assert [[name for name, _ in part] for part in found] == [["w0", "w1"], ["w2", "w3", "w4"], ["w5"]]
    assert list(buckets(iter([]), limit=400)) == []
