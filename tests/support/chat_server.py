"""A chat server on a free port of this machine, for tests and benchmarks: real HTTP, scripted answers and faults.

    with ChatServer(lambda request: Reply(texts=["7"])) as server:
        ... server.url, server.requests

The script is called with each chat request, its attempt number (how often the same body came before) included.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from sgpo.problems import Problem


@dataclass(frozen=True)
class Request:
    """A chat request as it came. Example: ``Request({"model": "m", "messages": [...]}, attempt=0, headers={...})``"""

    body: Mapping[str, Any]
    attempt: int
    headers: Mapping[str, str]

    @property
    def text(self) -> str:
        """The first turn."""
        return self.body["messages"][0]["content"]


@dataclass(frozen=True)
class Reply:
    """What the server sends: texts as choices, or `content` as it is; nothing at all with `drop` or `hang`."""

    texts: Sequence[str] = ()
    reasoning: str | None = None
    finish_reason: str = "stop"
    status: int = 200
    content: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drop: bool = False
    hang: bool = False
    usage: bool = True
    prompt_tokens: int = 100
    tokens_each: int = 10

    def payload(self) -> bytes:
        if self.content is not None:
            return self.content.encode()
        message = {"role": "assistant"} | ({"reasoning_content": self.reasoning} if self.reasoning else {})
        choices = [
            {"index": i, "message": {**message, "content": text}, "finish_reason": self.finish_reason}
            for i, text in enumerate(self.texts)
        ]
        data: dict[str, Any] = {"object": "chat.completion", "choices": choices}
        if self.usage:
            data["usage"] = {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.tokens_each * len(self.texts),
            }
        return json.dumps(data).encode()


Script = Callable[[Request], Reply]


class ChatServer:
    """Serves in a thread of its own until it is closed. `requests` are the chat requests in the order they came."""

    def __init__(self, script: Script, *, models: Sequence[str] | None = ("strong", "judge"), port: int = 0) -> None:
        self.script, self.models, self.port = script, models, port
        self.requests: list[Request] = []
        self.open = self.most_open = 0
        self._seen: Counter[bytes] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> ChatServer:
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._connection, "127.0.0.1", self.port), self._loop
        )
        self._server = starting.result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its reply; False when the connection is over."""
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        _, path, _ = first.split(" ", 2)
        if path == "/v1/models" and self.models is not None:
            data = {"object": "list", "data": [{"id": model} for model in self.models]}
            return self._send(writer, 200, json.dumps(data).encode(), {})
        if path != "/v1/chat/completions":
            return self._send(writer, 404, b'{"detail":"Not Found"}', {})
        request = Request(json.loads(raw), self._seen[raw], headers)
        self._seen[raw] += 1
        self.requests.append(request)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await self._answer(request, writer)
        finally:
            self.open -= 1

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        reply = self.script(request)
        if reply.delay:
            await asyncio.sleep(reply.delay)
        if reply.hang:
            await asyncio.sleep(3600)
        if reply.drop:
            return False
        return self._send(writer, reply.status, reply.payload(), reply.headers)

    def _send(self, writer: asyncio.StreamWriter, status: int, payload: bytes, headers: Mapping[str, str]) -> bool:
        lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(payload)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + payload)
        return True


def teacher(problems: Sequence[Problem], *, several: bool = True) -> Script:
    """Extracts each problem's own strategy, in candidates that differ by a word, and scores them 0.5, 0.6, ..."""

    def script(request: Request) -> Reply:
        problem = problem_of(request, problems)
        count = request.body.get("n", 1) if several else 1
        if "Candidate 1:" in request.text:
            number = request.text.count("\nCandidate ")
            return Reply([json.dumps({"scores": [(5 + i) / 10 for i in range(number)]})], prompt_tokens=200)
        assert problem.strategy is not None
        return Reply([problem.strategy.replace("Strategy: ", f"Strategy: {'really ' * i}") for i in range(count)])

    return script


def problem_of(request: Request, problems: Sequence[Problem]) -> Problem:
    (problem,) = [p for p in problems if f"Problem:\n{p.prompt}\n" in request.text]
    return problem
