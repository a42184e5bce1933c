"""Python objects that a user names in a configuration: ``package.module:name`` or ``path/to/file.py:name``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def load_object(name: str, role: str, kind: str) -> Any:
    """Import what is named; role and kind are for messages, such as "reward" and "function".

    The file or module is executed, as by ``import``; exceptions that it raises itself travel unchanged.

    Raises:
        ValueError: there is no such file, module or name in it.
    """
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise ValueError(f"{name!r} names no {role}: write package.module:{kind} or path/to/file.py:{kind}")
    wanted = role if role == kind else f"{role} {kind}"
    module = _load_file(Path(where), wanted) if where.endswith(".py") else _import_module(where, wanted, kind)
    if not hasattr(module, attribute):
        raise ValueError(f"{role} {name!r}: {where} has no {kind} {attribute!r}")
    return getattr(module, attribute)


def _load_file(path: Path, wanted: str) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"there is no file {path} to take a {wanted} from (looked in {Path.cwd()})")
    # Known to Python as any module: dataclasses look theirs up, and it is executed once, however often it is asked for.
    name = f"sgpo_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be loaded as a Python module")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str, wanted: str, kind: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # found, but something that it imports is not
        raise ValueError(
            f"there is no module {name!r} to take a {wanted} from: install it, or give the file as "
            f"path/to/file.py:{kind}"
        ) from error
