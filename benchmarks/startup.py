"""CPU seconds of `sgpo train` on the mini-world until its first sample: the libraries' imports, and what comes after.

    python benchmarks/startup.py [--repeats 3] [--output startup.json]

Each repeat is a process of its own. The imports are those of PyTorch and of transformers' Trainer, which `sgpo` cannot
make shorter. CPU seconds, since seconds depend on what else runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RECIPE = Path(__file__).parents[1] / "recipes" / "miniworld" / "sgpo.yaml"


class FirstSampleError(Exception):
    """Raised in place of sampling."""


def measure(world: Path) -> dict[str, float]:
    """In this process, which has imported none of the libraries."""
    start = time.process_time()
    import torch  # noqa: F401
    from transformers import Trainer  # noqa: F401

    imported = time.process_time()
    from sgpo.cli import main
    from sgpo.miniworld.world import BASE_MODEL
    from sgpo.sampling.transformers import TransformersSampler

    def first_sample(*_: Any, **__: Any) -> None:
        raise FirstSampleError

    TransformersSampler.sample = first_sample  # type: ignore[method-assign]
    options = {"model": BASE_MODEL, "problems": world / "rl.jsonl", "eval_problems": world / "dev.jsonl"}
    options |= {"output_dir": world / "run", "overwrite": "true"}
    texts = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    try:
        main(["train", "--config", str(RECIPE), *texts])
    except FirstSampleError:
        return {"imports": imported - start, "afterwards": time.process_time() - imported}
    raise RuntimeError("the run ended before its first sample")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    from common import write_report  # imports PyTorch

    from sgpo.miniworld.world import Sizes, create_world

    with tempfile.TemporaryDirectory() as folder:
        world = create_world(Path(folder) / "world", sizes=Sizes())
        command = [sys.executable, __file__, "--one", str(world)]
        lines = [
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            for _ in range(options.repeats)
        ]
    found = [json.loads(line) for line in lines]
    result = {name: statistics.median(each[name] for each in found) for name in found[0]}
    print(f"imports {result['imports']:.2f} s, then {result['afterwards']:.2f} s until the first sample (CPU seconds)")
    write_report(options.output, {"results": result})


if __name__ == "__main__":
    main()
