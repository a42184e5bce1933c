"""Problems, rows that cannot be used and folders with a checkpoint, for the tests of refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sgpo.problems import Problem

PROBLEMS = [
    Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), "\\boxed{0}", "Steps: (a) add", {"level": n % 2})
    for n in range(8)
]

Refuse = Callable[..., str]

BAD_ROWS = [
    Problem("double", PROBLEMS[3].prompt, PROBLEMS[3].answer, "\\boxed{9}", "Steps: (a) add"),
    Problem("empty", "Compute 1+1", "", "\\boxed{2}", "Steps: (a) add"),
    Problem("gold", "Compute 2+2", "}{", "\\boxed{4}", "Steps: (a) add"),
    Problem("long", "Compute " + "1+" * 600 + "1", "601", "\\boxed{601}", "Steps: (a) add"),
    Problem("p2", "Compute 7*7", "49", "\\boxed{49}", "Steps: (a) multiply"),
]


def checkpoint_in(folder: Path, step: int, *, complete: bool = True, **run: Any) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_text("weights")
    if complete:
        manifest = {"files": {"model.safetensors": 7}, "data": {}, "configuration": {}, "processes": 1}
        (checkpoint / "checkpoint.json").write_text(json.dumps(manifest | {"resumable": True} | run))
    return checkpoint
