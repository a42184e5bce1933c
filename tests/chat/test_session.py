"""What a server's answer to the first, free question means: decided by the type of the error, whatever its words."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from chat_server import ChatServer, Reply, Request

from sgpo.chat import session
from sgpo.chat.endpoint import NoConnectionError
from sgpo.chat.session import Connection, NotReadyError, check_connection
from sgpo.errors import UsageError


@pytest.fixture(autouse=True)
def _few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGPO_API_KEY", "none")
    monkeypatch.setattr(session, "PREFLIGHT_ATTEMPTS", 2)


def check(reply: Reply, tmp_path: Path, model: str = "strong") -> list[Request]:
    """The questions that a server without a list of models was asked before the run."""
    with ChatServer(lambda request: reply, models=None) as server:
        asyncio.run(check_connection(Connection(server.url, tmp_path / "journal"), [model]))
    return server.requests


def error(status: int, message: str, **fields: str) -> Reply:
    return Reply(status=status, content=json.dumps({"error": {"message": message, **fields}}))


@pytest.mark.parametrize(
    "busy",
    [
        error(503, "the backend sent malformed JSON"),
        error(502, "ConnectError: the backend is down"),
        Reply(texts=()),
    ],
    ids=["JSON", "ConnectError", "no choices"],
)
def test_a_busy_server_is_asked_again_and_taken(busy: Reply, tmp_path: Path) -> None:
    assert len(check(busy, tmp_path)) == 2


@pytest.mark.parametrize("content", ["<html>", '{"models": []}', "[1]"])
def test_an_answer_that_is_no_chat_completion_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match=r"does not speak the OpenAI chat API \(the answer is .*often ends in /v1$"):
        check(Reply(content=content), tmp_path)


@pytest.mark.parametrize(
    "reply",
    [
        error(400, "Invalid 'max_output_tokens': expected a value >= 20"),
        error(400, "Could not finish the message because max_tokens or model output limit was reached."),
        error(400, "Unsupported parameter", param="max_tokens"),
        error(422, "must be at least 32", param="max_completion_tokens"),
        Reply(status=400, content="maximum output tokens is too low"),
    ],
)
def test_a_server_that_only_dislikes_the_small_limit_has_the_model(reply: Reply, tmp_path: Path) -> None:
    assert len(check(reply, tmp_path)) == 1


@pytest.mark.parametrize(
    "reply",
    [
        error(400, "the model 'tokenizer-7b' does not exist"),
        error(400, "invalid token in the header"),
        error(404, "max_tokens is a parameter of /v2", param="max_tokens"),
    ],
)
def test_any_other_refusal_is_one(reply: Reply, tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="does not answer for the model 'tokenizer-7b'"):
        check(reply, tmp_path, "tokenizer-7b")


def test_a_server_that_is_not_there_is_asked_once(tmp_path: Path) -> None:
    with pytest.raises(
        NotReadyError, match=r"^no server answers at http://127\.0\.0\.1:9/v1: the connection f"
    ) as caught:
        asyncio.run(check_connection(Connection("http://127.0.0.1:9/v1", tmp_path / "journal"), ["strong"]))
    assert isinstance(caught.value.__cause__, NoConnectionError)
    assert isinstance(caught.value, UsageError)
