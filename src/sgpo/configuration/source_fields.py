"""The fields of another package's dataclass, read from its source: importing transformers takes seconds.

A typo in a configuration is refused from these names alone. They are those of the installed version: there is no list
to keep up to date.
"""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path


@cache
def init_fields(module: str, name: str) -> frozenset[str] | None:
    """The names that a dataclass and its bases take in `__init__`.

    Args:
        module: from where the class can be imported, such as "transformers"; it is not imported here.

    Returns:
        None where the package is missing, or is written in a way that is not followed here. Then only the class itself,
        once it is imported, can say what it takes.
    """
    path = _file(module)
    if path is None:
        return None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _of_class(node, module)
    home = _imported_from(tree, name, _package(module, path))
    return None if home is None else init_fields(*home)


def _of_class(node: ast.ClassDef, module: str) -> frozenset[str] | None:
    """Its own fields and those of its bases."""
    found = {
        each.target.id
        for each in node.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and _is_init_field(each)
    }
    for base in node.bases:
        inherited = init_fields(module, base.id) if isinstance(base, ast.Name) else None
        if inherited is None:
            return None
        found |= inherited
    return frozenset(found)


def _is_init_field(node: ast.AnnAssign) -> bool:
    if "ClassVar" in ast.unparse(node.annotation):
        return False
    options = node.value.keywords if isinstance(node.value, ast.Call) else []
    return not any(each.arg == "init" and ast.unparse(each.value) == "False" for each in options)


def _imported_from(tree: ast.Module, name: str, package: str) -> tuple[str, str] | None:
    """The module and name that `from module import name` takes it from; also within `if TYPE_CHECKING`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
                return ".".join([*above, *([node.module] if node.module else [])]), alias.name
    return None


def _file(module: str) -> Path | None:
    """The source of a module; only its top package is looked for as Python does, which imports nothing."""
    top, *parts = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]).joinpath(*parts)
    return next((each for each in (path / "__init__.py", path.with_suffix(".py")) if each.is_file()), None)


def _package(module: str, path: Path) -> str:
    """The package that relative imports of a module begin from."""
    return module if path.name == "__init__.py" else module.rpartition(".")[0]
