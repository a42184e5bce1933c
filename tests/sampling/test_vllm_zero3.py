"""`sampler: vllm` and a model that DeepSpeed's ZeRO-3 divides, in two processes (gloo) with an engine each.

Inside an environment that has both: that of constraints/vllm.txt, and DeepSpeed above it (constraints/deepspeed.txt).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from places import SUPPORT
from processes import launch

# In 16 bits engine and model round differently; other weights would differ by much more.
MISMATCH = {"zero3": 1e-5, "zero3_adapter": 1e-5, "zero3_bf16": 0.03}


@pytest.mark.deepspeed
@pytest.mark.parametrize("case", MISMATCH)
def test_an_engine_in_each_process_has_the_weights_of_the_divided_model(case: str, tmp_path: Path) -> None:
    for status, output in launch([str(SUPPORT / "vllm_process_cases.py"), case, str(tmp_path), ""]):
        assert status == 0, output[-4000:]
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["divided"]
        assert len(found["mismatch"]) == 2  # of each rollout batch, the second after two updates
        assert max(found["mismatch"]) < MISMATCH[case]
        assert min(found["norms"]) > 0
        assert "still has old weights" in found["stale"] or "does not compute what the model does" in found["stale"]
        assert found["same"] or case == "zero3_bf16"  # as the model itself, gathered
