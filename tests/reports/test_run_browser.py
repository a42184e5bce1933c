"""The report of runs in a real browser: values by pointer and keyboard, search, filters, hostile texts, looks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, watched_pages
from report_cases import HOSTILE_TEXTS, completion, write_evaluation, write_run, write_table
from token_view_cases import ListTokenizer, made_up
from view_cases import write_views

from sgpo.reports.page import shown_text
from sgpo.reports.run_folder import read_runs
from sgpo.reports.run_page import run_report

pytestmark = pytest.mark.browser
HOSTILE = "".join(HOSTILE_TEXTS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a report of runs; whatever the page complains about or asks for fails the test."""
    with watched_pages(browser, tmp_path / "report.html") as open_text:

        def open_page(*runs: Path, evaluations: dict[str, Path] | None = None, **look: Any) -> Any:
            return open_text(
                run_report(read_runs(runs), evaluations), {"viewport": {"width": 1280, "height": 850}, **look}
            )

        yield open_page


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Forty problems; the first one is unlocked."""
    folder = write_run(tmp_path / "first")
    rows = [completion(f"p{n}", group, n % 2 == 1, f"text {n}") for n in range(1, 40) for group in ("autonomous",)]
    rows += [completion("p0", "autonomous", False, "no"), completion("p0", "guided", True, "yes it is", target=True)]
    write_table(folder, 0, rows[:20])
    write_table(folder, 50, rows[20:])
    return folder


def chart(page: Any, title: str) -> Any:
    return page.locator("figure.chart", has=page.locator("h3", has_text=title)).first


def values(figure: Any) -> list[str]:
    return figure.locator(".legend b").all_inner_texts()


def test_values_by_pointer_and_by_keyboard(opened: Callable[..., Any], run: Path) -> None:
    page = opened(run)
    reward = chart(page, "Reward")
    assert values(reward) == []
    box = reward.locator("svg[tabindex]").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 4, box["y"] + 60)
    assert values(reward) == ["1", "1"]
    assert "update 20" in reward.inner_text()
    page.mouse.move(1, 1)
    assert values(reward) == []
    picture = reward.locator("svg[tabindex]")
    while not picture.evaluate("node => node === document.activeElement"):  # Tab alone leads there
        page.keyboard.press("Tab")
    assert picture.evaluate("node => getComputedStyle(node).outlineStyle") != "none"
    for key, step in (("Home", 1), ("ArrowRight", 2), ("ArrowRight", 3), ("ArrowLeft", 2), ("End", 20), ("PageUp", 18)):
        page.keyboard.press(key)
        assert f"update {step}" in reward.inner_text(), key
        assert values(reward) == [f"{step / 20:g}", "1"]
        assert f"update {step} " in picture.get_attribute("aria-label")


def test_search_and_filters_by_keyboard(opened: Callable[..., Any], run: Path) -> None:
    page = opened(run)
    cards = page.locator(".problem")
    assert cards.count() == 30
    page.locator("#more").press("Enter")
    assert cards.count() == 40
    assert cards.nth(30).locator("summary").evaluate("node => node === document.activeElement")
    page.locator("#search").focus()
    page.keyboard.type("YES it")
    assert cards.count() == 1
    page.keyboard.press("Enter")  # does not send a form
    cards.first.locator("summary").press("Enter")
    assert cards.first.locator("mark").inner_text() == "yes it"
    assert "★ target, α 0.25" in cards.first.inner_text()
    assert "unlocked" in cards.first.inner_text()
    page.fill("#search", "nowhere")
    assert page.locator("#found").inner_text().startswith("Nothing fits")
    page.fill("#search", "")
    page.locator("#which").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("#which").input_value() == "unlocked"
    assert cards.count() == 1
    page.select_option("#which", "all")
    page.select_option("#step", "0")
    assert cards.count() == 20


def test_several_runs_are_overlaid(opened: Callable[..., Any], run: Path, tmp_path: Path) -> None:
    page = opened(run, write_run(tmp_path / "second", updates=10, finished=False, config={"method": "grpo"}))
    entropy = chart(page, "Entropy")
    assert entropy.locator(".legend").inner_text().split() == ["first", "second"]
    entropy.locator("svg[tabindex]").focus()
    page.keyboard.press("End")
    assert values(entropy) == ["0.5", "–"]
    page.locator("#runs button").nth(1).press("Enter")
    assert page.locator("#runs button").nth(1).get_attribute("aria-pressed") == "false"
    assert entropy.locator(".legend").inner_text().split()[0] == "first"
    assert entropy.locator(".legend li").count() == 1
    assert "not finished" in page.locator("#subtitle").inner_text()
    rows = page.locator(".differences tr").all_inner_texts()
    assert [row.split("\t") for row in rows] == [["Options that differ", "first", "second"], ["method", "sgpo", "grpo"]]


def test_before_and_after(opened: Callable[..., Any], run: Path, tmp_path: Path) -> None:
    before = write_evaluation(tmp_path / "before", {"a": [False, True], "b": [True, True]}, "old <b>")
    after = write_evaluation(tmp_path / "after", {"a": [True, True], "b": [False, False]}, "new <b>")
    page = opened(run, evaluations={"before": before, "after": after})
    cards = page.locator("#answers .problem")
    assert [text.split("\n")[0] for text in cards.all_inner_texts()] == ["Compute b", "Compute a"]
    page.select_option("#answers-which", "better")
    assert cards.count() == 1
    cards.first.locator("summary").press("Enter")
    texts = cards.first.locator(".completion .text")
    texts.first.wait_for()  # a browser says a little later that details were opened
    assert texts.all_inner_texts() == ["old <b> 0", "new <b> 0"]
    page.fill("#answers-search", "nowhere")
    assert page.locator("#answers-found").inner_text().startswith("Nothing fits")
    assert page.locator("#problems .problem").count() == 30  # a list of its own


WORDS = [" We", " first", " add", " 12", "+", "4", "=", "16", ".\n", " So", " 16"]


def write_word_views(run: Path, step: int, *labels: str) -> None:
    ids = [*range(2, 2 + len(WORDS)), 0]
    answers = [made_up(ids, len(WORDS), label=label, seed=step + n) for n, label in enumerate(labels)]
    write_views(run, step, answers, ListTokenizer(WORDS))


def test_targets_token_by_token(opened: Callable[..., Any], run: Path) -> None:
    for step in (0, 50):
        write_word_views(run, step, f"p{step}")
    page = opened(run)
    assert "Targets, token by token" in page.locator("#sections").inner_text()
    assert page.locator("#chosen option").all_inner_texts()[0].startswith("after 0 updates: p0, mean dₜ ")
    answer = page.locator("#answer")
    assert "".join(answer.locator(".words").all_text_contents()).replace("\n", "").startswith("We first add 12+4=16.")
    answer.locator("#t3").click()
    assert page.locator("#detail .token").inner_text() == "␣12"
    answer.focus()
    page.keyboard.press("End")
    assert answer.locator(".selected").get_attribute("data-i") == str(len(WORDS))
    page.locator("#next").click()
    assert page.locator("#chosen").input_value() == "1"
    assert page.locator("#facts").inner_text() == "made up"


def test_hostile_texts(opened: Callable[..., Any], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", config={"model": HOSTILE, HOSTILE: HOSTILE})
    long = "line " * 200_000  # 1 MB
    texts = {"prompt": HOSTILE, "answer": HOSTILE, "reason": HOSTILE, "strategy": f"Problem type: {HOSTILE}"}
    write_table(
        run, 0, [completion(HOSTILE, group, True, HOSTILE + long, **texts) for group in ("autonomous", "guided")]
    )
    views = [
        dataclasses.replace(made_up([2, 3, 4], 3), problem=HOSTILE + long, strategy=HOSTILE, facts=[HOSTILE]),
        made_up([4, 3, 2], 3, label=HOSTILE),
    ]
    write_views(run, 0, views, ListTokenizer([HOSTILE, " <b>", "a" * 100_000]))
    page = opened(run)
    page.locator(".problem summary").click()
    page.select_option("#chosen", "1")
    page.locator("#answer").focus()
    for key in ("Home", "End"):
        page.keyboard.press(key)
        assert page.locator("#detail .two .rows > div").count() == 10
    page.select_option("#chosen", "0")
    assert page.locator("#strategy").evaluate("node => node.textContent") == shown_text(HOSTILE)
    assert "characters left out" in page.locator("#problem").inner_text()
    assert page.locator("#answer img, #answer b, #detail b b").count() == 0
    assert page.evaluate("window.hacked") is None
    assert page.locator("script:not([type])").count() == 1
    assert page.locator("img").count() == 0
    shown = page.locator(".problem .head").evaluate("node => node.textContent")
    assert shown == shown_text(HOSTILE)
    assert "characters left out" in page.locator(".completion .text").first.inner_text()
    page.fill("#search", "<script>")
    assert page.locator(".problem mark").first.inner_text() == "<script>"
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_widths_and_colours(opened: Callable[..., Any], run: Path, tmp_path: Path, scheme: str, width: int) -> None:
    name = "a-very-long-name-of-a-run-without-a-single-space-in-it-" * 3
    write_word_views(run, 0, name)
    page = opened(run, write_run(tmp_path / name), color_scheme=scheme, viewport={"width": width, "height": 844})
    page.locator(".problem summary").first.click()
    page.click("#t3")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    red, *_ = page.evaluate("getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)")
    assert (red < 60) == (scheme == "dark")


def test_the_page_of_a_run_that_goes_on_stays_as_it_was_left(browser: Any, tmp_path: Path, run: Path) -> None:
    for step in (0, 50):
        write_word_views(run, step, f"p{step}")
    second = write_run(tmp_path / "second")
    with watched_pages(browser, tmp_path / "report.html") as open_text:
        look = {"viewport": {"width": 1280, "height": 850}}
        page = open_text(run_report(read_runs([run, second]), refresh=1), look)
        page.locator("#runs button").nth(1).press("Enter")
        page.fill("#search", "text 1")
        page.select_option("#step", "0")
        page.select_option("#chosen", "1")
        page.locator("#search").focus()  # somebody types: from here on the page waits
        page.evaluate("window.before = true")
        (tmp_path / "report.html").write_text(run_report(read_runs([run, second])), encoding="utf-8")
        page.evaluate("window.scrollTo({ top: 900, behavior: 'instant' })")
        page.wait_for_timeout(1500)
        assert page.evaluate("window.before")
        place = page.evaluate("window.scrollY")
        page.locator("#search").blur()
        page.wait_for_function("() => !window.before && 'ready' in document.documentElement.dataset", timeout=20_000)
        assert page.locator("#search").input_value() == "text 1"
        assert page.locator("#step").input_value() == "0"
        assert page.locator("#problems .problem").count() == 11  # p1 and p10 to p19
        assert page.locator("#facts").inner_text() == "made up"
        assert page.locator("#chosen").input_value() == "1"
        assert page.locator("#runs button").nth(1).get_attribute("aria-pressed") == "false"
        assert page.evaluate("window.scrollY") == pytest.approx(
            place, abs=100
        )  # heights of rows out of sight are estimated
        page.evaluate("window.before = true")
        page.wait_for_timeout(1500)
        assert page.evaluate("window.before")  # the run has ended, and the page with it


def test_someone_who_reads_is_not_interrupted(browser: Any, tmp_path: Path, run: Path) -> None:
    with watched_pages(browser, tmp_path / "report.html") as open_text:
        page = open_text(run_report(read_runs([run]), refresh=1), {})
        page.locator(".problem summary").first.click()
        page.locator(".problem .inside").first.wait_for()
        page.evaluate("window.before = true")
        page.wait_for_timeout(1500)
        assert page.evaluate("window.before")


def test_a_run_before_its_first_update(opened: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("")
    page = opened(folder)
    assert page.locator("section:visible h2").all_inner_texts() == ["What was run"]
    assert "not finished" in page.locator("#subtitle").inner_text()
