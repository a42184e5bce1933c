"""The options of the sampling engine, and what bounds the wait for it. With vLLM itself: test_vllm.py."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sgpo.errors import EngineError, StopHere
from sgpo.sampling import engines
from sgpo.sampling.engine_errors import at_once, engine_errors, within
from sgpo.sampling.engines import check_engine, engine_dtype, make_sampler
from sgpo.sampling.transformers import TransformersSampler
from sgpo.sampling.weights import current_weights
from sgpo.training.config import SGPOConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "sglang"}, "sampler is 'sglang'; choose one of transformers, vllm"),
        ({"sampler": "vllm", "vllm_mode": "remote"}, "vllm_mode is 'remote'; choose one of colocate, server"),
        (
            {"sampler": "vllm", "vllm_dtype": "float8"},
            "vllm_dtype is 'float8'; choose one of float32, bfloat16, float16",
        ),
        (
            {"sampler": "vllm", "vllm_sync_timeout": 0.0},
            "vllm_sync_timeout is 0.0; it must be a positive number of seconds",
        ),
        (
            {"sampler": "vllm", "vllm_gpu_memory_utilization": 1.5},
            "vllm_gpu_memory_utilization is 1.5; it must be above 0 and at most 1",
        ),
        ({"vllm_mode": "server"}, "vllm_mode: no effect without sampler: vllm; write that too, or leave vllm_mode out"),
        (
            {"sampler": "vllm", "vllm_server_base_url": "http://there:8000", "vllm_group_port": 5},
            "vllm_server_base_url, vllm_group_port: no effect without vllm_mode: server; write that too, or leave "
            "vllm_server_base_url out",
        ),
        (
            {"sampler": "vllm", "vllm_tensor_parallel_size": 0},
            "vllm_tensor_parallel_size is 0; it must be 1 or more",
        ),
        (
            {"sampler": "vllm", "vllm_mode": "server", "vllm_tensor_parallel_size": 2},
            "vllm_tensor_parallel_size: no effect without vllm_mode: colocate; write that too, or leave "
            "vllm_tensor_parallel_size out",
        ),
        (
            {"sampler": "vllm", "vllm_enable_sleep_mode": True},
            "vllm_enable_sleep_mode gives back memory of a CUDA device, and there is none here; leave it out",
        ),
        (
            {"sampler": "vllm", "vllm_mode": "server", "vllm_dtype": "float32"},
            "vllm_dtype: no effect without vllm_mode: colocate; write that too, or leave vllm_dtype out",
        ),
    ],
)
def test_options_that_no_engine_can_be_made_from(
    make_config: Callable[..., SGPOConfig], monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(engines, "check_vllm", lambda mode: None)  # as if it were installed
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_config(**changes)


@pytest.fixture
def _vllm_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: SimpleNamespace())


def test_vllm_that_is_missing_is_said(make_config: Callable[..., SGPOConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^sampler vllm needs vLLM, which is not installed here"):
        make_config(sampler="vllm")


@pytest.mark.usefixtures("_vllm_is_here")
def test_a_server_needs_a_device_that_can_send(
    make_config: Callable[..., SGPOConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^vllm_mode server sends the weights through NCCL, which needs a CUDA"):
        make_config(sampler="vllm", vllm_mode="server")


@pytest.mark.usefixtures("_vllm_is_here")
def test_vllm_takes_no_higher_temperature_than_2(make_config: Callable[..., SGPOConfig]) -> None:
    assert make_config(sampler="vllm", temperature=2.0).temperature == 2
    with pytest.raises(ValueError, match=r"^eval_temperature is 2\.5; vLLM takes 2\.0 at most$"):
        make_config(sampler="vllm", eval_temperature=2.5)


@pytest.mark.usefixtures("_vllm_is_here")
def test_vllm_is_not_made_for_a_model_without_a_folder(make_config: Callable[..., SGPOConfig]) -> None:
    args, one = make_config(sampler="vllm"), SimpleNamespace(num_processes=1)
    with pytest.raises(ValueError, match=r"^vLLM reads the model's configuration from its folder"):
        make_sampler(args, SimpleNamespace(name_or_path=""), None, one)  # type: ignore[arg-type]


def test_processes_that_would_give_up_before_the_synchronisation_are_refused() -> None:
    values = {
        "sampler": "vllm",
        "vllm_mode": "colocate",
        "vllm_sync_timeout": 300.0,
        "vllm_tensor_parallel_size": 1,
    }
    check_engine(SimpleNamespace(**values, world_size=2, ddp_timeout=1800))
    check_engine(SimpleNamespace(**values, world_size=1, ddp_timeout=300))
    with pytest.raises(ValueError, match=r"^vllm_sync_timeout \(300 seconds\) must be below ddp_timeout \(300\)"):
        check_engine(SimpleNamespace(**values, world_size=2, ddp_timeout=300))


def test_processes_that_cannot_be_divided_into_groups_are_refused() -> None:
    values = {"sampler": "vllm", "vllm_mode": "colocate", "vllm_sync_timeout": 300.0, "ddp_timeout": 1800}
    check_engine(SimpleNamespace(**values, world_size=4, vllm_tensor_parallel_size=2))
    said = r"^vllm_tensor_parallel_size \(4\) does not divide the number of processes \(6\), of which so many share"
    with pytest.raises(ValueError, match=said):
        check_engine(SimpleNamespace(**values, world_size=6, vllm_tensor_parallel_size=4))


def test_calls_share_one_synchronisation_which_is_timed() -> None:
    done: list[str] = []

    @contextmanager
    def noted(name: str) -> Iterator[None]:
        done.append(f"{name} begins")
        yield
        done.append(f"{name} ends")

    sampler: Any = SimpleNamespace(current=lambda: noted("current"))
    with current_weights(sampler, None, noted("clock")):
        done.append("sampling")
    assert done == ["clock begins", "current begins", "clock ends", "sampling", "current ends"]


def test_the_transformers_sampler_has_its_budget(make_config: Callable[..., SGPOConfig], tokenizer: Any) -> None:
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None))
    args = make_config(sampler_batch_tokens=777)
    sampler = make_sampler(args, model, tokenizer, SimpleNamespace(num_processes=1))  # type: ignore[arg-type]
    assert isinstance(sampler, TransformersSampler)
    assert (sampler.max_batch_tokens, sampler.eos_token_ids) == (777, [tokenizer.eos_token_id])


@pytest.mark.parametrize(
    ("given", "bf16", "expected"),
    [
        (None, False, "float32"),
        (None, True, "bfloat16"),
        ("float32", True, "float32"),
        ("float16", False, "float16"),
    ],
)
def test_the_engine_computes_as_the_trainer_does(given: str | None, bf16: bool, expected: str) -> None:
    assert engine_dtype(SimpleNamespace(vllm_dtype=given, bf16=bf16)) == expected


# --- nothing waits for ever ---------------------------------------------------------------------------------


def test_tasks_run_at_once_and_the_first_error_is_raised() -> None:
    gate = threading.Barrier(3)

    def meet(number: int) -> int:
        gate.wait(5)
        return number

    assert at_once([partial(meet, number) for number in range(3)]) == [0, 1, 2]
    assert at_once([]) == []

    def fail() -> None:
        raise ConnectionError("the server is gone")

    began = time.monotonic()
    with pytest.raises(ConnectionError, match="the server is gone") as error:
        at_once([lambda: threading.Event().wait(60) and None, fail])
    assert error.traceback[-1].name == "fail"
    assert time.monotonic() - began < 30


def test_what_ends_in_time_was_done() -> None:
    done: list[int] = []
    within("it", 5.0, lambda: done.append(1))
    assert done == [1]


def test_what_raises_is_said_with_its_cause() -> None:
    def action() -> None:
        raise torch.OutOfMemoryError("2 GiB wanted")

    with pytest.raises(EngineError, match=r"^vLLM: it failed: OutOfMemoryError: 2 GiB wanted$") as error:
        within("it", 5.0, action)
    assert isinstance(error.value.__cause__, torch.OutOfMemoryError)


def test_a_bug_travels_from_its_thread_with_its_traceback() -> None:
    def action() -> None:
        {}["weight"]

    with pytest.raises(KeyError, match="weight") as error:
        within("it", 5.0, action)
    assert error.traceback[-1].name == "action"
    with pytest.raises(EngineError, match=r"^vLLM: it failed: KeyError: 'weight'$"):
        within("it", 5.0, action, KeyError)
    bug = TypeError("of a request")
    with pytest.raises(TypeError, match="of a request"):
        within("it", 30.0, lambda: threading.Event().wait(60) and None, failure=lambda: bug)


def test_what_hangs_is_left_behind() -> None:
    with pytest.raises(EngineError, match=r"^vLLM: it took more than 0\.2 seconds \(vllm_sync_timeout\)$"):
        within("it", 0.2, lambda: threading.Event().wait(60) and None)


def test_a_failure_elsewhere_ends_what_hangs() -> None:
    cause = ConnectionError("the server is gone")
    with pytest.raises(EngineError, match=r"^vLLM: it failed: ConnectionError: the server is gone$") as error:
        within("it", 30.0, lambda: threading.Event().wait(60) and None, failure=lambda: cause)
    assert error.value.__cause__ is cause


def test_engine_errors_keep_their_cause_and_let_ctrl_c_through() -> None:
    with (
        pytest.raises(EngineError, match=r"^vLLM failed while sampling: MemoryError: full$"),
        engine_errors("sampling"),
    ):
        raise MemoryError("full")
    with pytest.raises(StopHere), engine_errors("sampling"):
        raise StopHere


@pytest.mark.parametrize("bug", [KeyError("text"), TypeError("None"), ValueError("zip"), AssertionError("?")])
def test_a_bug_is_not_called_a_failure_of_the_engine(bug: Exception) -> None:
    with pytest.raises(type(bug)) as error, engine_errors("sampling"):
        raise bug
    assert error.value is bug
    said = f"vLLM failed while sampling: {type(bug).__name__}: {bug}"
    with pytest.raises(EngineError, match=f"^{re.escape(said)}$"), engine_errors("sampling", type(bug)):
        raise bug
