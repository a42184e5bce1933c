"""Requests to vLLM servers through TRL's client, whose errors have types here, and what of a server is refused.

TRL raises a bare `Exception` for an answer that is an error; here it is a `ServerError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from torch import Tensor
from trl.generation.vllm_client import VLLMClient
from vllm.distributed.weight_transfer.nccl_common import trainer_init
from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer
from vllm.utils.network_utils import get_ip

from sgpo.errors import EngineError
from sgpo.sampling.engine_errors import started

CONNECT_SECONDS = 10.0
START_SERVER = (
    "start it with: VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode raw_logprobs "
    """--weight-transfer-config '{"backend": "nccl"}'"""
)


class ServerError(RuntimeError):
    """The server answered a request with an error."""


class TypedClient(VLLMClient):
    """TRL's client, whose errors are `requests.RequestException` and RuntimeError."""

    def _get(self, url: str, **kwargs: Any) -> Any:
        return _content(self.session.get(url, **kwargs))

    def _post(self, url: str, **kwargs: Any) -> Any:
        return _content(self.session.post(url, **kwargs))

    def get_server_info(self) -> dict[str, Any]:
        response = self.session.get(f"{self.base_url}/server_info", params={"config_format": "json"})
        if response.status_code == 404:
            raise ServerError("it does not expose its development endpoints (VLLM_SERVER_DEV_MODE=1)")
        return _content(response)["vllm_config"]


def _content(response: requests.Response) -> Any:
    if response.status_code != 200:
        raise ServerError(f"HTTP {response.status_code} of {response.url}: {response.text}")
    return response.json()


class Client(TypedClient):
    """TRL's client waits and repeats for minutes; this one fails at once, and remembers why."""

    def __init__(self, base_url: str, connection_timeout: float, read_timeout: float) -> None:
        self.failures: list[
            BaseException
        ] = []  # of requests other than for completions, which raise where they are asked
        self.read_timeout = read_timeout
        super().__init__(base_url, connection_timeout=connection_timeout)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=0, pool_maxsize=256))

    def ask(self, path: str, **body: Any) -> Any:
        return self._post(f"{self.base_url}/{path}", json=body)

    def _post(self, url: str, **kwargs: Any) -> Any:
        failures = [] if url.endswith("/completions") else self.failures
        try:
            answer = super()._post(url, timeout=(CONNECT_SECONDS, self.read_timeout), **kwargs)
            if url.endswith("/reset_prefix_cache") and not answer["success"]:
                raise EngineError("keys and values of the old weights could not be dropped")
        except BaseException as error:  # raised in a thread, while the one that waits for it may be blocked
            failures.append(error)
            raise
        return answer

    def prompt_logprobs(self, ids: list[int]) -> list[float]:
        """Log-probability of each token of a prompt but the first."""
        body = {"prompt": [ids], "max_tokens": 1, "prompt_logprobs": 0, "temperature": 1.0}
        (choice,) = self.ask("v1/completions", model=self.model, **body)["choices"]
        found = choice["prompt_logprobs"][1:]
        return [value[str(token)]["logprob"] for token, value in zip(ids[1:], found, strict=True)]


class Broadcast:
    """Sends weights through NCCL to the workers of all servers at once; this process and they are one group.

    Args:
        port: of this process, where they meet.

    Raises RuntimeError (or another error of NCCL) if a server does not join.
    """

    def __init__(self, clients: Sequence[Client], port: int) -> None:
        self._clients = clients
        workers = [client.get_world_size() for client in clients]
        meeting = {"master_address": get_ip(), "master_port": port, "world_size": 1 + sum(workers)}
        offsets = accumulate(workers[:-1], initial=1)  # the rank of each server's first worker
        bodies = [{"init_info": {**meeting, "packed": True, "rank_offset": offset}} for offset in offsets]
        with self._asked("init_weight_transfer_engine", bodies):
            self._group = trainer_init(meeting)

    def send(self, weights: Sequence[tuple[str, Tensor]]) -> None:
        """Returns when all servers have loaded them."""
        info = {
            "names": [name for name, _ in weights],
            "dtype_names": [str(value.dtype).removeprefix("torch.") for _, value in weights],
            "shapes": [list(value.shape) for _, value in weights],
        }
        with self._asked("update_weights", [{"update_info": info}] * len(self._clients)):
            packed_nccl_broadcast_producer(
                iterator=iter(weights), group=self._group, src=0, post_iter_func=lambda item: item[1]
            )

    @contextmanager
    def _asked(self, path: str, bodies: Sequence[Mapping[str, Any]]) -> Iterator[None]:
        """The servers work on a request while this process does its part inside."""
        wait = started([partial(client.ask, path, **body) for client, body in zip(self._clients, bodies, strict=True)])
        yield
        wait()


def server_urls(base_url: str) -> list[str]:
    """Of one server or several, which commas separate."""
    return [url.strip() for url in base_url.split(",")]


def check_server(base_url: str, timeout: float, max_completion_length: int) -> None:
    """Refuse a server that is not there, or not one that can be trained with.

    Args:
        timeout: seconds to wait until it is up.

    Raises ValueError with what to start it with.
    """
    try:
        config = TypedClient(base_url, connection_timeout=timeout).get_server_info()
    except (OSError, RuntimeError) as error:  # those of requests are OSErrors
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
