"""Processes that hold one engine together. With vLLM itself: test_vllm_processes.py."""

from __future__ import annotations

from pathlib import Path

import torch
from places import SUPPORT
from processes import launch

SEEN = (
    (["b0", "b1", "b2"], [{"seed": 10}, {"seed": 11}, {"seed": 12}]),
    (
        ["c0", "c1", "d0"],
        [{"seed": 20}, {"seed": 21}, {"seed": 30}],
    ),
)


def test_each_is_given_the_prompts_of_its_group_and_keeps_its_own_completions(tmp_path: Path) -> None:
    for status, output in launch([str(SUPPORT / "gloo_cases.py"), "sharing", str(tmp_path)], processes=4):
        assert status == 0, output
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(4)]
    assert [result["found"] for result in results] == [
        [],
        ["b0 with 10", "b1 with 11", "b2 with 12"],
        ["c0 with 20", "c1 with 21"],
        ["d0 with 30"],
    ]
    for rank, result in enumerate(results):
        assert result["alone"] == result["found"]
        assert result["calls"][0] == SEEN[rank // 2]  # the same, in the same order, in both
        assert bool(result["failure"]) == (rank == 3)  # one that waits in vain for the other of its group
