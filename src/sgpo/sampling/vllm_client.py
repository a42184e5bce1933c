"""Requests to a vLLM server through TRL's client, whose errors have types here, and what of a server is refused.

TRL raises a bare `Exception` for an answer that is an error; here it is a `ServerError`.
"""

from __future__ import annotations

from typing import Any

import requests
from requests.adapters import HTTPAdapter
from trl.generation.vllm_client import VLLMClient

from sgpo.errors import EngineError

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

    def __init__(self, base_url: str, group_port: int, connection_timeout: float, read_timeout: float) -> None:
        self.failures: list[
            BaseException
        ] = []  # of requests other than for completions, which raise where they are asked
        self.read_timeout = read_timeout
        super().__init__(base_url, group_port=group_port, connection_timeout=connection_timeout)
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=0, pool_maxsize=256))

    def _post(self, url: str, **kwargs: Any) -> Any:
        failures = [] if url.endswith("/completions") else self.failures
        try:
            answer = super()._post(url, timeout=(CONNECT_SECONDS, self.read_timeout), **kwargs)
            if url.endswith("/reset_prefix_cache") and not answer["success"]:
                raise EngineError("keys and values of the old weights could not be dropped")
        except BaseException as error:  # raised in TRL's thread, while the one that waits for it may be blocked
            failures.append(error)
            raise
        return answer


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
