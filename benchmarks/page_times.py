"""How long a headless Chromium needs for a page from disk; each run is a new window."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Actions = Mapping[str, tuple[str, Callable[[Any], Any]]]  # name: what is focused before, and what is then timed
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
# Milliseconds until the frame after the next one: what was done by then is on the screen.
NEXT_FRAME = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    parser.add_argument("--output", type=Path)


def time_page(path: Path, actions: Actions, options: argparse.Namespace, width: int) -> list[dict[str, float]]:
    """Seconds of each run, which are printed too; *loaded* is until the page has drawn itself and reacts."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=options.browser, args=ARGUMENTS)
        runs = [_one_run(browser, path, actions, width) for _ in range(options.runs)]
        browser.close()
    for name in runs[0]:
        values = [run[name] for run in runs]
        print(f"{name:8} {statistics.median(values):6.2f} s, {min(values):.2f} to {max(values):.2f}")
    return runs


def _one_run(browser: Any, path: Path, actions: Actions, width: int) -> dict[str, float]:
    page = browser.new_page(viewport={"width": width, "height": 850})

    def seconds(act: Callable[[Any], Any]) -> float:
        start = time.perf_counter()
        act(page)
        page.evaluate(NEXT_FRAME)
        return time.perf_counter() - start

    def load(page: Any) -> None:
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", timeout=120_000)

    found = {"loaded": seconds(load)}
    for name, (focused, act) in actions.items():
        page.locator(focused).first.focus()
        found[name] = seconds(act)
    page.close()
    return found
