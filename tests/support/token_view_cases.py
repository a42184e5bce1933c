"""Answers for the token view, with made-up numbers, and a headless Chromium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from sgpo.inspection.measure import TOP, Side, TokenMeasures
from sgpo.inspection.page import InspectedAnswer

BROWSER = "SGPO_BROWSER"  # where it is set, tests with a browser fail in place of being skipped
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")


class ListTokenizer:
    """A vocabulary of any texts; a token's text is the same wherever it stands."""

    all_special_ids = (0,)

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = ["<|end|>", "a", *texts]

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(self.texts[each] for each in ids)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [1]}

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.texts[token]


def made_up(ids: Sequence[int], vocabulary: int, *, label: str = "made up", seed: int = 0) -> InspectedAnswer:
    """An answer with random numbers; one token in ten has a large divergence."""
    generator = torch.Generator().manual_seed(seed)
    count = len(ids)

    def side() -> Side:
        probs = torch.rand(count, TOP, generator=generator).sort(descending=True).values / TOP
        top = torch.randint(0, vocabulary, (count, TOP), generator=generator)
        return Side(-3 * torch.rand(count, generator=generator), torch.rand(count, generator=generator), top, probs)

    divergence = 4 * torch.rand(count, generator=generator) ** 12
    measures = TokenMeasures(divergence, side(), side())
    after = -torch.rand(count, generator=generator)
    return InspectedAnswer(label, "A problem", "A strategy", ["made up"], ids, measures, after, 1.0)


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
