"""The results of `miniworld_gates.py` for several base models as one table in Markdown.

python benchmarks/miniworld_gates_table.py 101=runs/gates-101/warmup-0.0002-1.json 102=runs/gates-102/...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def row(name: str, found: list[dict[str, Any]]) -> str:
    """A gate: what was found for each base model, in bold where it is missed, and what was wanted."""
    low, high = found[0]["wanted"]
    cells = [_cell(gate) for gate in found]
    wanted = "" if high > 10 and low <= 0 else f"{low:g} to {high:g}"
    return f"| {name} | {' | '.join(cells)} | {wanted} |"


def _cell(gate: dict[str, Any]) -> str:
    low, high = gate["interval"]
    text = f"{gate['value']:.2f} [{low:.2f}, {high:.2f}]"
    return text if gate["holds"] else f"**{text}**"


def main() -> None:
    reports = {name: json.loads(Path(path).read_text()) for name, path in (each.split("=", 1) for each in sys.argv[1:])}
    print(f"| Gate | {' | '.join(f'base {name}' for name in reports)} | wanted |")
    print(f"|---|{'---|' * len(reports)}---|")
    for gates in zip(*(report["gates"] for report in reports.values()), strict=True):
        print(row(gates[0]["gate"], list(gates)))


if __name__ == "__main__":
    main()
