"""The quality report as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from sgpo.reports.style import BLUE, INK, MUTED, ORANGE, SKY, STYLE
from sgpo.strategies.quality import CRITERIA, MEDIUM

NAMES = {
    "problem_type": "Problem type",
    "strategy": "Strategy",
    "steps": "Steps",
    "nothing_told": "Nothing told",
}
COLORS = {"High": BLUE, "Medium": SKY, "Low": ORANGE}
BINS = 20


def quality_table(report: Mapping[str, Any]) -> Table:
    """Grades with counts, shares and means, then the mean of each criterion."""
    table = Table("", "strategies", "share", "mean", title=f"Quality of {report['rated']} strategies")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, values in report["grades"].items():
        mean = "-" if values["mean"] is None else f"{values['mean']:.3f}"
        table.add_row(name, str(values["count"]), f"{100 * values['share']:.1f}%", mean)
    table.add_row("all", str(report["rated"]), "100.0%", f"{report['mean']:.3f}", style="bold", end_section=True)
    for name in CRITERIA:
        table.add_row(NAMES[name], "", "", f"{report['criteria'][name]:.3f}")
    return table


def quality_plot(report: Mapping[str, Any], output: Path) -> None:
    """Write a PNG: the distribution of the means, coloured by grade, and the mean of each criterion."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.2), dpi=160, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
        _distribution(left, report)
        _criteria(right, report)
        figure.suptitle(
            f"Quality of {report['rated']} strategies, mean {report['mean']:.2f}",
            x=0.012,
            ha="left",
            fontsize=14,
            fontweight="bold",
        )
        figure.savefig(output, facecolor="white")


def _distribution(axes: Any, report: Mapping[str, Any]) -> None:
    low = 0.0
    for name, high in (("Low", MEDIUM), ("Medium", report["thresholds"]["High"]), ("High", 1.0)):
        values = [row["mean"] for row in report["strategies"] if row["grade"] == name]
        bins = [low + (high - low) * i / round(BINS * (high - low)) for i in range(round(BINS * (high - low)) + 1)]
        axes.hist(values, bins=bins, color=COLORS[name], edgecolor="white", linewidth=0.8)
        entry = report["grades"][name]
        text = f"{name}\n{entry['count']} ({100 * entry['share']:.0f}%)"
        transform = axes.get_xaxis_transform()
        axes.text((low + high) / 2, 1.02, text, ha="center", color=COLORS[name], weight="bold", transform=transform)
        low = high
    for threshold in report["thresholds"].values():
        axes.axvline(threshold, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_xlim(0, 1)
    axes.grid(axis="x", visible=False)
    axes.tick_params(length=0)
    axes.set_xlabel("mean of the four criteria")
    axes.set_ylabel("strategies")


def _criteria(axes: Any, report: Mapping[str, Any]) -> None:
    names = list(reversed(CRITERIA))
    values = [report["criteria"][name] for name in names]
    axes.barh([NAMES[name] for name in names], values, color=MUTED, height=0.55)
    for height, value in enumerate(values):
        axes.text(value + 0.02, height, f"{value:.2f}", va="center", color=INK)
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.5, 1])
    axes.grid(axis="y", visible=False)
    axes.tick_params(length=0)
    axes.set_title("Mean of each criterion", loc="left", fontsize=11.5, color=INK)
