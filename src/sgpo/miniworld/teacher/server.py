"""The teacher over HTTP: `/v1/models` and `/v1/chat/completions`, as the OpenAI API has them.

Streaming is not offered. With a log, every chat request leaves a line: its body, hash and attempt number, the fault it
met, and for candidates their kinds, so that what a client made of them can be compared with the truth.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sgpo.miniworld.teacher import MODEL
from sgpo.miniworld.teacher.answering import Text, answers, tokens
from sgpo.miniworld.teacher.faults import Faults, fault_of, latency_of
from sgpo.miniworld.teacher.questions import RefusedRequestError, TeacherQuestion, read_request

SHUTDOWN_SECONDS = 1  # requests under way are given up after that: a hanging one would never end
LATE = 3600.0  # seconds; a hanging request outlasts any client


@dataclass
class Teacher:
    """What the server remembers: how often each request came, and where its log is."""

    faults: Faults
    log: Callable[[str], Any] = lambda line: None
    seen: Counter[str] = field(default_factory=Counter)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "sgpo"}]})

    async def chat(self, request: Request) -> Response:
        try:
            body = json.loads(await request.body())
            asked = read_request(body)
            if body.get("stream"):
                raise RefusedRequestError("stream is not supported")
        except (ValueError, RecursionError) as error:  # of both kinds: no JSON, or nothing that we know
            return _error(400, str(error))
        if body.get("model") != MODEL:
            return _error(404, f"the model {body.get('model')!r} does not exist; there is {MODEL}")
        attempt = self.seen[asked.digest]
        self.seen[asked.digest] += 1
        fault = fault_of(self.faults, asked.digest, attempt)
        texts = answers(asked, attempt, self.faults.garbled)
        self.log(_line(body, asked, attempt, fault, texts))
        await asyncio.sleep(latency_of(self.faults, asked.digest, attempt))
        completion = _completion(body, asked, texts)
        return completion if fault is None else await _faulty(fault, completion, self.faults)

    def application(self) -> Starlette:
        routes = [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]
        return Starlette(routes=routes)


def _completion(body: Mapping[str, Any], asked: TeacherQuestion, texts: list[Text]) -> Response:
    sent = sum(tokens(message["content"]) for message in body["messages"])
    received = sum(tokens(text.text) for text in texts)
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text.text},
            "finish_reason": text.finish_reason,
        }
        for index, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": sent + received}
    identity = {"id": f"chatcmpl-{asked.digest[:24]}", "object": "chat.completion", "created": 0, "model": MODEL}
    return JSONResponse({**identity, "choices": choices, "usage": usage})


async def _faulty(fault: str, completion: Response, faults: Faults) -> Response:
    whole = bytes(completion.body)
    if fault == "rate_limited":
        return _error(429, "too many requests", {"Retry-After": f"{faults.retry_after:g}"})
    if fault == "error":
        return _error(500, "the teacher has a headache")
    if fault == "hanging":
        await asyncio.sleep(LATE)
    if fault == "malformed":
        return Response(b"<html><body>502 Bad Gateway</body></html>", media_type="text/html")
    if fault == "truncated":
        return Response(whole[: len(whole) // 2], media_type="application/json")
    # Dropped: less than was announced, then the end. uvicorn closes the connection.
    headers = {"Content-Length": str(len(whole))}
    return StreamingResponse(_first_half(whole), media_type="application/json", headers=headers)


async def _first_half(whole: bytes) -> AsyncIterator[bytes]:
    yield whole[: len(whole) // 2]


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"message": message, "type": "error", "code": status}}, status, headers)


def _line(body: Mapping[str, Any], asked: TeacherQuestion, attempt: int, fault: str | None, texts: list[Text]) -> str:
    kinds = [text.kind for text in texts] if asked.kind == "extract" else None
    values = {"kind": asked.kind, "hash": asked.digest, "attempt": attempt, "fault": fault, "kinds": kinds}
    return json.dumps({**values, "body": body}) + "\n"


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens, on a free port for port 0. Raises ``ValueError`` where that is not possible."""
    try:
        return socket.create_server((host, port), backlog=256)
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise ValueError(
            f"cannot listen on {host}, port {port} ({reason}): write another --port, or 0 for a free one"
        ) from error


def serve_teacher(listening: socket.socket, faults: Faults, log: Path | None) -> None:
    """Answer until SIGINT or SIGTERM. With ``log``, lines are appended to that file as requests come."""
    if log is None:
        _serve(listening, Teacher(faults))
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8", buffering=1) as file:
        _serve(listening, Teacher(faults, file.write))


def _serve(listening: socket.socket, teacher: Teacher) -> None:
    configuration = uvicorn.Config(
        teacher.application(),
        log_level="critical",  # a dropped connection, which is meant, would be logged as an error
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    uvicorn.Server(configuration).run(sockets=[listening])


INSTALL = "the teacher's server needs the packages starlette and uvicorn: pip install 'sgpo[teacher]'"


def check_server_packages() -> None:
    """Raise ``ValueError`` that says how to install what the server needs."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(INSTALL) from error
