"""benchmarks/gpu.py in its small form, on a CPU, as a machine runs it that has torch and transformers alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu  # noqa: E402

# Refuses what such a machine lacks, in the script's processes too: Python imports it at its start.
REFUSING = """
import sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"trl", "datasets", "math_verify", "pebble"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refusing())
"""


def run(folder: Path, *only: str) -> dict[str, Any]:
    (folder / "sitecustomize.py").write_text(REFUSING)
    command = [sys.executable, "benchmarks/gpu.py", "--small", "--output", str(folder / "found"), "--only", *only]
    path = os.pathsep.join([str(folder), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (folder / "found" / "gpu.md").read_text().startswith("# A trial on a CPU")
    return json.loads((folder / "found" / "gpu.json").read_text())["results"]


def test_tasks_in_this_process(tmp_path: Path) -> None:
    """Ours and the plain ways agree, which on a GPU is a finding and here a check of the script."""
    for variant in ("full logits", "sgpo"):
        for row in gpu.divergence(gpu.SMALL, tmp_path, variant):
            assert row["loss_error"] < 1e-5
            assert row["gradient_error"] < 1e-5
    for variant in ("lean, full logits, sdpa", "sgpo padded, sdpa", "sgpo packed, sdpa"):
        (row,) = gpu.update(gpu.SMALL, tmp_path, variant)
        assert row["gradient_difference"] < 1e-5
        assert row["tokens_per_s"] > 0


def test_the_report_tells_what_is_missing() -> None:
    row = {"what": "96 tokens, sgpo", "seconds": 0.25, "mib": None}
    results = {"divergence, sgpo": {"rows": [row], "problem": None}, "step": {"rows": [], "problem": "out | of memory"}}
    assert gpu.markdown(results).splitlines()[1:] == [
        "",
        "## divergence",
        "",
        "| what | seconds | mib |",
        "|---|---|---|",
        "| 96 tokens, sgpo | 0.25 |  |",
        "",
        "## step",
        "",
        "| what | problem |",
        "|---|---|",
        "| step | out / of memory |",
    ]


@pytest.mark.integration
def test_it_needs_neither_trl_nor_datasets(tmp_path: Path) -> None:
    found = run(tmp_path, "sgpo padded", "TRL")
    assert list(found) == ["divergence, TRL chunked", "update, sgpo padded, sdpa"]
    assert "No module named 'trl'" in found["divergence, TRL chunked"]["problem"]
    (row,) = found["update, sgpo padded, sdpa"]["rows"]
    assert row["seconds"] > 0
    assert row["tokens_per_s"] > 0


@pytest.mark.integration
def test_every_task(tmp_path: Path) -> None:
    found = run(tmp_path, "")
    rows = {row["what"]: row for result in found.values() for row in result["rows"]}
    missing = {name for name, result in found.items() if result["problem"]}
    assert missing <= {
        "divergence, TRL chunked",
        "divergence, Liger fused JSD",
        "update, sgpo packed, flex_attention",  # has no backward pass on a CPU
        "update, sgpo packed, flash_attention_2",
    }
    for tokens in (48, 96):
        for variant in ("full logits", "sgpo"):
            assert rows[f"{tokens} tokens, {variant}"]["loss_error"] < 1e-5
            assert rows[f"{tokens} tokens, {variant}"]["gradient_error"] < 1e-5
    assert rows["sgpo padded, sdpa"]["gradient_difference"] < 1e-5
    assert rows["sgpo packed, sdpa"]["gradient_difference"] < 1e-5
    assert rows["torch.float32"]["mismatch"] < 1e-4
    assert 1e-4 < rows["torch.bfloat16"]["mismatch"] < 0.1
    assert rows["whole step"]["seconds"] > 0
