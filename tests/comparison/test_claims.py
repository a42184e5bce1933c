"""How the paper's claims are read off the results: parts of the training, intervals, verdicts."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from comparison_cases import result
from places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from miniworld_claims import ALL, EARLY, LATE, START, Claim, measure, table, verdict


def curves(values: list[float | None]) -> dict[str, Any]:
    return {"curves": {"step": list(range(1, len(values) + 1)), "alpha": values}}


RISING: list[float | None] = [float(step) for step in range(1, 31)]
ROWS = [
    *(result("b", seed, "grpo", [0.0, 0.5], **curves(RISING)) for seed in (1, 2, 3)),
    result("b", 1, "sgpo", [0.5, 0.5], **curves([v + 1 for v in RISING if v])),
    result("b", 2, "sgpo", [0.5, 1.0], **curves([v + 2 for v in RISING if v])),
    result("b", 3, "sgpo", [0.5, 0.5], **curves([v + 6 for v in RISING if v])),
    result("b", 1, "lonely", [0.5, 0.5], **curves([None, *RISING[1:]])),
]


@pytest.mark.parametrize(("window", "mean"), [(START, 2.0), (EARLY, 5.5), (LATE, 27.5), (ALL, 15.5)])
def test_parts_of_the_training(window: tuple[float, float], mean: float) -> None:
    rows = [row for row in ROWS if row["method"] == "grpo"]
    found = measure(rows, Claim("x", "grpo", metric="alpha", window=window))
    assert found is not None
    assert found.mean == pytest.approx(mean)
    assert found.interval == pytest.approx((mean, mean))


def test_a_difference_within_the_training_has_a_t_interval_over_paired_cells() -> None:
    found = measure(ROWS, Claim("x", "sgpo", "grpo", metric="alpha"))
    assert found is not None
    half = 4.3026527 * 7**0.5 / 3**0.5  # of 1, 2, 6: mean 3, variance 7; t of two degrees of freedom
    assert (found.mean, found.cells) == (pytest.approx(3.0), 3)
    assert found.interval == pytest.approx((3 - half, 3 + half))


def test_a_change_is_between_parts_of_each_cell() -> None:
    found = measure(ROWS, Claim("x", "sgpo", metric="alpha", window=LATE, since=START))
    assert found is not None
    assert found.mean == pytest.approx(25.5)
    paired = measure(ROWS, Claim("x", "sgpo", "grpo", metric="alpha", window=LATE, since=START))
    assert paired is not None
    assert paired.mean == pytest.approx(0.0)


def test_one_cell_has_no_interval_and_missing_points_are_left_out() -> None:
    assert measure(ROWS, Claim("x", "lonely", metric="alpha")) is None
    rows = [row for row in ROWS if row["method"] == "lonely"] + [result("b", 2, "lonely", [0.5], **curves(RISING))]
    found = measure(rows, Claim("x", "lonely", metric="alpha", window=START))
    assert found is not None
    assert found.mean == pytest.approx((2.5 + 2.0) / 2)


def test_scores_are_those_of_the_comparison() -> None:
    found = measure(ROWS, Claim("x", "sgpo", "grpo"))
    assert found is not None
    assert found.mean == pytest.approx((0.5 + 0.5 / 3) / 2)
    assert found.cells == 3


def test_verdicts() -> None:
    rows = [result("b", seed, "grpo", [0.0], **curves(RISING)) for seed in (1, 2, 3)]
    rows += [result("b", seed, "sgpo", [0.0], **curves([v + 2 for v in RISING if v])) for seed in (1, 2, 3)]
    found = measure(rows, Claim("x", "sgpo", "grpo", metric="alpha"))
    assert found is not None
    assert [verdict(found, sign, p) for sign in (1, -1) for p in (0.04, 0.06)] == [
        *("holds", "cannot tell", "does not hold", "cannot tell")
    ]
    few = measure(rows[:2] + rows[3:5], Claim("x", "sgpo", "grpo", metric="alpha"))
    assert few is not None
    assert verdict(few, 1, 0.001) == "cannot tell"


def test_the_table() -> None:
    claims = [
        Claim("a", "sgpo", "grpo", paper="+2.2"),
        Claim("b", "sgpo", "luffy"),
        Claim("c", "sgpo", "grpo", metric="alpha"),
    ]
    *_, scores, missing, training = table(ROWS, claims)
    assert scores.startswith("| a | score, sgpo minus grpo | +2.2 | +33.3 [")
    assert missing == "| b | score, sgpo minus luffy |  | not measured | | | | | |"
    # Of 1, 2 and 6, as above: t is 1.96 on two degrees of freedom, so p is .188, and twice that of two claims.
    assert training.startswith("| c | alpha, last fifth, sgpo minus grpo |  | +3.000 [-3.572, +9.572] | ")
    assert " | 3 | 0.38 | cannot tell | " in training
