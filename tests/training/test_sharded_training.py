"""Training in two processes (gloo) whose model is divided among them: by FSDP2, and by DeepSpeed's ZeRO-3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from places import SUPPORT
from processes import launch
from safetensors.torch import load_file
from view_cases import assert_same_views

Weights = dict[str, torch.Tensor]
SCRIPT = str(SUPPORT / "sharded_cases.py")
LOGGED = ("loss", "grad_norm", "entropy", "learning_rate", "eval_avg_at_4")
WHOLE = pytest.param("ddp", marks=pytest.mark.integration)  # in each process
DIVIDED = (
    pytest.param("fsdp2", marks=pytest.mark.integration),
    pytest.param("zero3", marks=pytest.mark.deepspeed),  # inside an environment of its own
)
kinds = pytest.mark.parametrize("kind", DIVIDED)


def found_by(case: str, kind: str, checkpoint: Path, folder: Path) -> list[Any]:
    """What each process found."""
    processes = 1 if kind == "alone" else 2
    for status, output in launch([SCRIPT, case, kind, str(checkpoint), str(folder)], processes):
        assert status == 0, output
    return [torch.load(folder / f"{case}-{kind}-{rank}.pt", weights_only=False) for rank in range(processes)]


def norm(weights: Weights) -> float:
    return torch.cat([value.flatten() for value in weights.values()]).double().norm().item()


def difference(one: Weights, other: Weights) -> Weights:
    assert one.keys() == other.keys()
    return {name: one[name] - other[name] for name in one}


@pytest.fixture(scope="module")
def folder_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alone")


@pytest.fixture(scope="module")
def alone(checkpoint: Path, folder_alone: Path) -> dict[int, tuple[Weights, list[Any]]]:
    return found_by("trained", "alone", checkpoint, folder_alone)[0]


@kinds
def test_two_processes_train_as_one(
    kind: str,
    alone: dict[int, tuple[Weights, list[Any]]],
    folder_alone: Path,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    before = load_file(checkpoint / "model.safetensors")
    for of_process in found_by("trained", kind, checkpoint, tmp_path):
        for problems, (weights, history) in of_process.items():
            expected, expected_history = alone[problems]
            moved = norm(difference(expected, {name: before[name] for name in expected}))
            assert moved > 5e-3
            # A gradient of 0.5 moves weights of about 1 by 0.005 only, of which float32 then keeps five digits.
            assert norm(difference(weights, expected)) <= (1e-5 if problems == 10 else 1e-4) * moved
            for line, other in zip(history, expected_history, strict=True):
                logged = {name: other[name] for name in LOGGED if name in other}
                assert {name: line[name] for name in logged} == pytest.approx(logged, rel=2e-5, abs=1e-6)
            saved = load_file(tmp_path / f"{kind}-{problems}" / "model.safetensors")
            assert all(torch.equal(saved[name], weights[name]) for name in weights)
    assert_same_views(tmp_path / f"{kind}-10", folder_alone / "alone-10")


@kinds
def test_stopped_and_resumed(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    for found in found_by("resumed", kind, checkpoint, tmp_path):
        straight, resumed = found["straight"], found["resumed"]
        assert straight.keys() == resumed.keys()
        assert all(torch.equal(straight[name], resumed[name]) for name in straight)


@kinds
def test_an_adapter(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    """The engine would get base and adapter together, and the folder the adapter."""
    (expected,) = found_by("adapted", "alone", checkpoint, tmp_path)
    for merged in found_by("adapted", kind, checkpoint, tmp_path):
        assert norm(difference(merged, expected)) <= 1e-6 * norm(expected)
    saved, expected = (load_file(tmp_path / f"{k}-adapted" / "adapter_model.safetensors") for k in (kind, "alone"))
    assert norm(difference(saved, expected)) <= 1e-5 * norm(expected)


@kinds
def test_a_gradient_that_is_not_finite_reaches_no_weight(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    for said in found_by("not_finite", kind, checkpoint, tmp_path):
        assert said.startswith("the gradient of update 1 is not finite, so it was not made. The sequences behind it: ")


@pytest.fixture(scope="module")
def warmed_up_alone(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, Any]:
    folder = tmp_path_factory.mktemp("warm")
    ((history, _),) = found_by("warmed_up", "alone", checkpoint, folder)
    return load_file(folder / "alone-warm" / "model.safetensors"), history


@pytest.mark.parametrize("kind", [WHOLE, *DIVIDED])
def test_the_warm_up_in_two_processes_is_that_of_one(
    kind: str, warmed_up_alone: tuple[Weights, Any], checkpoint: Path, tmp_path: Path
) -> None:
    """`sgpo sft`: losses of both sets, the norm of each gradient, and the weights of the best checkpoint."""
    (expected, expected_history), before = warmed_up_alone, load_file(checkpoint / "model.safetensors")
    for history, divided in found_by("warmed_up", kind, checkpoint, tmp_path):
        assert divided == (kind != "ddp")
        assert len(history) == len(expected_history) == 8 + 2
        for line, other in zip(history, expected_history, strict=True):
            logged = {
                name: other[name] for name in ("loss", "eval_loss", "grad_norm", "learning_rate") if name in other
            }
            assert {name: line[name] for name in logged} == pytest.approx(logged, rel=2e-5, abs=1e-6)
    weights = load_file(tmp_path / f"{kind}-warm" / "model.safetensors")
    moved = norm(difference(expected, {name: before[name] for name in expected}))
    assert moved > 5e-3
    assert norm(difference(weights, expected)) <= 1e-4 * moved  # float32, after several updates
