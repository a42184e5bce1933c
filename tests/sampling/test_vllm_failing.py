"""What a failing vLLM server leaves behind, and what is said of it. The server is a stand-in; TRL's client is real.

Run as tests/sampling/test_vllm.py.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sgpo.errors import EngineError
from sgpo.sampling.records import SampleRequest, SamplingConfig

pytestmark = pytest.mark.vllm_engine
END, LENGTH = 3, 4
REQUESTS = [SampleRequest([10, 11], 2), SampleRequest([12], 2)]
GREETING = {
    "/health": {},
    "/v1/models": {"data": [{"id": "m"}]},
    "/get_world_size": {"world_size": 1},
    "/server_info": {"vllm_config": {"weight_transfer_config": {}, "model_config": {"max_model_len": 64}}},
}

STATUS: dict[str, int] = {}  # of answers to GET, where it is not 200


@dataclass
class StandIn:
    """A server that completes every prompt by the end token; `script` may answer in its place."""

    script: Callable[[str, dict[str, Any]], tuple[int, Any] | None] = lambda path, body: None
    posted: list[str] = field(default_factory=list)
    score: float = -math.log(20)  # log-probability that it gives each token of the fixed text

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if "prompt_logprobs" in body:  # of the fixed text, after a synchronisation
            scores = [{str(token): {"logprob": self.score}} for token in body["prompt"][0][1:]]
            return 200, {"choices": [{"prompt_logprobs": [None, *scores]}]}
        self.posted.append(path)
        if (chosen := self.script(path, body)) is not None:
            return chosen
        if path == "/reset_prefix_cache":
            return 200, {"success": True}
        if path != "/v1/completions":
            return 200, {}
        logprobs = {"tokens": [f"token_id:{END}"], "token_logprobs": [-0.5], "top_logprobs": [None]}
        choice = {"prompt_token_ids": body["prompt"][0], "token_ids": [END], "logprobs": logprobs}
        return 200, {"choices": [choice] * body["n"]}


@pytest.fixture
def server() -> Iterator[tuple[StandIn, str]]:
    standin = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            self.reply(STATUS.get(path, 200), GREETING[path])

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}")
            self.reply(*standin.answer(self.path, body))

        def reply(self, status: int, answer: Any) -> None:
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield standin, f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.fixture
def sampler(server: tuple[StandIn, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A sampler of that server, for a model of one weight that nobody receives."""
    from sgpo.sampling import vllm_client
    from sgpo.sampling.vllm import VLLMSampler
    from sgpo.sampling.vllm_engines import ServerEngine
    from sgpo.sampling.vllm_weights import Synchronisation

    monkeypatch.setattr(vllm_client, "trainer_init", lambda info: None)
    monkeypatch.setattr(vllm_client, "packed_nccl_broadcast_producer", lambda *, iterator, **rest: list(iterator))
    args = SimpleNamespace(
        vllm_sync_timeout=20.0,
        vllm_sample_timeout=20.0,
        vllm_server_base_url=server[1],
        vllm_server_timeout=5.0,
        vllm_group_port=0,
    )
    engine = ServerEngine(args)
    synchronisation = Synchronisation(engine, Uniform(), [10, 11, 12], nullcontext, exact=False, seconds=20.0)
    return VLLMSampler(engine, [END], synchronisation)


class Uniform(torch.nn.Module):
    """Says that each of twenty tokens is as probable, whatever it has read."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1, 2))

    def forward(self, input_ids: torch.Tensor) -> Any:
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 20))


SAID = r"^vLLM failed while sampling: ServerError: HTTP 500 of http://127\.0\.0\.1:\d+/v1/completions: out of memory$"


def sample(sampler: Any, requests: list[SampleRequest] = REQUESTS) -> list[list[list[int]]]:
    groups = sampler.sample(requests, SamplingConfig(LENGTH), seed=0)
    return [[rollout.completion_ids for rollout in group] for group in groups]


def test_a_retry_after_a_failed_call_synchronises_and_samples(sampler: Any, server: tuple[StandIn, str]) -> None:
    standin, _ = server
    standin.script = lambda path, body: (500, "out of memory") if path == "/v1/completions" else None
    for _ in range(5):
        with pytest.raises(EngineError, match=SAID):
            sample(sampler)
    standin.script = lambda path, body: None
    assert sample(sampler) == [[[END]] * 2] * 2


def test_a_request_of_a_call_that_failed_before_does_not_end_the_next_synchronisation(
    sampler: Any, server: tuple[StandIn, str]
) -> None:
    """The first prompt is refused at once, the second while the next call sends its weights."""
    standin, _ = server
    sending, refused = threading.Event(), threading.Event()

    def script(path: str, body: dict[str, Any]) -> tuple[int, Any] | None:
        if path == "/v1/completions" and not refused.is_set():
            if body["prompt"] == [REQUESTS[1].prompt_ids]:
                assert sending.wait(10)
                refused.set()
            return 500, "out of memory"
        if path == "/update_weights" and "/v1/completions" in standin.posted:
            sending.set()
            assert refused.wait(10)
            time.sleep(0.5)  # until the client has seen it
        return None

    standin.script = script
    with pytest.raises(EngineError, match=SAID):
        sample(sampler)
    assert sample(sampler) == [[[END]] * 2] * 2


@pytest.mark.parametrize("path", ["/start_weight_update", "/update_weights", "/finish_weight_update"])
def test_a_refused_request_of_the_synchronisation_is_said_and_the_next_one_begins_anew(
    sampler: Any, server: tuple[StandIn, str], path: str
) -> None:
    standin, _ = server
    standin.script = lambda asked, body: (400, "no such weight") if asked == path else None
    with pytest.raises(
        EngineError, match=rf"^vLLM: the weight synchronisation failed: ServerError: .*{path}: no such w"
    ):
        sample(sampler)
    standin.script = lambda asked, body: None
    assert sample(sampler) == [[[END]] * 2] * 2


def test_a_prefix_cache_that_stays_is_a_failure(sampler: Any, server: tuple[StandIn, str]) -> None:
    server[0].script = lambda path, body: (200, {"success": False}) if path == "/reset_prefix_cache" else None
    said = "^vLLM: the weight synchronisation failed: keys and values of the old weights could not be dropped$"
    with pytest.raises(EngineError, match=said):
        sample(sampler)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, "<html>"), "vLLM failed while sampling: JSONDecodeError: "),
        ((503, "busy"), "vLLM failed while sampling: ServerError: HTTP 503 of "),
    ],
)
def test_what_a_server_answers_amiss_is_said(
    sampler: Any, server: tuple[StandIn, str], answer: tuple[int, Any], said: str
) -> None:
    server[0].script = lambda path, body: answer if path == "/v1/completions" else None
    with pytest.raises(EngineError, match=f"^{said}"):
        sample(sampler)


def test_a_server_with_other_weights_is_refused(sampler: Any, server: tuple[StandIn, str]) -> None:
    server[0].score = -math.log(20) - 0.31
    said = (
        r"^after the weight synchronisation vLLM does not compute what the model does: .* differ by 0\.31 nats a token"
    )
    with pytest.raises(EngineError, match=said):
        sample(sampler)
    server[0].score = math.nan
    with pytest.raises(EngineError, match="differ by nan nats"):
        sample(sampler)
    server[0].score = -math.log(20)
    assert sample(sampler) == [[[END]] * 2] * 2


def test_a_bug_of_ours_travels(sampler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        yield {}["weight"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler.synchronisation, "weights", broken)
        with pytest.raises(KeyError, match="weight") as caught:
            sample(sampler)
    assert caught.traceback[-1].name == "broken"
    monkeypatch.setattr(sampler.engine.clients[0], "generate", lambda *args, **options: {})
    with pytest.raises(KeyError, match="completion_ids") as caught:
        sample(sampler)
    assert caught.traceback[-1].name == "ask"


@pytest.mark.parametrize(
    ("status", "said"), [(404, "does not expose its development endpoints"), (403, r"HTTP 403 of .*/server_info")]
)
def test_a_server_without_information_is_refused(
    server: tuple[StandIn, str], monkeypatch: pytest.MonkeyPatch, status: int, said: str
) -> None:
    from sgpo.sampling.vllm_client import check_server

    monkeypatch.setitem(STATUS, "/server_info", status)
    with pytest.raises(
        ValueError, match=rf"^vllm_server_base_url {server[1]}: .*{said}.*; start it with: VLLM_SERVER_D"
    ):
        check_server(server[1], 1.0, 8)
