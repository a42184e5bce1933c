"""Sampling with vLLM, in this process or on servers.

vllm_engines.py and vllm_client.py alone import vLLM and TRL's `trl.generation`. Three things are different from TRL.

- *Both groups in one engine call.* TRL takes one number of completions for all prompts, vLLM one for each: every
  `SampleRequest` becomes one vLLM request with its own n, and all of them are handed over before any is waited for. So
  the engine batches both groups together, and its prefix cache computes each prompt once.
- *Log-probabilities are those of the full vocabulary at temperature 1* (`logprobs_mode="raw_logprobs"`), as everywhere
  in this package; TRL asks for those of the distribution after temperature and top-p.
- *Nothing waits for ever.* A weight synchronisation blocks in a collective when the other side fails. Here it runs
  beside a watch (vllm_weights.py): a request of its own that fails ends it at once, a time limit in any case.

Every vLLM request has a seed of its own, drawn from the seed of the call. Equal seeds give equal rollouts as far as the
engine's arithmetic does not depend on what is batched together: it does on GPUs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from sgpo import distributed
from sgpo.errors import EngineError
from sgpo.sampling.engine_errors import engine_errors
from sgpo.sampling.records import Rollout, SampleRequest, SamplingConfig, Watch
from sgpo.sampling.vllm_engines import VLLM_FAILURES, ColocatedEngine, ServerEngine, VLLMEngine
from sgpo.sampling.vllm_weights import PROBE, PROBE_TOKENS, Synchronisation
from sgpo.tokenizers import end_token_ids


class VLLMSampler:
    """A `Sampler` on vLLM. The weights are sent to the engine before each call, or once for several (`current`).

    Args:
        engine: where it runs.
        eos_token_ids: the tokens that end a completion; those that vLLM would add are not used.
        synchronisation: of a model in training; None for an engine that keeps its weights.
    """

    def __init__(
        self, engine: VLLMEngine, eos_token_ids: Sequence[int], synchronisation: Synchronisation | None = None
    ) -> None:
        self.engine = engine
        self.eos_token_ids = list(eos_token_ids)
        self.synchronisation = synchronisation
        self._is_current = synchronisation is None

    @classmethod
    def of(cls, args: Any, model: Any, tokenizer: Any, accelerator: Any, dtype: str) -> VLLMSampler:
        """Start the engine that `args` (with `EngineArguments`) ask for; a server has a floating type of its own.

        Raises EngineError if it does not start.
        """
        engine: ColocatedEngine | ServerEngine
        with distributed.together(), engine_errors("starting the engine", *VLLM_FAILURES):
            if args.vllm_mode == "colocate":
                engine = ColocatedEngine(args, model.name_or_path, accelerator, dtype)
            else:
                engine = ServerEngine(args)
        synchronisation = Synchronisation(
            engine,
            model,
            tokenizer(PROBE)["input_ids"][:PROBE_TOKENS],
            accelerator.autocast,
            exact=engine.dtype == "float32" and accelerator.mixed_precision == "no",
            seconds=args.vllm_sync_timeout,
            failures=VLLM_FAILURES,
        )
        return cls(engine, end_token_ids(model, tokenizer), synchronisation)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Calls inside share one synchronisation of the weights. Of several processes all have to enter it together.

        Raises:
            EngineError: the weight synchronisation failed; the cause is named.
            ProcessError: it failed in another process.
        """
        if self.synchronisation is None:
            yield
            return
        self.synchronisation.run()
        self._is_current = True
        try:
            yield
        finally:
            self._is_current = False
        with engine_errors("going to sleep", *VLLM_FAILURES):
            self.synchronisation.engine.rest()

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
        if not self._is_current:
            with self.current():
                return self.sample(requests, sampling, seed=seed, watch=watch)
        # At temperature 0 vLLM takes n = 1 only, and further completions would be equal.
        copies = [1 if sampling.temperature else request.count for request in requests]
        drawn = random.Random(seed)
        seeds = [own if (own := request.seed) is not None else drawn.getrandbits(60) for request in requests]
        asked = [SampleRequest(r.prompt_ids, r.count // n) for r, n in zip(requests, copies, strict=True)]
        options = [self._options(each.count, sampling, own) for each, own in zip(asked, seeds, strict=True)]
        with engine_errors("sampling", *VLLM_FAILURES):
            completions = self.engine.complete(asked, options, watch)
        groups = [
            [_rollout(*completion, self.eos_token_ids, sampling.max_new_tokens) for completion in group] * n
            for group, n in zip(completions, copies, strict=True)
        ]
        for request, group in zip(requests, groups, strict=True):
            if len(group) != request.count:
                raise EngineError(f"vLLM returned {len(group)} completions of a prompt in place of {request.count}")
        return groups

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
    return Rollout(completion_ids=ids, sampler_logprobs=torch.tensor(logprobs), truncated=truncated)
