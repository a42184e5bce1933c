"""Two processes on one machine (gloo): the gradients of one process on all rows, no hang, one error for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_cases import SPLITS, WRAPPERS
from places import SUPPORT
from processes import launch


def run_case(name: str, folder: Path) -> None:
    for status, output in launch([str(SUPPORT / "gloo_cases.py"), name, str(folder)]):
        assert status == 0, output


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found."""
    folder = tmp_path_factory.mktemp("gradients")
    run_case("gradients", folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_gradients_are_those_of_one_process(gradients: list[dict[str, Any]], wrapper: str, split: str) -> None:
    for of_process in gradients:
        case = of_process[f"{wrapper}: {split}"]
        loss, means, tokens = case["found"]
        loss_alone, means_alone, tokens_alone = case["alone"]
        if split == "no rows at all":
            assert (loss, means, tokens) == (0.0, {}, 0)
            assert case["gradients"] == {}  # not zeros, by which an optimizer would decay and move weights
            continue
        found = torch.cat([case["gradients"][name].flatten() for name in case["expected"]]).double()
        expected = torch.cat([gradient.flatten() for gradient in case["expected"].values()]).double()
        assert case["gradients"].keys() == case["expected"].keys()
        assert (found - expected).norm() <= 1e-6 * expected.norm()
        assert loss == pytest.approx(loss_alone, abs=1e-6)
        assert means == pytest.approx(means_alone, rel=1e-5)
        assert tokens_alone <= tokens <= tokens_alone + 2 * 20  # with rows that only keep the processes in step


def test_sharded_models(tmp_path: Path) -> None:
    run_case("sharded", tmp_path)
    for rank in range(2):
        result = torch.load(tmp_path / f"{rank}.pt")
        assert result["said"] == {
            "alone": "the head's weight is sharded on its own; shard it together with the root of the model",
            "bare": "there are 2 processes, but the model is a bare LlamaForCausalLM: wrap it in "
            "DistributedDataParallel, or shard it with fully_shard",
        }
        assert all(gradient.isfinite().all() for gradient in result["gradients"].values())


def test_gathering_leaves_what_modules_do_after_a_forward_pass(tmp_path: Path) -> None:
    run_case("gathering", tmp_path)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == {
            # of the root alone fully_shard decides by itself, and then it does not reshard
            "root not given, sampled": [False, True, False],
            "root not given, idle": [False, True, False],
            "root true, sampled": [True, True, False],
            "root true, idle": [True, True, False],
            "root false, sampled": [False, True, False],
            "root false, idle": [False, True, False],
            "smaller group": True,
        }


def test_sharded_weights_are_gathered_whole_in_every_process(tmp_path: Path) -> None:
    """For an engine that samples; with an adapter they are base + delta."""
    pytest.importorskip("peft")
    run_case("weights", tmp_path)
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt")
        assert len(results) == 12
        for found, expected in results.values():
            assert [*found] == [*expected]
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_sharded_model_is_saved_and_resumed_exactly(tmp_path: Path) -> None:
    """By accelerate's own functions: on a CPU Trainer would not shard, but replicate in silence."""
    run_case("saving", tmp_path)
    for rank in range(2):
        for found in torch.load(tmp_path / f"{rank}.pt").values():
            for one, other in (found["whole"], found["resumed"]):
                assert one.keys() == other.keys()
                assert all(torch.equal(one[name], other[name]) for name in one)
            saved, alone = found["whole"][1], found["alone"]
            assert saved.keys() == alone.keys()
            # AdamW's first step is the learning rate times the gradient's sign, which rounding decides where it is 0.
            far = sum(int((saved[name] - alone[name]).abs().gt(1e-6).sum()) for name in saved)
            assert far <= 0.002 * sum(value.numel() for value in saved.values())
