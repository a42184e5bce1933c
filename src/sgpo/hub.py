"""Models and data sets by their names on the Hugging Face Hub, also where there is no network.

The libraries look into their cache only after each file has been asked for six times, half a minute a file.
"""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ANSWER_SECONDS = 10.0  # within which the Hub says something, or counts as out of reach
WAY_OUT = "check the connection, or give a path; what was once read from the Hub stays in its cache"


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """Whoever reads from the Hub meanwhile gets what is in the cache, at once, where the Hub cannot be reached.

    Raises:
        OSError: in place of the one that the library raised, if that was why; the message says what to do.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        reason: str | None = "the variable HF_HUB_OFFLINE is set"
    else:
        reason = out_of_reach(constants.ENDPOINT)
    if reason is None:
        yield
        return
    try:
        with _offline():
            yield
    except OSError as error:
        raise OSError(f"it is not in the cache, and {constants.ENDPOINT} is not asked ({reason}); {WAY_OUT}") from error


def commit_of(model: str) -> str | None:
    """The commit from which a model's configuration was last read; None if it was read from nowhere there."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(model, "config.json")
    return Path(path).parent.name if isinstance(path, str) else None


def out_of_reach(address: str) -> str | None:
    """Why nothing answers there; None if something does, be it with an error."""
    request = urllib.request.Request(address, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=ANSWER_SECONDS).close()
    except (urllib.error.HTTPError, http.client.HTTPException):
        return None
    except urllib.error.URLError as error:
        # Certificates are the libraries' affair, which may know more of them.
        return None if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except OSError as error:
        return str(error)
    return None


@contextmanager
def _offline() -> Iterator[None]:
    """As if the environment had said so when the libraries were imported."""
    import datasets.config
    from huggingface_hub import constants

    modules: list[Any] = [constants, datasets.config]
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value
