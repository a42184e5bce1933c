"""How every picture looks: colours, sizes, labels that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Okabe and Ito's palette: distinct under every common colour blindness.
BLUE, ORANGE, SKY = "#0072B2", "#D55E00", "#56B4E9"
INK, MUTED, GRID = "#222222", "#6b6b6b", "#e6e6e6"
STYLE = {
    "font.size": 11,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": "#bbbbbb",
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "svg.fonttype": "none",  # text stays text
}


def smoothed(values: Sequence[float]) -> list[float]:
    """Means over a centred window of about a sixth of the run; centred, so that no rise seems to come late."""
    half = len(values) // 12
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def spread_labels(heights: Sequence[float], gap: float) -> list[float]:
    """The heights, moved up where needed so that labels standing at them keep a distance of `gap`."""
    placed = list(heights)
    lowest = float("-inf")
    for index in sorted(range(len(placed)), key=lambda i: placed[i]):
        placed[index] = max(placed[index], lowest + gap)
        lowest = placed[index]
    return placed


def write_figure(figure: Any, output: Path, suffixes: Sequence[str] = (".png", ".svg")) -> None:
    """In several formats beside each other."""
    for suffix in suffixes:
        figure.savefig(output.with_suffix(suffix), facecolor="white")
