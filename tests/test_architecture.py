"""The shape of the package: who imports whom, how large a folder is, and that its picture is current."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import architecture

NAME = "sgpo"  # of the package that is made up here
RULES = {"back", "confuse", "points", "swap", "total"}  # of the mini-world's families, named as their cards are
REPEATED = {"main", "decide", "work"} | RULES  # what commands, and what methods, are called by


def test_the_rules_hold_and_the_picture_is_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "architecture.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def public_names(module: Path) -> set[str]:
    """The classes, functions and type aliases of a module; aliases are told from constants by their small letters."""
    names = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            aliases = {target.id for target in node.targets if isinstance(target, ast.Name)}
            names |= {name for name in aliases if name[0].isupper() and not name.isupper()}
    return {name for name in names if not name.startswith("_")}


def test_a_public_name_means_one_thing() -> None:
    modules = defaultdict(list)
    for path in sorted(architecture.PACKAGE.rglob("*.py")):
        for name in public_names(path):
            modules[name].append(path.relative_to(architecture.PACKAGE).as_posix())
    assert {name: places for name, places in modules.items() if len(places) > 1 and name not in REPEATED} == {}
    assert {name for name in REPEATED if len(modules[name]) > 1} == REPEATED


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of three folders of one module, each of ten lines, in place of ours."""
    for name in ("high", "low", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.py").write_text("pass\n" * 10)
    monkeypatch.setattr(architecture, "PACKAGE", tmp_path)
    monkeypatch.setattr(architecture, "LARGEST_SHARE", 0.5)
    return tmp_path


def test_an_import_inside_a_function_is_an_arrow(package: Path) -> None:
    (package / "high" / "one.py").write_text(f"def run():\n    from {NAME}.low.one import value\n")
    assert architecture.arrows() == {"high": {"low"}, "low": set(), "other": set()}
    assert architecture.broken_rules() == []


def test_folders_that_import_each_other_are_named(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture, "LARGEST_SHARE", 1.0)
    (package / "high" / "one.py").write_text(f"import {NAME}.low.one\n")
    (package / "low" / "one.py").write_text(f"from {NAME}.other import one\n")
    assert architecture.broken_rules() == []
    (package / "other" / "one.py").write_text(f"from {NAME} import high\n")
    assert architecture.broken_rules() == [
        "high and low import each other, directly or over other folders",
        "high and other import each other, directly or over other folders",
        "low and other import each other, directly or over other folders",
    ]


def test_modules_that_load_each_other_are_named(package: Path) -> None:
    (package / "low" / "two.py").write_text(f"from {NAME}.low.one import value\n")
    (package / "low" / "one.py").write_text(f"def run():\n    from {NAME}.low.two import value\n")
    assert architecture.broken_rules() == []
    (package / "low" / "one.py").write_text(f"from {NAME}.low import two\n")
    assert architecture.broken_rules() == [
        f"{NAME}.low.one and {NAME}.low.two load each other, directly or over other modules"
    ]


def test_a_shared_module_that_needs_its_user_is_named(package: Path) -> None:
    (package / "shared.py").write_text(f"from {NAME}.high import one\n")
    assert architecture.broken_rules() == []
    (package / "high" / "one.py").write_text(f"def run():\n    from {NAME}.shared import something\n")
    assert architecture.broken_rules() == ["shared.py imports high/, and is imported by high/"]


def test_a_folder_that_grows_too_large_is_named(package: Path) -> None:
    (package / "low" / "one.py").write_text("pass\n" * 60)
    assert architecture.broken_rules() == ["low holds 75.0% of the lines, more than 50%"]


def test_arrows_that_a_longer_way_replaces_are_not_drawn() -> None:
    edges = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert architecture.direct(edges) == {"a": {"b"}, "b": {"c"}, "c": set()}
    assert architecture.floors(edges) == {"a": 2, "b": 1, "c": 0}
