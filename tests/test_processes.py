"""How the tests start several processes: what a hang says of each, and that none is stopped by what it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import launch

WRITES = """
import os, pathlib, sys, time
done = pathlib.Path(sys.argv[1])
if os.environ["RANK"] == "0":
    while not done.exists():
        time.sleep(0.01)
else:
    print("x" * 1_000_000, flush=True)
    done.touch()
"""
HANGS = """
import os, threading
def waits_for_ever(): threading.Event().wait()
print("output of", os.environ["RANK"])
if os.environ["RANK"] == "1": waits_for_ever()
"""


def test_a_process_that_writes_much_does_not_wait_for_the_others(tmp_path: Path) -> None:
    (first, _), (second, output) = launch(["-c", WRITES, str(tmp_path / "done")], seconds=60)
    assert (first, second) == (0, 0)
    assert len(output) == 1_000_001


def test_a_hang_says_what_each_wrote_and_where_it_is() -> None:
    with pytest.raises(TimeoutError, match="took more than 5 seconds") as raised:
        launch(["-c", HANGS], seconds=5)
    first, second = str(raised.value).split("--- process 1:")
    assert "output of 0" in first
    assert "output of 1" in second
    assert "in waits_for_ever" in second
    assert "in waits_for_ever" not in first
