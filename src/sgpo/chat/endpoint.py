"""One attempt at one request, through the `openai` package, and what its failure means.

The package is asked for the bare HTTP response: retries, time limits and the reading of answers are ours, since servers
differ (reasoning in `reasoning_content` or `reasoning`, errors inside a response of status 200, no usage). The key
comes from the environment, and every text that comes back is searched for it before anything else sees it.
"""

from __future__ import annotations

import email.utils
import json
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

KEY_VARIABLES = ("SGPO_API_KEY", "OPENAI_API_KEY")
SHORTEST_SECRET = 12  # characters; "EMPTY", which local servers take, is no secret and may stand in any text
LONGEST_MESSAGE = 300  # characters of a server's error that are shown
NEWER_LENGTH_FIELD = "max_completion_tokens"  # OpenAI's newer models take no max_tokens
LENGTH_FIELDS = ("max_tokens", NEWER_LENGTH_FIELD)
# Few servers say in a field of its own what they dislike.
LENGTH_NAMED = re.compile(r"\bmax(imum)?[_ ]((completion|output|new)[_ ])?tokens\b", re.IGNORECASE)

Body = Mapping[str, Any]


class RequestError(Exception):
    """A request that was not answered."""


class TransientError(RequestError):
    """Asking again may help.

    ``retry_after`` is in seconds, if the server said it; ``rate_limited`` that it asked everybody to slow down;
    ``perhaps_billed`` that the server may have worked for it.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        rate_limited: bool = False,
        perhaps_billed: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after, self.rate_limited, self.perhaps_billed = retry_after, rate_limited, perhaps_billed


class NoConnectionError(TransientError):
    """Nobody listens at the address."""


class MalformedError(TransientError):
    """An answer that is no chat completion: the server is broken, or speaks something else."""


class RefusedError(RequestError):
    """The server will not answer this request (too long, say), whoever asks."""


class LengthRefusedError(RefusedError):
    """The server takes no such bound on the answer's tokens; ``use`` is the field that it names for it, if it does."""

    def __init__(self, message: str, use: str | None) -> None:
        super().__init__(message)
        self.use = use


class FatalError(RequestError):
    """No request will be answered: a wrong key, no money left, no such model."""


@dataclass(frozen=True)
class Choice:
    """One sample. Example: ``Choice("Problem type: ...", reasoning=None, finish_reason="stop")``"""

    text: str
    reasoning: str | None
    finish_reason: str | None


@dataclass(frozen=True)
class Reply:
    """The samples of a request, and the tokens of all of them together; None where the server does not count.

    Example: ``Reply((Choice("...", None, "stop"),), prompt_tokens=812, completion_tokens=164)``
    """

    choices: tuple[Choice, ...]
    prompt_tokens: int | None
    completion_tokens: int | None


class Endpoint:
    """An OpenAI-compatible server. Raises ``ValueError`` for an address or key that cannot work."""

    def __init__(self, base_url: str, *, connections: int) -> None:
        self.base_url = checked_address(base_url)
        self._key = key_from_environment(self.base_url)
        openai = require_openai()
        import httpx2

        from sgpo.chat.transport import http_client

        self._response_type = httpx2.Response
        self._client = openai.AsyncOpenAI(
            api_key=self._key, base_url=self.base_url, max_retries=0, http_client=http_client(connections)
        )

    async def chat(self, body: Body, timeout: float) -> Reply:
        """Send a chat request; raises ``RequestError``. ``timeout`` is in seconds, for the whole of it."""
        return self._read_reply(await self._send("post", "/chat/completions", body, timeout))

    async def models(self, timeout: float) -> list[str] | None:
        """The names of the models that the server has; None if it does not say. Raises ``RequestError``."""
        try:
            data = self._json(await self._send("get", "/models", None, timeout))
            listed = data.get("data") if isinstance(data, dict) else data
            return [str(model["id"]) for model in listed or []] or None
        except (KeyError, TypeError, RefusedError, _NotFoundError):
            return None
        except TransientError as error:
            if error.perhaps_billed and not error.rate_limited:  # an answer that is no list of models
                return None
            raise

    async def close(self) -> None:
        await self._client.close()

    def redact(self, text: str) -> str:
        """The text without the key."""
        if len(self._key) < SHORTEST_SECRET:
            return text
        for written in {self._key, quote(self._key, safe=""), json.dumps(self._key)[1:-1]}:
            text = text.replace(written, "[key]")
        return text

    async def _send(self, method: str, path: str, body: Body | None, timeout: float) -> Any:
        import asyncio

        import httpx2
        import openai

        try:
            async with asyncio.timeout(timeout):
                if method == "get":
                    return await self._client.get(path, cast_to=self._response_type)
                return await self._client.post(path, cast_to=self._response_type, body=body)
        except (TimeoutError, openai.APITimeoutError):
            raise TransientError(f"no answer within {timeout:.0f} s", perhaps_billed=True) from None
        except openai.APIStatusError as error:
            # `from None`: the exception and its request hold the key.
            raise self._meaning(error.response.status_code, error.response.text, error.response.headers) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__
            message = self.redact(f"the connection failed ({f'{type(cause).__name__}: {cause}'.strip(': ')})")
            if isinstance(cause, httpx2.ConnectError):
                raise NoConnectionError(message) from None
            sent = not isinstance(cause, httpx2.ConnectTimeout | httpx2.PoolTimeout)
            raise TransientError(message, perhaps_billed=sent) from None
        except openai.OpenAIError as error:
            raise RefusedError(self.redact(f"the openai package refused the request: {error}")) from None

    def _meaning(self, status: int, text: str, headers: Mapping[str, str]) -> RequestError:
        said, fields = _error_of(self.redact(text))  # before it is cut: half a key is a leak too
        message = f"HTTP {status}: {said}"
        if status == 429 and "insufficient_quota" in (fields.get("code"), fields.get("type")):
            return FatalError(message)
        if status in (408, 409, 425, 429) or status >= 500:
            wait = _retry_after(headers)
            return TransientError(
                message, retry_after=wait, rate_limited=status == 429 or (status == 503 and bool(wait))
            )
        if status == 401:  # servers repeat parts of the key in this message
            return FatalError(f"HTTP 401: {self.base_url} does not accept the key in {' or '.join(KEY_VARIABLES)}")
        if status == 402:
            return FatalError(message)
        if status in (404, 405):
            return _NotFoundError(message)
        if fields.get("param") in LENGTH_FIELDS or LENGTH_NAMED.search(said):
            return LengthRefusedError(message, NEWER_LENGTH_FIELD if NEWER_LENGTH_FIELD in said else None)
        return RefusedError(message)

    def _json(self, response: Any) -> Any:
        try:
            return json.loads(self.redact(response.text))
        except ValueError:
            start = " ".join(self.redact(response.text).split())[:80]
            raise MalformedError(f"the answer is not valid JSON: {start!r}", perhaps_billed=True) from None

    def _read_reply(self, response: Any) -> Reply:
        data = self._json(response)
        error = data.get("error") if isinstance(data, dict) else None
        if error:  # OpenRouter reports errors of the model's provider with status 200
            code = error.get("code") if isinstance(error, dict) else None
            raise self._meaning(code if isinstance(code, int) else 500, response.text, response.headers)
        try:
            choices = tuple(_choice(choice) for choice in data["choices"])
            usage = data.get("usage") or {}
            counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        except (KeyError, TypeError, AttributeError):
            raise MalformedError("the answer is JSON but no chat completion", perhaps_billed=True) from None
        if not choices or any(choice.finish_reason == "error" for choice in choices):
            raise TransientError("the answer has no choices, or one that ended in an error", perhaps_billed=True)
        prompt_tokens, completion_tokens = (count if isinstance(count, int) else None for count in counts)
        return Reply(choices, prompt_tokens, completion_tokens)


class _NotFoundError(FatalError):
    """404 or 405: of a wrong address or a wrong model."""


def _error_of(text: str) -> tuple[str, Mapping[str, Any]]:
    """What a server says of an error, shortened, and the fields that it says it with."""
    fields: Mapping[str, Any] = {}
    try:
        error = json.loads(text)
    except ValueError:
        pass
    else:
        error = error.get("error", error) if isinstance(error, dict) else error
        fields = error if isinstance(error, dict) else {}
        text = str(fields.get("message", error))
    text = " ".join(text.split()) or "no message"
    return text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + "...", fields


def _choice(choice: Mapping[str, Any]) -> Choice:
    message = choice["message"]
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    text = _text(message.get("content"))
    if not reasoning and "</think>" in text:  # a server without a reasoning parser
        reasoning, _, text = text.rpartition("</think>")
        reasoning = reasoning.replace("<think>", "", 1)
    return Choice(
        text.strip(), reasoning.strip() if isinstance(reasoning, str) else None, choice.get("finish_reason") or None
    )


def _text(content: Any) -> str:
    if isinstance(content, list):  # parts, as some servers write them
        return "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, of ``Retry-After`` as a number or a date; None if it does not say."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def require_openai() -> Any:
    """The `openai` package; raises ``ValueError`` that says how to install it."""
    try:
        import openai
    except ImportError as error:
        raise ValueError(
            "asking a model needs the package openai, which is not installed: pip install 'sgpo[strategies]'"
        ) from error
    return openai


def key_from_environment(base_url: str) -> str:
    """The key in SGPO_API_KEY, else OPENAI_API_KEY; servers on this machine need none. Raises ``ValueError``."""
    for name in KEY_VARIABLES:
        key = os.environ.get(name, "").strip()
        if key:
            if not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError(f"the key in {name} has characters that no key has (spaces, quotes, other alphabets)")
            return key
    host = urlsplit(base_url).hostname or ""
    if host in ("localhost", "::1") or host.startswith("127."):
        return "none"
    raise ValueError(
        f"no key for {base_url}: set the environment variable SGPO_API_KEY (for a server that needs no key, to 'none')"
    )


def checked_address(base_url: str) -> str:
    """Without blanks and a slash at the end. Raises ``ValueError`` for what is no address of an API."""
    address = base_url.strip().rstrip("/")
    parts = urlsplit(address)
    if parts.username or parts.password:
        raise ValueError("--base-url must not hold a user name or password; the key comes from SGPO_API_KEY")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--base-url {address!r} is no address: write https://HOST/v1 or http://localhost:8000/v1")
    if address.endswith("/chat/completions"):
        raise ValueError(f"--base-url ends before /chat/completions: {address.removesuffix('/chat/completions')}")
    return address
