"""vLLM's engines: in this process, from a checkpoint, or on servers."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from tqdm import tqdm
from trl.generation.vllm_generation import extract_logprobs
from trl.trainer.utils import ensure_master_addr_port
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.platforms import current_platform
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from sgpo import distributed
from sgpo.errors import EngineError, StopHere
from sgpo.sampling.engine_errors import Failure, at_once, engine_errors, within
from sgpo.sampling.engine_groups import completed_together
from sgpo.sampling.records import SampleRequest, Watch
from sgpo.sampling.vllm_client import Broadcast, Client, server_urls
from sgpo.sampling.vllm_weights import Named

VLLM_FAILURES = (EngineDeadError, EngineGenerateError, VLLMValidationError)
# vLLM refuses models, options and a device without room by these. From it alone: nothing of ours runs within its start.
START_FAILURES = (*VLLM_FAILURES, ValueError, AssertionError)
# A weight whose name or shape the engine does not have.
LOAD_FAILURES = (ValueError, KeyError, AssertionError)
LAUNCHER_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SampledTokens = tuple[list[int], list[float]]  # token ids, and the log-probability of each


class VLLMEngine(Protocol):
    """A running vLLM."""

    max_model_len: int  # tokens of prompt and completion

    def complete(
        self, prompts: Sequence[SampleRequest], options: Sequence[dict[str, Any]], watch: Watch | None = None
    ) -> list[list[SampledTokens]]:
        """The completions of each prompt, in order; options are those of vLLM's `SamplingParams`, one set a prompt."""
        ...


# ---------------------------------------------------------------------- an engine in this process


def no_failure() -> None:
    """Of an engine in this process: its errors are raised where it was called."""


class _WatchedBar(tqdm):
    """vLLM counts on a progress bar which completions of a call have ended; this one is not drawn."""

    def __init__(self, *arguments: Any, watch: Watch, **keywords: Any) -> None:
        self._watch = watch
        super().__init__(*arguments, **{**keywords, "file": io.StringIO()})

    def update(self, n: float | None = 1) -> bool | None:
        self._watch(int(n or 0), 0)
        return super().update(n)


class ColocatedEngine:
    """vLLM in this process, on the device that trains; an error inside it is raised where it was called.

    With tensor parallelism it is a part of an engine that neighbouring processes hold together. With sleep mode it has
    no memory on the device from `rest` to the next weights, which come in two parts: those of the weights before them,
    those of keys and values after them.

    Args:
        model: folder or Hub name, of which the architecture is read; its weights will be replaced.
        dtype: floating type of weights and arithmetic.
    """

    OPTIONS: ClassVar[dict[str, Any]] = {}  # further ones of vLLM's `LLM`

    def __init__(self, args: Any, model: str, accelerator: Any, dtype: str) -> None:
        self.dtype = dtype
        size, self._sleeps = args.vllm_tensor_parallel_size, args.vllm_enable_sleep_mode
        self._group = distributed.neighbours(size, args.vllm_sync_timeout) if size > 1 else None
        with _launched(accelerator):
            self.llm = _start(
                model,
                dtype,
                args.vllm_gpu_memory_utilization,
                args.vllm_max_model_length,
                distributed_executor_backend="external_launcher",  # the worker in this process, so with the weights
                max_num_batched_tokens=4096,  # what vLLM measures a GPU's memory with at the start, as in TRL
                tensor_parallel_size=size,
                enable_sleep_mode=self._sleeps,
            )
        self.max_model_len: int = self.llm.llm_engine.model_config.max_model_len
        self._asleep = False
        self.rest()

    def begin_sync(self) -> Failure:
        return no_failure

    def start_update(self) -> None:
        """An engine that is awake can load weights at any time."""
        if self._asleep:
            torch.cuda.empty_cache()  # what the training does not use any more
            self.llm.wake_up(tags=["weights"])

    def load(self, weights: Sequence[Named]) -> None:
        load = self.llm.llm_engine.model_executor.driver_worker.model_runner.model.load_weights
        for name, weight in weights:
            with engine_errors(f"loading the weight {name}", *LOAD_FAILURES):
                load([(name, weight)])

    def finish_update(self) -> None:
        if self._asleep:
            self.llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        if not self.llm.reset_prefix_cache():
            raise EngineError("keys and values of the old weights could not be dropped")

    def rest(self) -> None:
        if self._sleeps:
            self.llm.sleep(level=2)  # new weights come before the next sampling, so the old ones are not kept
            self._asleep = True

    def prompt_logprobs(self, ids: list[int]) -> list[list[float]]:
        options = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        (output,) = self.llm.generate([{"prompt_token_ids": ids}], [options], use_tqdm=False)
        return [[value[token].logprob for token, value in zip(ids[1:], output.prompt_logprobs[1:], strict=True)]]

    def complete(
        self, prompts: Sequence[SampleRequest], options: Sequence[dict[str, Any]], watch: Watch | None = None
    ) -> list[list[SampledTokens]]:
        return completed_together(self._group, prompts, options, partial(_complete, self.llm, watch=watch))


class CheckpointEngine:
    """vLLM in this process with the weights of a checkpoint, which stay as they are: for evaluation.

    Args:
        model: folder or Hub name.
        dtype: floating type of weights and arithmetic.
        gpu_memory_utilization: share of the device's memory.
        max_model_length: longest prompt and completion; default: the model's context.
    """

    def __init__(self, model: str, *, dtype: str, gpu_memory_utilization: float, max_model_length: int | None) -> None:
        self.llm = _start(model, dtype, gpu_memory_utilization, max_model_length)
        self.max_model_len: int = self.llm.llm_engine.model_config.max_model_len

    def complete(
        self, prompts: Sequence[SampleRequest], options: Sequence[dict[str, Any]], watch: Watch | None = None
    ) -> list[list[SampledTokens]]:
        return _complete(self.llm, prompts, options, watch)


def _start(model: str, dtype: str, gpu_memory_utilization: float, max_length: int | None, **options: Any) -> Any:
    """Raw log-probabilities, and nothing of the checkpoint's own sampling parameters. Raises EngineError.

    On a CPU a prompt is read whole: one that is read in parts winds the generator of a seeded request back, which
    generators of a CPU cannot do.
    """
    if current_platform.is_cpu():
        options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": None}  # None: as many as a prompt needs
    with engine_errors("starting the engine", *START_FAILURES):
        return LLM(
            model=model,
            dtype=dtype,
            gpu_memory_utilization=gpu_memory_utilization,
            max_model_len=max_length,
            logprobs_mode="raw_logprobs",
            enable_prefix_caching=True,
            generation_config="vllm",
            **options,
            **ColocatedEngine.OPTIONS,
        )


def _complete(
    llm: Any, prompts: Sequence[SampleRequest], options: Sequence[dict[str, Any]], watch: Watch | None
) -> list[list[SampledTokens]]:
    if not prompts:  # of processes that have no problem
        return []
    try:
        outputs = llm.generate(
            [{"prompt_token_ids": prompt.prompt_ids} for prompt in prompts],
            [SamplingParams(**each, detokenize=False) for each in options],
            use_tqdm=partial(_WatchedBar, watch=watch) if watch else False,
        )
    except StopHere:  # Ctrl-C, after which the same engine may be asked again
        processor = llm.llm_engine.output_processor
        left = [*processor.request_states, *processor.parent_requests]
        llm.llm_engine.abort_request(left, internal=True)
        raise
    return [
        [(list(c.token_ids), logprobs) for c, logprobs in zip(output.outputs, _drawn(output), strict=True)]
        for output in outputs
    ]


def _drawn(output: Any) -> list[list[float]]:
    """Of each completion of a request, the log-probability of each token; NaN where there is none."""
    logprobs, _ = extract_logprobs([output])
    return [[math.nan if value is None else value for (value,) in row] for row in logprobs or []]


@contextmanager
def _launched(accelerator: Any) -> Iterator[None]:
    """What vLLM reads of a launcher's environment; left there, it would tell children that they are launched."""
    before = {name: os.environ.get(name) for name in LAUNCHER_NAMES}
    os.environ["RANK"] = str(accelerator.process_index)
    os.environ["LOCAL_RANK"] = str(accelerator.local_process_index)
    os.environ["WORLD_SIZE"] = str(accelerator.num_processes)
    ensure_master_addr_port()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# ---------------------------------------------------------------------- engines on servers


class ServerEngine:
    """One or several vLLM servers: the first process sends the weights to all, each asks for its own completions.

    Raises what a server that is gone, or does not join, raises.
    """

    def __init__(self, args: Any) -> None:
        self._sync_timeout, self._sample_timeout = args.vllm_sync_timeout, args.vllm_sample_timeout
        urls = server_urls(args.vllm_server_base_url)
        self.clients = [Client(url, args.vllm_server_timeout, self._sync_timeout) for url in urls]
        configs = [client.get_server_info()["model_config"] for client in self.clients]
        self.max_model_len: int = min(config["max_model_len"] for config in configs)
        self.dtype = "float32" if all("float32" in str(config.get("dtype")) for config in configs) else "bfloat16"
        self._sends = distributed.rank() == 0
        if self._sends:
            join = partial(self._join, args.vllm_group_port)
            within("joining the server", self._sync_timeout, join, failure=self.begin_sync())

    def _join(self, port: int) -> None:
        self._broadcast = Broadcast(self.clients, port)

    def begin_sync(self) -> Failure:
        """The failed request of this synchronisation; a thread may still be waiting for the worker that failed.

        Each has lists of its own: a request that an earlier call left behind may fail meanwhile.
        """
        for client in self.clients:
            client.failures = []
        lists = [client.failures for client in self.clients]
        return lambda: next((failures[0] for failures in lists if failures), None)

    def start_update(self) -> None:
        self._ask_all("start_weight_update")

    def load(self, weights: Sequence[Named]) -> None:
        if self._sends:
            self._broadcast.send(weights)

    def finish_update(self) -> None:
        self._ask_all("finish_weight_update")
        self._ask_all("reset_prefix_cache")

    def rest(self) -> None:
        """A server keeps its memory."""

    def _ask_all(self, path: str) -> None:
        if self._sends:
            at_once([partial(client.ask, path) for client in self.clients])

    def prompt_logprobs(self, ids: list[int]) -> list[list[float]]:
        return at_once([partial(client.prompt_logprobs, ids) for client in self.clients])

    def complete(
        self, prompts: Sequence[SampleRequest], options: Sequence[dict[str, Any]], watch: Watch | None = None
    ) -> list[list[SampledTokens]]:
        """Only training comes here, which is not watched. The servers get prompts in turn, all of them at once."""

        def ask(client: Client, prompt: SampleRequest, chosen: dict[str, Any]) -> list[SampledTokens]:
            answer = client.generate([prompt.prompt_ids], n=chosen["n"], generation_kwargs=chosen)
            return [
                (ids, [math.nan if value is None else value for (value,) in values])
                for ids, values in zip(answer["completion_ids"], answer["logprobs"], strict=True)
            ]

        order = [self.clients[(distributed.rank() + n) % len(self.clients)] for n in range(len(prompts))]
        for client in self.clients:
            client.read_timeout = self._sample_timeout
        try:
            return at_once([partial(ask, *each) for each in zip(order, prompts, options, strict=True)])
        finally:
            for client in self.clients:
                client.read_timeout = self._sync_timeout
