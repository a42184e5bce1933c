"""Pictures of training runs, drawn from their metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgpo.reports.style import BLUE, INK, MUTED, ORANGE, SKY, STYLE, smoothed, spread_labels, write_figure

MetricLines = list[dict[str, Any]]


@dataclass(frozen=True)
class Curve:
    """One metric of one run. Example: ``Curve("sgpo", "reward/guided", "guided", SKY, dashed=True)``"""

    run: str
    metric: str
    label: str
    color: str
    dashed: bool = False


REWARDS = (
    Curve("sgpo", "reward/guided", "SGPO\nguided", SKY, dashed=True),
    Curve("sgpo", "reward/autonomous", "SGPO", BLUE),
    Curve("grpo", "reward/autonomous", "GRPO", ORANGE),
)
TITLE = "SGPO and GRPO, trained from the same checkpoint on the same problems"
CAPTION = (
    "Dots: single steps. Lines: moving means. Guided completions have the strategy in their prompt; "
    "all others see the bare problem."
)
ALPHA = (Curve("sgpo", "alpha", "SGPO", BLUE),)
ENTROPY = (
    Curve("sgpo", "entropy", "SGPO", BLUE),
    Curve("grpo", "entropy", "GRPO", ORANGE),
)


def read_metrics(path: Path) -> MetricLines:
    """The lines of a metrics.jsonl. The last one may be half written while the run goes on; it is left out then."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def series(rows: MetricLines, metric: str) -> tuple[list[float], list[float]]:
    """Steps and values of a metric, where it was logged."""
    found = [(row["step"], row[metric]) for row in rows if metric in row and "step" in row]
    return [step for step, _ in found], [value for _, value in found]


def training_plot(runs: Mapping[str, Path], output: Path) -> None:
    """Write `output`.png and .svg: rewards, alpha and entropy of an SGPO and a GRPO run over steps.

    Args:
        runs: the metrics.jsonl of "sgpo" and "grpo"; a run that is missing is left out.
        output: path of the PNG; the SVG lies beside it.
    """
    import matplotlib  # half a second; reading metrics needs none of it
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = {name: read_metrics(path) for name, path in runs.items()}
    with matplotlib.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08, wspace=0.03, hspace=0.06)
        figure = Figure(figsize=(11, 5.6), dpi=160, layout=layout)
        axes: dict[str, Any] = figure.subplot_mosaic(
            [["reward", "alpha"], ["reward", "entropy"]], width_ratios=[1.75, 1]
        )
        _panel(axes["reward"], rows, REWARDS, "Reward on training problems", top=1.02)
        _panel(axes["alpha"], rows, ALPHA, "Weight α of the distillation", labelled=False)
        _panel(axes["entropy"], rows, ENTROPY, "Entropy of the policy (nats a token)")
        axes["alpha"].tick_params(labelbottom=False)
        for name in ("reward", "entropy"):
            axes[name].set_xlabel("training step")
        figure.suptitle(TITLE, x=0.012, ha="left", fontsize=15, fontweight="bold")
        figure.supxlabel(CAPTION, x=0.012, ha="left", fontsize=10, color=MUTED)
        write_figure(figure, output)


def _panel(
    axes: Any,
    rows: Mapping[str, MetricLines],
    lines: Sequence[Curve],
    title: str,
    *,
    top: float | None = None,
    labelled: bool = True,
) -> None:
    """Faint raw points, a smoothed line over them, and its name at its right end."""
    ends: list[tuple[Curve, float, float]] = []
    for line in lines:
        steps, values = series(rows.get(line.run, []), line.metric)
        if not steps:
            continue
        mean = smoothed(values)
        axes.plot(steps, values, ".", color=line.color, alpha=0.3, markersize=5, markeredgewidth=0)
        axes.plot(
            steps,
            mean,
            color=line.color,
            linewidth=2.4,
            linestyle=(0, (4, 1.5)) if line.dashed else "-",
            solid_capstyle="round",
        )
        ends.append((line, steps[-1], mean[-1]))
    axes.set_title(title, loc="left", fontsize=11.5, color=INK)
    axes.set_ylim(bottom=0.0, top=top)
    axes.margins(x=0.01)
    axes.tick_params(length=0)
    if labelled:
        _label_ends(axes, ends)


def _label_ends(axes: Any, ends: Sequence[tuple[Curve, float, float]]) -> None:
    low, high = axes.get_ylim()
    last = max((step for _, step, _ in ends), default=0.0)
    heights = spread_labels([height for _, _, height in ends], gap=(high - low) * 14 / (axes.bbox.height * 72 / 160))
    for (line, _, _), height in zip(ends, heights, strict=True):
        axes.annotate(
            line.label,
            (last, height),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=line.color,
            fontweight="bold",
            annotation_clip=False,
        )
