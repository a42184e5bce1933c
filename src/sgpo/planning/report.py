"""A plan for the terminal, and as JSON."""

from __future__ import annotations

from typing import Any

from sgpo.files import readable_size
from sgpo.planning.plan import StagePlan
from sgpo.planning.scenario import PlannedFor
from sgpo.screen import amount


def text_of(given: PlannedFor, plan: StagePlan, advice: list[str]) -> str:
    """The lines of one stage."""
    lines = [f"{plan.name}: {'; '.join(plan.notes)}"]
    for phase, parts in plan.phases.items():
        whole = sum(parts.values())
        of = f"each of {plan.ranks} ranks" if plan.ranks > 1 else "the GPU"
        lines.append(f"  memory of {of}, {phase}: {readable_size(whole)} of {readable_size(plan.room)}")
        lines += [f"    {name:<28}{readable_size(size):>10}" for name, size in parts.items() if size]
    if plan.tokens:
        lines.append(f"  tokens: {', '.join(f'{amount(count)} {name}' for name, count in plan.tokens.items())}")
    if plan.requests:
        lines.append(f"  requests to the strong model: {plan.requests:,}")
    if plan.hours:
        parts_of_time = ", ".join(f"{name} {hours:,.1f}" for name, hours in plan.hours.items())
        on = "GPU" if plan.ranks == 1 else "GPUs"
        lines.append(f"  hours: {plan.total_hours:,.1f} on {plan.ranks} {on} ({parts_of_time})")
    if plan.disk:
        lines.append(f"  disk: {readable_size(plan.disk)}")
    if plan.cost is not None:
        lines.append(f"  cost: ${plan.cost:,.0f}")
    if advice:
        lines.append("  DOES NOT FIT. One of these makes it fit:")
        lines += [f"    - {text}" for text in advice]
    return "\n".join(lines)


def sums_of(plans: list[StagePlan]) -> str:
    hours, cost = sum(plan.total_hours for plan in plans), sum(plan.cost or 0.0 for plan in plans)
    gpu_hours = sum(plan.total_hours * plan.ranks for plan in plans)
    return f"together: {hours:,.1f} hours, {gpu_hours:,.0f} GPU-hours, ${cost:,.0f}"


def data_of(given: PlannedFor, plan: StagePlan, advice: list[str]) -> dict[str, Any]:
    """For --json: bytes, tokens, hours of the clock, US dollars."""
    return {
        "stage": plan.name,
        "fits": plan.fits,
        "ranks": plan.ranks,
        "sharding": given.sharding,
        "room_bytes": plan.room,
        "peak_bytes": plan.peak,
        "memory_bytes": plan.phases,
        "tokens": plan.tokens,
        "requests": plan.requests,
        "hours": plan.hours,
        "disk_bytes": plan.disk,
        "cost_usd": plan.cost,
        "notes": list(plan.notes),
        "remedies": advice,
    }
