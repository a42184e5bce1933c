"""A server that we did not write: vLLM's own OpenAI server, on CPU, with the mini-world's base model.

It runs in an environment of its own (constraints/vllm.txt), whose Python SGPO_VLLM_PYTHON names. The model is no strong
model: what it says to our prompts is garbage, which must be rejected with reasons. Then good answers come on the same
paths, in the envelopes that vLLM itself has sent, and are kept.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, Reply, Request, Script, teacher

from sgpo.chat.journal import Journal
from sgpo.cli import main
from sgpo.miniworld.world import BASE_MODEL, Sizes, problem_sets
from sgpo.problems import load_problems, save_problems
from sgpo.strategies.extract import NO_SCORES, REASONS
from sgpo.strategies.prompts import StrategyPrompts

pytestmark = pytest.mark.vllm
MODEL = "miniworld-base"
START_SECONDS = 240.0
PROBLEMS = problem_sets(2, Sizes.only(rl=12))["rl"]
# The prompts of extraction are spelled in bytes by the mini-world's tokenizer, so they exceed the context it was
# trained on; rotary positions go on without end.
OPTIONS = ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", "32", "--max-model-len", "4096"]
OPTIONS += ["--hf-overrides", '{"max_position_embeddings": 4096}']
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running server."""
    python = os.environ["SGPO_VLLM_PYTHON"]  # an environment made by constraints/vllm.txt
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    module = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(BASE_MODEL)]
    command = [*module, "--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port), *OPTIONS]
    with log.open("w") as file:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        server = subprocess.Popen(command, stdout=file, stderr=file, env={**environment, **ENVIRONMENT})
    try:
        address = f"http://127.0.0.1:{port}/v1"
        deadline = time.monotonic() + START_SECONDS
        while not _answers(address):
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        yield address
        assert server.poll() is None, log.read_text()[-3000:]
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/models", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SGPO_API_KEY", "none")
    monkeypatch.chdir(tmp_path)
    save_problems(PROBLEMS, "problems.jsonl")


def run(action: str, address: str, *options: str) -> int:
    data = ["--problems", "problems.jsonl", "--base-url", address, "--model", MODEL]
    return main(["strategies", action, *data, *options])


def test_garbage_is_rejected_with_reasons(url: str) -> None:
    assert run("extract", url, "--max-tokens", "400") == 0
    rows = load_problems("strategies.parquet")
    assert len(rows) == 12
    assert {row.extra["status"] for row in rows} == {"rejected"}
    assert {row.extra["reason"] for row in rows} <= {*REASONS.values(), NO_SCORES}
    candidates = [candidate for row in rows for candidate in row.extra["candidates"]]
    assert len(candidates) == 60
    assert all(
        candidate["flags"] for row in rows if row.extra["reason"] != NO_SCORES for candidate in row.extra["candidates"]
    )
    kinds = {flag.partition(":")[0] for candidate in candidates for flag in candidate["flags"]}
    assert kinds >= {"format", "truncated"}
    assert len({candidate["text"] for candidate in candidates}) > 30  # sampled, not one answer sixty times
    with Journal("strategies.journal.jsonl") as journal:
        totals = journal.totals[MODEL]
        # One request for five candidates, and one for each that was to be mended; equal ones are asked once.
        repaired = sum(candidate["repaired"] for candidate in candidates)
        assert 12 + 0.9 * repaired <= totals.requests <= 12 + repaired
        assert totals.prompt_tokens > 500 * totals.requests  # by vLLM's own count
        assert 0 < totals.completion_tokens <= 400 * len(journal)


def test_solutions_of_a_model_that_knows_the_world_are_verified(url: str) -> None:
    """The chat template and `\\boxed{}` arrive as they should: the base solves a few of the problems by itself."""
    bare = [{"id": p.id, "prompt": p.prompt, "answer": p.answer} for p in PROBLEMS]
    Path("problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    assert run("solve", url, "--max-tokens", "96", "--attempts", "8", "--temperature", "1") == 0
    rows = load_problems("solved.parquet")
    kept = [row for row in rows if row.extra["status"] == "kept"]
    assert {row.extra["status"] for row in rows} <= {"kept", "rejected"}
    assert kept
    for row in kept:
        assert row.response is not None
        assert f"\\boxed{{{row.answer}}}" in row.response


def in_envelopes_of(url: str, good: Script) -> Script:
    """Good answers in the JSON that vLLM sends, all its further fields included."""
    problem = PROBLEMS[0]
    body = {"model": MODEL, "messages": StrategyPrompts().extract_messages(problem.prompt, problem.response or "")}
    sent = json.dumps({**body, "max_tokens": 4}).encode()
    request = urllib.request.Request(f"{url}/chat/completions", sent, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        envelope: dict[str, Any] = json.loads(response.read())
    (choice,) = envelope["choices"]
    assert len(envelope) > 6  # more than the API asks for

    def script(request: Request) -> Reply:
        texts = good(request).texts
        choices = [
            {**choice, "index": i, "finish_reason": "stop", "message": {**choice["message"], "content": text}}
            for i, text in enumerate(texts)
        ]
        return Reply(content=json.dumps({**envelope, "choices": choices}))

    return script


def test_good_answers_on_the_same_paths_are_kept(url: str) -> None:
    with ChatServer(in_envelopes_of(url, teacher(PROBLEMS)), models=[MODEL]) as server:
        assert run("extract", server.url, "--max-tokens", "60") == 0
        assert len(server.requests) == 24
    rows = load_problems("strategies.parquet")
    assert {row.extra["status"] for row in rows} == {"kept"}
    assert [row.strategy for row in rows] == [
        str(problem.strategy).replace("Strategy: ", "Strategy: really really really really ") for problem in PROBLEMS
    ]
    with Journal("strategies.journal.jsonl") as journal:
        assert journal.totals[MODEL].prompt_tokens > 500 * 24
