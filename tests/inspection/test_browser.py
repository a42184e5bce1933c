"""The token view in a real browser: pointer, keyboard, hostile texts, 16K tokens, light, dark and a phone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, watched_pages
from token_view_cases import ListTokenizer, made_up

from sgpo.inspection.page import InspectedAnswer, inspection_page
from sgpo.reports.page import shown_text

pytestmark = pytest.mark.browser

WORDS = [
    *(" We", " first", " add", " 12", "+", "4", "=", "16", ".\n"),
    *(" Then", " halve", " it", ":", " 8", ".\n", " So", " 8", "\n"),
]
HOSTILE = [
    *("</script><script>window.hacked = 1</script>", "<img src=x onerror='window.hacked = 1'>", "\x00\x1b[31m"),
    *("\u202etxet", "שלום", " العربية", "\u2028", '"];window.hacked=1;["', "{{x}}", "<!--", "\ud83d", "  ", "\t"),
    *("&lt;b>", "\n\n"),
]
IN_VIEW = """id => {
  const place = document.getElementById(id).getBoundingClientRect();
  return place.top >= -1 && place.bottom <= innerHeight + 1;
}"""
LONG = 16_384


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page of answers; whatever the page complains about or asks for fails the test."""
    with watched_pages(browser, tmp_path / "view.html") as open_text:

        def open_page(answers: list[InspectedAnswer], tokenizer: ListTokenizer, **look: Any) -> Any:
            return open_text(
                inspection_page(answers, tokenizer, subtitle="a model"),
                {"viewport": {"width": 1300, "height": 850}, **look},
            )

        yield open_page


@pytest.fixture
def words() -> tuple[list[InspectedAnswer], ListTokenizer]:
    """Two short answers."""
    tokenizer, ids = ListTokenizer(WORDS), [*range(2, 2 + len(WORDS)), 0]
    return [made_up(ids, len(WORDS), label=f"p{seed}", seed=seed) for seed in (1, 2)], tokenizer


def selected(page: Any) -> int:
    return int(page.locator("#answer .selected").get_attribute("data-i"))


def test_pointer_and_choice(opened: Callable[..., Any], words: tuple[list[InspectedAnswer], ListTokenizer]) -> None:
    page, (answers, _) = opened(*words), words
    divergence = answers[0].measures.divergence
    assert selected(page) == int(divergence.argmax())
    assert (
        "".join(page.locator("#answer .words").all_inner_texts()).replace("\n", "").startswith("We first add 12+4=16.")
    )
    page.hover("#t3")
    detail = page.locator("#detail")
    assert detail.locator(".token").inner_text() == "␣12"
    assert f"token 4 of {len(answers[0].ids)} · step 1" in detail.inner_text()
    assert detail.locator(".two .rows > div").count() == 10
    assert "with strategy" in detail.inner_text()
    page.click("#t3")  # holds it
    page.hover("#t5")
    assert selected(page) == 3
    page.click("#t3")
    page.hover("#t5")
    assert selected(page) == 5
    masked = (divergence > 1).nonzero().flatten().tolist()
    assert [
        int(each) for each in page.locator("#answer .masked").evaluate_all("all => all.map(x => x.dataset.i)")
    ] == masked
    page.select_option("#chosen", "1")
    assert selected(page) == int(answers[1].measures.divergence.argmax())
    assert page.locator("#next").is_disabled()


def test_keyboard(opened: Callable[..., Any], words: tuple[list[InspectedAnswer], ListTokenizer]) -> None:
    page, (answers, _) = opened(*words), words
    count, order = len(answers[0].ids), answers[0].measures.divergence.argsort(descending=True).tolist()
    answer = page.locator("#answer")
    while not answer.evaluate("node => node === document.activeElement"):  # Tab alone leads there
        page.keyboard.press("Tab")
    assert answer.evaluate("node => getComputedStyle(node).outlineStyle") != "none"
    expected = [("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowDown", 9), ("ArrowUp", 0)]
    for key, place in [*expected, ("End", count - 1), ("ArrowRight", count - 1)]:
        page.keyboard.press(key)
        assert selected(page) == place, key
        assert answer.get_attribute("aria-activedescendant") == f"t{place}"
    page.locator("#largest button").first.click()
    assert selected(page) == order[0]
    for key, place in (("n", order[1]), ("n", order[2]), ("p", order[1])):
        page.keyboard.press(key)
        assert selected(page) == place


def test_16k_hostile_tokens(opened: Callable[..., Any]) -> None:
    texts = [*HOSTILE, *WORDS]
    tokenizer = ListTokenizer(texts)
    ids = [2 + number % len(texts) for number in range(LONG)]
    hostile = "".join(HOSTILE)
    changes = {"problem": hostile, "strategy": hostile, "facts": [hostile], "label": hostile}
    page = opened([dataclasses.replace(made_up(ids, len(texts)), **changes)], tokenizer)
    assert page.evaluate("window.hacked") is None
    assert page.locator("script:not([type])").count() == 1
    assert page.locator("#answer img, #answer b").count() == 0
    assert page.locator("#answer [data-i]").count() == LONG
    shown = page.locator("#answer").evaluate("node => node.textContent").split()
    assert shown_text(HOSTILE[0]).split()[0] in " ".join(shown)
    assert page.locator("#problem").evaluate("node => node.textContent") == shown_text(hostile)
    page.locator("#answer").focus()
    for key, place in (("End", LONG - 1), ("ArrowLeft", LONG - 2), ("Home", 0)):
        page.keyboard.press(key)
        assert selected(page) == place
        page.wait_for_function(IN_VIEW, arg=f"t{place}", timeout=5_000)
    page.keyboard.press("n")
    page.locator("#measure").select_option("sft")
    assert page.locator("#answer").get_attribute("data-scale") == "blue"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1300])
def test_looks(
    opened: Callable[..., Any], words: tuple[list[InspectedAnswer], ListTokenizer], scheme: str, width: int
) -> None:
    page = opened(*words, color_scheme=scheme, viewport={"width": width, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    red, *_ = page.evaluate("getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)")
    assert (red < 60) == (scheme == "dark")
    detail = page.locator("#detail")
    assert detail.is_visible() == (width > 1020)
    page.click("#t3")
    assert detail.is_visible()
    if width == 390:
        page.click("#detail .close")
        assert not detail.is_visible()
