"""Whatever the texts of this project cite exists: pages and their headings, files, modules and their names, links.

And Markdown shows what was meant.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from places import ROOT

from sgpo.methods.registry import METHODS

PLACES = ("src", "docs", "benchmarks", "examples", "tests", "constraints")
KINDS = {".py", ".md", ".yaml", ".txt"}
WRITTEN = {"gpu.md", "table.md", "report.md"}  # by a command
PAGE = re.compile(
    r"(?<![\w/])(?P<folder>docs/)?(?P<name>[\w-]+\.md)\b"
    r'(?:,? "(?P<heading>[^"\n]+)"|,? sections? (?P<section>\d[\d.]*))?'
)
FILE = re.compile(
    r"(?<![\w/.-])(?:src|tests|benchmarks|recipes|examples|constraints|docs/data|docs/images)/[\w/.*-]*\w"
)
NAME = re.compile(r"(?:`|\bfrom )(sgpo(?:\.(?!yaml\b|jsonl\b)\w+)+)")
DEFINED = r"(?:^|\s)(?:def|class) {0}\b|^{0} *[:=]|import [^\n]*\b{0}\b|^    {0},$|^    \"{0}\""
SECTION = yaml.safe_load((ROOT / "src/sgpo/integrations/verl/config/plugin.yaml").read_text())["sgpo"]
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def texts() -> dict[str, str]:
    """All that is read by people, by path."""
    inside = [path for place in PLACES for path in (ROOT / place).rglob("*") if path.suffix in KINDS]
    paths = [*inside, *ROOT.glob("*.md"), ROOT / "mkdocs.yml"]
    own = Path(__file__).name  # whose examples are wrong on purpose
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths if path.name != own}


def on_one_line(text: str) -> str:
    """A citation may be broken where a line of prose or of comments ends."""
    return re.sub(r"\s*\n\s*(?:#:? )?", " ", text)


def headings(text: str) -> list[str]:
    return [line.lstrip("#").strip() for line in FENCE.sub("", text).splitlines() if re.match(r"#{1,6} ", line)]


def anchors(text: str) -> set[str]:
    """As MkDocs makes them, and GitHub for headings of letters, digits and single spaces."""
    found = set()
    for heading in headings(text):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return found


def broken_pages(text: str) -> Iterator[str]:
    """Pages that do not exist, and headings and sections that they have not."""
    for cited in PAGE.finditer(on_one_line(text)):
        if cited["name"] in WRITTEN:
            continue
        paths = [ROOT / "docs" / cited["name"], *([] if cited["folder"] else [ROOT / cited["name"]])]
        pages = [path.read_text(encoding="utf-8") for path in paths if path.is_file()]
        known = [heading for page in pages for heading in headings(page)]
        if not pages:
            yield f"{cited[0]}: there is no such page"
        elif cited["heading"] and cited["heading"] not in known:
            yield f"{cited[0]}: the page has no such heading"
        elif cited["section"] and not any(re.match(rf"{re.escape(cited['section'])}[. ]", one) for one in known):
            yield f"{cited[0]}: the page has no such section"


def broken_files(text: str) -> Iterator[str]:
    for cited in FILE.finditer(text):
        if not any(ROOT.glob(cited[0])):
            yield f"{cited[0]}: there is no such file"


def broken_names(text: str) -> Iterator[str]:
    """Modules that do not exist, and names that do not stand in them."""
    for cited in NAME.finditer(text):
        if cited[1].removeprefix("sgpo.") in SECTION:  # an option on veRL
            continue
        *folders, last = cited[1].split(".")
        path = ROOT / "src" / Path(*folders, last)
        if path.is_dir() or path.with_suffix(".py").is_file():
            continue
        module = path.parent / "__init__.py" if path.parent.is_dir() else path.parent.with_suffix(".py")
        if not module.is_file():
            yield f"{cited[1]}: there is no such module"
        elif not re.search(DEFINED.format(last), module.read_text(encoding="utf-8"), re.MULTILINE):
            yield f"{cited[1]}: there is no such name in the module"


def broken_blocks(text: str) -> Iterator[str]:
    """Tables and lists of a page that MkDocs shows as text, since no empty line is in front of them."""
    before = ""
    for line in FENCE.sub("", text).splitlines():
        kind = r"\|" if line.startswith("|") else r" *(?:- |\d+\. )|  +" if re.match(r"- |\d+\. ", line) else None
        if kind and before.strip() and not re.match(kind, before) and not before.startswith("<!--"):
            yield line
        before = line


def broken_links(path: str, text: str) -> Iterator[str]:
    """Of a page: files beside it that do not exist, and anchors that no heading has."""
    for link in LINK.finditer(FENCE.sub("", text)):
        target, _, anchor = link["target"].partition("#")
        if re.match(r"\w+:", target):
            continue
        file = ROOT / path if not target else (ROOT / path).parent / target
        if not file.exists():
            yield f"{link['target']}: there is no such file"
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
            yield f"{link['target']}: the page has no such heading"


@pytest.mark.parametrize("check", [broken_pages, broken_files, broken_names])
def test_what_is_cited_exists(check: object) -> None:
    assert callable(check)
    assert {path: found for path, text in texts().items() if (found := list(check(text)))} == {}


def test_the_configuration_names_every_method() -> None:
    (row,) = re.findall(r"^\| `method` \|.*$", texts()["docs/configuration.md"], re.MULTILINE)
    assert set(METHODS) <= set(re.findall(r"`(\w+)`", row))


def test_links_lead_somewhere() -> None:
    pages = {path: text for path, text in texts().items() if path.endswith(".md")}
    assert len(pages) > 20
    assert {path: found for path, text in pages.items() if (found := list(broken_links(path, text)))} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see docs/method.md and CONTRIBUTING.md", []),
        ('what docs/method.md, "The weight of the distillation (Eq. 6)" says', []),
        (
            '(method.md,\n# "Decisions on tokens"), so',
            ['method.md, "Decisions on tokens": the page has no such heading'],
        ),
        ("k: int  # method.md section 6", ["method.md section 6: the page has no such section"]),
        ("(method.md, section 4)", ["method.md, section 4: the page has no such section"]),
        ("docs/nowhere.md", ["docs/nowhere.md: there is no such page"]),
        ("docs/CONTRIBUTING.md", ["docs/CONTRIBUTING.md: there is no such page"]),
    ],
)
def test_pages_and_headings(text: str, found: list[str]) -> None:
    assert list(broken_pages(text)) == found


def test_files_names_and_links() -> None:
    assert list(broken_files("run benchmarks/step.py or benchmarks/steps.py")) == [
        "benchmarks/steps.py: there is no such file"
    ]
    assert list(broken_names("`sgpo.verify`, `sgpo.prompts.student_messages`, `sgpo.verification`")) == []
    assert list(broken_names("`sgpo.nowhere.verify` and `sgpo.prompts.nothing(1)`")) == [
        "sgpo.nowhere.verify: there is no such module",
        "sgpo.prompts.nothing: there is no such name in the module",
    ]
    text = "[a](concepts.md#one-table) [b](concepts.md#two-tables) [c](none.md) [d](https://x.y/z.md) [e](#here)"
    assert list(broken_links("docs/index.md", text)) == [
        "concepts.md#two-tables: the page has no such heading",
        "none.md: there is no such file",
        "#here: the page has no such heading",
    ]


def test_tables_and_lists_are_shown_as_such() -> None:
    pages = {path: text for path, text in texts().items() if path.endswith(".md")}
    assert {path: found for path, text in pages.items() if (found := list(broken_blocks(text)))} == {}
    assert list(broken_blocks("Options:\n| a | b |\n|---|---|\n\n- one,\n  two\n- three\nand\n1. four")) == [
        "| a | b |",
        "1. four",
    ]


def test_measurements_stand_on_pages_of_their_own() -> None:
    """Pages that say how to do something link to what was measured, and repeat none of its tables."""
    navigation = yaml.safe_load(re.sub(r"!!\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))["nav"]
    sections = {
        name: [page for one in pages for page in one.values()]
        for entry in navigation
        for name, pages in entry.items()
        if isinstance(pages, list)
    }
    assert list(sections)[:2] == ["Concepts", "How to"]
    listed = {page for pages in sections.values() for page in pages} | {"index.md"}
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")}
    pages = {page: (ROOT / "docs" / page).read_text(encoding="utf-8") for page in listed - set(sections["Measured"])}
    assert [page for page, text in pages.items() if "python benchmarks/" in text] == []
    assert "](benchmarks.md#" in pages["strategies.md"]
