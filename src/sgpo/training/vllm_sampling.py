"""Sampling with vLLM, in this process or on a server, through TRL's `trl.generation`: the only file that imports it.

TRL holds the weights' way into the engine (names, PEFT, sharding, transport). Three things are different here.

- *Both groups in one engine call.* TRL takes one number of completions for all prompts, vLLM one for each: every
  `SampleRequest` becomes one vLLM request with its own n, and all of them are handed over before any is waited for. So
  the engine batches both groups together, and its prefix cache computes each prompt once.
- *Log-probabilities are those of the full vocabulary at temperature 1* (`logprobs_mode="raw_logprobs"`), as everywhere
  in this package; TRL asks for those of the distribution after temperature and top-p.
- *Nothing waits for ever.* TRL's weight synchronisation blocks in a collective when the other side fails. Here it runs
  beside a watch: a request that fails ends it at once, a time limit in any case.

Every vLLM request has a seed of its own, drawn from the seed of the call. Equal seeds give equal rollouts as far as the
engine's arithmetic does not depend on what is batched together: it does on GPUs.
"""

from __future__ import annotations

import io
import math
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Protocol

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration, extract_logprobs
from trl.trainer.utils import ensure_master_addr_port
from vllm import LLM, SamplingParams

from sgpo.adapters import has_adapter
from sgpo.errors import EngineError
from sgpo.tokenizers import end_token_ids
from sgpo.training.adapter_weights import merged_parameters
from sgpo.training.engine_errors import engine_errors, within
from sgpo.training.interrupt import StopHere
from sgpo.training.rollouts import Rollout
from sgpo.training.sampling import SampleRequest, SamplingConfig, Watch

CONNECT_SECONDS = 10.0
LAUNCHER_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
START_SERVER = (
    "start it with: VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode raw_logprobs "
    """--weight-transfer-config '{"backend": "nccl"}'"""
)

Completion = tuple[list[int], list[float]]  # token ids, and the log-probability of each


class Engine(Protocol):
    """A running vLLM whose weights can be replaced."""

    max_model_len: int  # tokens of prompt and completion

    def sync_weights(self) -> None:
        """Give the engine the weights of the model in training, and drop keys and values of the old ones."""

    def complete(
        self, prompts: Sequence[SampleRequest], options: Sequence[dict[str, Any]], watch: Watch | None = None
    ) -> list[list[Completion]]:
        """The completions of each prompt, in order; options are those of vLLM's `SamplingParams`, one set a prompt."""
        ...


class VLLMSampler:
    """A `Sampler` on vLLM. The weights are sent to the engine before each call.

    Args:
        engine: where it runs.
        eos_token_ids: the tokens that end a completion; those that vLLM would add are not used.
        sync_timeout: seconds that a weight synchronisation may take.
    """

    def __init__(self, engine: Engine, eos_token_ids: Sequence[int], sync_timeout: float = 300.0) -> None:
        self.engine = engine
        self.eos_token_ids = list(eos_token_ids)
        self.sync_timeout = sync_timeout

    @classmethod
    def of(cls, args: Any, model: Any, tokenizer: Any, accelerator: Any, dtype: str) -> VLLMSampler:
        """Start the engine that `args` (with `EngineArguments`) ask for; a server has a floating type of its own.

        Raises EngineError if it does not start.
        """
        with engine_errors("starting the engine"):
            if args.vllm_mode == "colocate":
                engine: Engine = ColocatedEngine(args, model, tokenizer, accelerator, dtype)
            else:
                engine = ServerEngine(args, model, tokenizer, accelerator)
        return cls(engine, end_token_ids(model, tokenizer), args.vllm_sync_timeout)

    def sample(
        self, requests: Sequence[SampleRequest], sampling: SamplingConfig, *, seed: int, watch: Watch | None = None
    ) -> list[list[Rollout]]:
        """Sample all requests in one call of the engine, from the model's present weights; watched prompt by prompt.

        Raises:
            ValueError: a prompt with max_new_tokens exceeds the engine's context.
            FloatingPointError: the engine returned log-probabilities that are not finite.
            EngineError: the weight synchronisation or the engine failed; the cause is named.
        """
        self._check(requests, sampling)
        within("the weight synchronisation", self.sync_timeout, self.engine.sync_weights, self._failure)
        # At temperature 0 vLLM takes n = 1 only, and further completions would be equal.
        copies = [1 if sampling.temperature else request.count for request in requests]
        drawn = random.Random(seed)
        seeds = [own if (own := request.seed) is not None else drawn.getrandbits(60) for request in requests]
        asked = [SampleRequest(r.prompt_ids, r.count // n) for r, n in zip(requests, copies, strict=True)]
        options = [self._options(each.count, sampling, own) for each, own in zip(asked, seeds, strict=True)]
        with engine_errors("sampling"):
            completions = self.engine.complete(asked, options, watch)
        groups = [
            [_rollout(*completion, self.eos_token_ids, sampling.max_new_tokens) for completion in group] * n
            for group, n in zip(completions, copies, strict=True)
        ]
        for request, group in zip(requests, groups, strict=True):
            if len(group) != request.count:
                raise EngineError(f"vLLM returned {len(group)} completions of a prompt in place of {request.count}")
        return groups

    def _failure(self) -> BaseException | None:
        return getattr(self.engine, "failure", None)

    def _check(self, requests: Sequence[SampleRequest], sampling: SamplingConfig) -> None:
        longest = max((len(request.prompt_ids) for request in requests), default=0)
        if longest + sampling.max_new_tokens > self.engine.max_model_len:
            raise ValueError(
                f"{longest} prompt tokens + {sampling.max_new_tokens} new ones exceed vLLM's context of "
                f"{self.engine.max_model_len} tokens; raise vllm_max_model_length (server: --max-model-len), or lower "
                "max_completion_length"
            )

    def _options(self, n: int, sampling: SamplingConfig, seed: int) -> dict[str, Any]:
        """All that draws tokens is said, or a server takes it from the model's generation configuration."""
        return {
            "n": n,
            "seed": seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "max_tokens": sampling.max_new_tokens,
            "logprobs": 0,  # of the token that was drawn, and no other
            "ignore_eos": True,  # the engine's own; ours are the stop tokens
            "stop_token_ids": self.eos_token_ids,
        }


def _rollout(ids: list[int], logprobs: list[float], eos_token_ids: Sequence[int], max_new_tokens: int) -> Rollout:
    truncated = not ids or ids[-1] not in eos_token_ids
    if len(logprobs) != len(ids) or (truncated and len(ids) != max_new_tokens):
        raise EngineError(
            f"vLLM broke off a completion: {len(ids)} of {max_new_tokens} tokens, {len(logprobs)} log-probabilities, "
            "and no end token"
        )
    if not all(map(math.isfinite, logprobs)):
        raise FloatingPointError("the engine's log-probabilities are not finite; look for NaN in the model's weights")
    return Rollout(completion_ids=ids, sampler_logprobs=logprobs, truncated=truncated)


# ---------------------------------------------------------------------- an engine in this process


class _Generation(VLLMGeneration):
    """TRL's, which merges an adapter into the model for each synchronisation, and takes it out again."""

    def _iter_named_params(self) -> Iterator[tuple[str, Any]]:
        return merged_parameters(self.model) if has_adapter(self.model) else super()._iter_named_params()


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

    def sync_weights(self) -> None:
        super().sync_weights()
        if not self.llm.reset_prefix_cache():
            raise EngineError("keys and values of the old weights could not be dropped")

    def complete(
        self, prompts: Sequence[SampleRequest], options: Sequence[dict[str, Any]], watch: Watch | None = None
    ) -> list[list[Completion]]:
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
        with engine_errors("starting the engine"):
            self.llm = _start(model, dtype, gpu_memory_utilization, max_model_length)
        self.max_model_len: int = self.llm.llm_engine.model_config.max_model_len

    def sync_weights(self) -> None:
        """There are no others to come."""

    def complete(
        self, prompts: Sequence[SampleRequest], options: Sequence[dict[str, Any]], watch: Watch | None = None
    ) -> list[list[Completion]]:
        return _complete(self.llm, prompts, options, watch)


def _start(model: str, dtype: str, gpu_memory_utilization: float, max_length: int | None, **options: Any) -> Any:
    """Raw log-probabilities, and nothing of the checkpoint's own sampling parameters."""
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


class _WatchedBar(tqdm):
    """vLLM counts on a progress bar which completions of a call have ended; this one is not drawn."""

    def __init__(self, *arguments: Any, watch: Watch, **keywords: Any) -> None:
        self._watch = watch
        super().__init__(*arguments, **{**keywords, "file": io.StringIO()})

    def update(self, n: float | None = 1) -> bool | None:
        self._watch(int(n or 0), 0)
        return super().update(n)


def _complete(
    llm: Any, prompts: Sequence[SampleRequest], options: Sequence[dict[str, Any]], watch: Watch | None
) -> list[list[Completion]]:
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


# ---------------------------------------------------------------------- an engine on a server


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
        within("joining the server", self._sync_timeout, lambda: client.init_communicator(device), lambda: self.failure)

    @property
    def failure(self) -> BaseException | None:
        """The request that failed last; TRL's own thread may still be waiting for the worker that failed."""
        return self.vllm_client.failure

    def sync_weights(self) -> None:
        self.vllm_client.failure = None
        super().sync_weights()

    def complete(
        self, prompts: Sequence[SampleRequest], options: Sequence[dict[str, Any]], watch: Watch | None = None
    ) -> list[list[Completion]]:
        """Only training comes here, which is not watched."""
        client = self.vllm_client
        client.read_timeout = self._sample_timeout

        def ask(prompt: SampleRequest, chosen: dict[str, Any]) -> list[Completion]:
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


class Client(VLLMClient):
    """TRL's client, which waits and repeats for minutes; this one fails at once, and remembers why."""

    def __init__(self, base_url: str, group_port: int, connection_timeout: float, read_timeout: float) -> None:
        self.failure: BaseException | None = None
        self.read_timeout = read_timeout
        super().__init__(base_url, group_port=group_port, connection_timeout=connection_timeout)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=0, pool_maxsize=256))

    def _post(self, url: str, **kwargs: Any) -> dict[str, Any]:
        try:
            answer = super()._post(url, timeout=(CONNECT_SECONDS, self.read_timeout), **kwargs)
            if url.endswith("/reset_prefix_cache") and not answer["success"]:
                raise EngineError("keys and values of the old weights could not be dropped")
        except Exception as error:
            self.failure = error
            raise
        return answer


def check_server(base_url: str, timeout: float, max_completion_length: int) -> None:
    """Refuse a server that is not there, or not one that can be trained with.

    Args:
        timeout: seconds to wait until it is up.

    Raises ValueError with what to start it with.
    """
    try:
        config = VLLMClient(base_url, connection_timeout=timeout).get_server_info()
    except (requests.RequestException, OSError, RuntimeError) as error:
        raise ValueError(f"vllm_server_base_url {base_url}: {error}; {START_SERVER}") from error
    if config["weight_transfer_config"] is None:
        raise ValueError(f"the vLLM server at {base_url} cannot receive weights; {START_SERVER}")
    mode = config["model_config"]["logprobs_mode"]
    if mode != "raw_logprobs":
        raise ValueError(
            f"the vLLM server at {base_url} returns {mode}, and the losses need raw_logprobs, those of the full "
            f"vocabulary; {START_SERVER}"
        )
    length = config["model_config"]["max_model_len"]
    if max_completion_length >= length:
        raise ValueError(
            f"max_completion_length ({max_completion_length}) leaves no room for a prompt in the context of "
            f"{length} tokens of the vLLM server at {base_url}; lower it, or raise the server's --max-model-len"
        )
