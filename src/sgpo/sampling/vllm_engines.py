"""vLLM's engines: in this process, from a checkpoint, or on a server."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Protocol

from tqdm import tqdm
from trl.generation.vllm_generation import VLLMGeneration, extract_logprobs
from trl.trainer.utils import ensure_master_addr_port
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from sgpo.errors import EngineError, StopHere
from sgpo.models.adapters import has_adapter
from sgpo.models.merged import merged_parameters
from sgpo.sampling.engine_errors import Failure, engine_errors, within
from sgpo.sampling.records import SampleRequest, Watch
from sgpo.sampling.vllm_client import Client

VLLM_FAILURES = (EngineDeadError, EngineGenerateError, VLLMValidationError)
# vLLM refuses models, options and a device without room by these. From it alone: nothing of ours runs within its start.
START_FAILURES = (*VLLM_FAILURES, ValueError, AssertionError)
# A weight whose name or shape the engine does not have.
LOAD_FAILURES = (ValueError, KeyError, AssertionError)
LAUNCHER_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SampledTokens = tuple[list[int], list[float]]  # token ids, and the log-probability of each


class VLLMEngine(Protocol):
    """A running vLLM whose weights can be replaced."""

    max_model_len: int  # tokens of prompt and completion

    def begin_sync(self) -> Failure:
        """To be called before `sync_weights`; what it returns tells of a failure from which that may not come back."""
        ...

    def sync_weights(self) -> None:
        """Give the engine the weights of the model in training, and drop keys and values of the old ones."""

    def complete(
        self, prompts: Sequence[SampleRequest], options: Sequence[dict[str, Any]], watch: Watch | None = None
    ) -> list[list[SampledTokens]]:
        """The completions of each prompt, in order; options are those of vLLM's `SamplingParams`, one set a prompt."""
        ...


class _Generation(VLLMGeneration):
    """TRL's, which merges an adapter into the model for each synchronisation, and takes it out again."""

    def _iter_named_params(self) -> Iterator[tuple[str, Any]]:
        return merged_parameters(self.model) if has_adapter(self.model) else super()._iter_named_params()


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


# ---------------------------------------------------------------------- an engine on a server


class ColocatedEngine(_Generation):
    """vLLM in this process, on the device that trains; an error inside it is raised where it was called."""

    OPTIONS: ClassVar[dict[str, Any]] = {}  # further ones of vLLM's `LLM`

    def __init__(self, args: Any, model: Any, tokenizer: Any, accelerator: Any, dtype: str) -> None:
        self._dtype = dtype
        super().__init__(
            model,
            accelerator,
            tokenizer,
            mode="colocate",
            gpu_memory_utilization=args.vllm_gpu_memory_utilization,
            max_model_length=args.vllm_max_model_length,
        )
        self.max_model_len: int = self.llm.llm_engine.model_config.max_model_len

    def _init_vllm(self) -> None:
        """As in TRL, but with raw log-probabilities, a floating type, and the environment as it was."""
        with _launched(self.accelerator):
            self.llm = _start(
                self.model.name_or_path,
                self._dtype,
                self.gpu_memory_utilization,
                self.max_model_length,
                distributed_executor_backend="external_launcher",  # the worker in this process, so with the weights
                max_num_batched_tokens=4096,  # what vLLM measures its memory with at the start, as in TRL
            )
        self._llm_weights_sleeping = False

    def begin_sync(self) -> Failure:
        return no_failure

    def sync_weights(self) -> None:
        """As in TRL, but a weight that the engine cannot take is named."""
        load = self.llm.llm_engine.model_executor.driver_worker.model_runner.model.load_weights
        for name, weight in self._iter_named_params():
            with engine_errors(f"loading the weight {name}", *LOAD_FAILURES):
                load([(name, weight)])
        if not self.llm.reset_prefix_cache():
            raise EngineError("keys and values of the old weights could not be dropped")

    def complete(
        self, prompts: Sequence[SampleRequest], options: Sequence[dict[str, Any]], watch: Watch | None = None
    ) -> list[list[SampledTokens]]:
        return _complete(self.llm, prompts, options, watch)


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

    def begin_sync(self) -> Failure:
        return no_failure

    def sync_weights(self) -> None:
        """There are no others to come."""

    def complete(
        self, prompts: Sequence[SampleRequest], options: Sequence[dict[str, Any]], watch: Watch | None = None
    ) -> list[list[SampledTokens]]:
        return _complete(self.llm, prompts, options, watch)


def _start(model: str, dtype: str, gpu_memory_utilization: float, max_length: int | None, **options: Any) -> Any:
    """Raw log-probabilities, and nothing of the checkpoint's own sampling parameters. Raises EngineError."""
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


class ServerEngine(_Generation):
    """A vLLM server; this process sends it the weights through NCCL."""

    def __init__(self, args: Any, model: Any, tokenizer: Any, accelerator: Any) -> None:
        self._sync_timeout, self._sample_timeout = args.vllm_sync_timeout, args.vllm_sample_timeout
        super().__init__(
            model,
            accelerator,
            tokenizer,
            mode="server",
            server_base_url=args.vllm_server_base_url,
            server_timeout=args.vllm_server_timeout,
            group_port=args.vllm_group_port,
        )
        info = self.vllm_client.get_server_info()
        self.max_model_len: int = info["model_config"]["max_model_len"]

    def _init_vllm(self) -> None:
        client = Client(self.server_base_url, self.group_port, self.server_timeout, self._sync_timeout)
        self.vllm_client = client
        device = self.accelerator.device
        failure = self.begin_sync()
        within("joining the server", self._sync_timeout, lambda: client.init_communicator(device), failure=failure)

    def begin_sync(self) -> Failure:
        """The failed request of this synchronisation; TRL's own thread may still be waiting for the worker that failed.

        Each has a list of its own: a request that an earlier call left behind may fail meanwhile.
        """
        failures = self.vllm_client.failures = list[BaseException]()
        return lambda: failures[0] if failures else None

    def complete(
        self, prompts: Sequence[SampleRequest], options: Sequence[dict[str, Any]], watch: Watch | None = None
    ) -> list[list[SampledTokens]]:
        """Only training comes here, which is not watched."""
        client = self.vllm_client
        client.read_timeout = self._sample_timeout

        def ask(prompt: SampleRequest, chosen: dict[str, Any]) -> list[SampledTokens]:
            answer = client.generate([prompt.prompt_ids], n=chosen["n"], generation_kwargs=chosen)
            return [
                (ids, [math.nan if value is None else value for (value,) in values])
                for ids, values in zip(answer["completion_ids"], answer["logprobs"], strict=True)
            ]

        # One thread for each, so that the server has all of them at once.
        executor = ThreadPoolExecutor(max_workers=len(prompts))
        try:
            return list(executor.map(ask, prompts, options))
        finally:
            client.read_timeout = self._sync_timeout
            executor.shutdown(wait=False, cancel_futures=True)  # after a failure the rest is not waited for
