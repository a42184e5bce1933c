"""Hand-made results and metrics of comparisons."""

from __future__ import annotations

from typing import Any


def result(base: str, seed: int | None, method: str, rates: list[float], **others: Any) -> dict[str, Any]:
    of_set = {"score": sum(rates) / len(rates), "k": 4, "rates": {str(i): rate for i, rate in enumerate(rates)}}
    row = {"base": base, "seed": seed, "method": method, "sets": {"test": of_set}, "budget": None}
    return {**row, "totals": {"seconds": {"train command": 60.0}}, **others}


def updates(count: int, every: int = 1) -> list[dict[str, float]]:
    """Lines of rollout batches with two updates: sampling takes 2 s and 100 tokens, an update 1 s and 60 tokens."""
    rows = []
    for step in range(every, count + 1, every):
        row: dict[str, float] = {"step": step, "loss": 0.0, "reward/autonomous": step / 10, "seconds/optimise": 1.0}
        row["tokens_per_second/optimise"] = 60.0
        if every > 1 or step % 2:
            row |= {"seconds/sample": 2.0, "tokens_per_second/sample": 50.0, "seconds/verify": 0.5}
        rows.append(row)
    return rows


BUDGET = {"samples": 12, "max_steps": 150, "problems_per_rollout": 16, "updates_per_rollout": 2}
ROWS = [
    result("b", None, "sft", [0.0, 0.5]),
    *(result("b", seed, "grpo", [0.5, 0.5], budget=BUDGET) for seed in (1, 2)),
    *(result("b", seed, "grpo-8", [0.25, 0.5], budget={**BUDGET, "samples": 8}) for seed in (1, 2)),
    result("b", 1, "sgpo", [0.5, 1.0], budget=BUDGET),
    result("b", 2, "sgpo", [1.0, 1.0], budget=BUDGET),
]
