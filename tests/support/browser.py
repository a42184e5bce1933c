"""A headless Chromium, and pages in it that must neither complain nor ask for anything."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSER = "SGPO_BROWSER"  # where it is set, tests with a browser fail in place of being skipped
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")
LOADED = 20_000  # milliseconds, on a busy machine


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser of playwright's; the test is skipped if there is none."""
    named = os.environ.get(BROWSER)
    path = named or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip(f"there is no Chromium; install one, or name it in {BROWSER}")
    if named is None:
        pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[browser]'")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def watched_pages(browser: Any, path: Path) -> Iterator[Callable[..., Any]]:
    """What opens the page at `path` with its text and look; whatever it complains about or asks for fails the test."""
    complaints: list[str] = []
    pages: list[Any] = []

    def open_page(text: str, look: dict[str, Any]) -> Any:
        path.write_text(text, encoding="utf-8")
        page = browser.new_page(**look)
        pages.append(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.extend([] if request.url == path.as_uri() else [request.url]))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", timeout=LOADED)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []
