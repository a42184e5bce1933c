"""`sgpo plot`: what a method reaches for which cost, how training goes, and scores with every seed's point.

Figures 3, 4 and 6 of arXiv:2606.24064 show entropy, reward, length and mean alpha over steps; Figure 5 mean KL and SFT
loss by step of a solution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgpo.comparison.results import CellResult, methods_of
from sgpo.comparison.step_picture import MOST_STEPS, MeasuredTarget, draw_steps, steps_caption
from sgpo.comparison.summary import MethodSummary, SetSummary, summarise
from sgpo.comparison.trajectories import Source, band
from sgpo.reports.style import BLUE, INK, MUTED, ORANGE, SKY, STYLE, write_figure

# Okabe and Ito's palette without its yellow, which is faint on white; distinct under every common colour blindness.
GREEN, PURPLE, AMBER, GREY = "#009E73", "#CC79A7", "#E69F00", "#7f7f7f"
PALETTE = (GREEN, PURPLE, AMBER, SKY)
OWN: Mapping[str, str] = {"sgpo": BLUE, "grpo": ORANGE, "sft": GREY, "sft-all": INK}  # in nearly every picture
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (6, 1.5, 1.2, 1.5)), (0, (2.5, 1.2)))
FORMATS = (".png", ".svg", ".pdf")
MANY = 5  # methods, above which bands would hide each other
COST_AXES = {"samples": "sampled completions", "trained_tokens": "trained tokens", "seconds": "seconds of training"}
DYNAMICS = {
    "surprisal": "Entropy of the policy, by its samples (nats a token)",  # of all tokens, unlike the metric entropy
    "reward/autonomous": "Reward on training problems",
    "length/autonomous": "Length of a completion (tokens)",
    "alpha": "Mean weight α of the distillation",
}


@dataclass(frozen=True)
class Look:
    """How a method is drawn, the same in all pictures. Example: ``Look("#0072B2", "-")``"""

    color: str
    dashes: Any


def looks_of(methods: Sequence[str]) -> dict[str, Look]:
    """Colours first; where they are used up, they come again with other dashes."""
    found = {name: Look(OWN[name], DASHES[0]) for name in methods if name in OWN}
    others = [name for name in methods if name not in OWN]
    for number, name in enumerate(others):
        found[name] = Look(PALETTE[number % len(PALETTE)], DASHES[number // len(PALETTE) % len(DASHES)])
    return found


def draw_all(source: Source, output: Path, *, methods: Sequence[str] = (), baseline: str = "grpo") -> list[Path]:
    """Write every picture that the rows have something for, as PNG, SVG and PDF; returns the PNGs.

    Raises:
        ValueError: a method without results.
    """
    known = methods_of(source.rows)
    if unknown := [name for name in methods if name not in known]:
        raise ValueError(f"there are no results of {unknown[0]}; there are some of {', '.join(known)}")
    names = [name for name in (methods or known) if name in known]
    rows = {name: [row for row in source.rows if row["method"] == name and row.get("curves")] for name in names}
    rows = {name: of_method for name, of_method in rows.items() if of_method}
    looks = looks_of(names)
    output.mkdir(parents=True, exist_ok=True)
    drawn = []
    if rows:
        drawn += [
            cost_picture(rows, looks, output / "cost.png"),
            dynamics_picture(rows, looks, output / "dynamics.png"),
        ]
    if source.target is not None:
        drawn.append(steps_picture(source.target, output / "steps.png"))
    if source.scored:
        base = baseline if baseline in names else names[0]
        summaries = summarise(source.rows, base, names)
        drawn.append(scores_picture(summaries, looks, base, output / "scores.png"))
    return drawn


# ---------------------------------------------------------------------- over cost, over steps


def cost_picture(rows: Mapping[str, Sequence[CellResult]], looks: Mapping[str, Look], path: Path) -> Path:
    """Score on the development problems, or else the training reward, over samples, trained tokens and seconds."""
    part, metric = "dev", "score"
    title = "Solved development problems, without strategies (%)"
    if not any(band(of_method, part, metric) for of_method in rows.values()):
        part, metric, title = "curves", "reward/autonomous", "Reward on training problems, without strategies (%)"

    def draw(figure: Any) -> list[Any]:
        axes = figure.subplots(1, len(COST_AXES), sharey=True)
        for panel, (x, label) in zip(axes, COST_AXES.items(), strict=True):
            handles = _lines(panel, rows, looks, part, metric, x=x, scale=100, smooth=part == "curves")
            panel.set_xlabel(label)
            panel.set_xlim(left=0)
            _thousands(panel)
        axes[0].set_title(title, loc="left", fontsize=11.5, color=INK)
        return handles

    caption = " ".join(filter(None, (_lines_caption(rows, smooth=part == "curves"), _bands(rows))))
    return _picture(path, (12, 4.6), "The same samples are not the same cost", caption, draw)


def dynamics_picture(rows: Mapping[str, Sequence[CellResult]], looks: Mapping[str, Look], path: Path) -> Path:
    """Entropy, reward, length and mean alpha over steps."""
    guided = len(rows) <= MANY and any(band(each, "curves", "reward/guided") for each in rows.values())
    shown = [name for name in DYNAMICS if any(band(of_method, "curves", name) for of_method in rows.values())]

    def draw(figure: Any) -> list[Any]:
        panels = figure.subplots(2, 2, sharex=True).flatten()
        handles: list[Any] = []
        for panel, name in zip(panels, shown, strict=False):
            handles = [*handles, *_lines(panel, rows, looks, "curves", name, smooth=True)]
            panel.set_title(DYNAMICS[name], loc="left", fontsize=11.5, color=INK)
            if name in ("surprisal", "alpha"):
                panel.set_ylim(bottom=0)
            if name == "reward/autonomous" and guided:
                _lines(panel, rows, looks, "curves", "reward/guided", smooth=True, guided=True)
        for panel in panels[len(shown) :]:
            panel.set_visible(False)
        for panel in panels[max(0, len(shown) - 2) : len(shown)]:  # the lowest of each column
            panel.set_xlabel("training step")
            panel.xaxis.set_tick_params(labelbottom=True)
        return handles

    note = "Dotted: with the strategy in the prompt." if guided else ""
    caption = " ".join(filter(None, (_lines_caption(rows, smooth=True), _bands(rows), note)))
    return _picture(path, (12, 7.4), "Training dynamics", caption, draw)


def _lines(
    axes: Any,
    rows: Mapping[str, Sequence[CellResult]],
    looks: Mapping[str, Look],
    part: str,
    metric: str,
    *,
    x: str = "step",
    scale: float = 1,
    smooth: bool = False,
    guided: bool = False,
) -> list[Any]:
    """The mean of each method with its band; returns what the legend shows."""
    handles = []
    for name, of_method in rows.items():
        found, look = band(of_method, part, metric, x, smooth=smooth), looks[name]
        if found is None:
            continue
        style = (
            {"linewidth": 1.3, "linestyle": (0, (1, 1.6))} if guided else {"linewidth": 2.2, "linestyle": look.dashes}
        )
        (line,) = axes.plot(found.x, scale * found.mean, color=look.color, label=name, **style)
        if found.cells > 1 and len(rows) <= MANY and not guided:
            axes.fill_between(found.x, scale * found.low, scale * found.high, color=look.color, alpha=0.14, linewidth=0)
        handles.append(line)
    axes.tick_params(length=0)
    axes.margins(x=0.01)
    return handles


def _thousands(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    def short(value: float, _: Any) -> str:
        for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= size:
                return f"{value / size:g}{unit}"
        return f"{value:g}"

    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _bands(rows: Mapping[str, Sequence[CellResult]]) -> str:
    if max(map(len, rows.values())) < 2 or len(rows) > MANY:
        return ""
    return "Bands: the smallest and the largest."


def _lines_caption(rows: Mapping[str, Sequence[CellResult]], *, smooth: bool) -> str:
    repeated = repetitions([(row["base"], row["seed"]) for row in of_method] for of_method in rows.values())
    lines = f"Lines: means over {' and '.join(repeated)}" if repeated else "Lines: single runs"
    return f"{lines}, moving means over steps." if smooth else f"{lines}."


def repetitions(cells_of_methods: Iterable[Iterable[tuple[str, int | None]]]) -> list[str]:
    """In what the cells of a method differ, of which each is a base model with a seed; empty for single runs."""
    methods = [list(cells) for cells in cells_of_methods]
    bases = any(len({base for base, _ in cells}) > 1 for cells in methods)
    seeds = any(len(cells) > len({base for base, _ in cells}) for cells in methods)
    return [name for name, several in (("base models", bases), ("seeds", seeds)) if several]


def steps_picture(target: MeasuredTarget, path: Path) -> Path:
    """Mean KL and SFT loss by step of one target."""
    height = 0.62 * min(len(target.steps), MOST_STEPS) + 1.9

    def draw(figure: Any) -> list[Any]:
        return draw_steps(figure.subplots(), target)

    return _picture(path, (12, height), "Where guidance changes the policy", steps_caption(target), draw)


# ---------------------------------------------------------------------- scores


def scores_picture(sets: Sequence[SetSummary], looks: Mapping[str, Look], baseline: str, path: Path) -> Path:
    """For each set: every cell's score with the mean, and beside it the difference to the baseline."""
    most = max(len(each.lines) for each in sets)

    def draw(figure: Any) -> list[Any]:
        panels = figure.subplots(len(sets), 2, squeeze=False, width_ratios=[1.25, 1])
        for (left, right), each in zip(panels, sets, strict=True):
            _scores(left, each, looks)
            _differences(right, each, looks, baseline)
        panels[-1][0].set_xlabel("% of problems solved")
        panels[-1][1].set_xlabel("points")
        return []

    repeated = repetitions(line.scores for each in sets for line in each.lines)
    weighed = ", base models weighing equally" if len(repeated) == 2 else ""
    dots = f"Dots: single runs; ticks: their mean{weighed}." if repeated else "Dots: single runs."
    over = "seeds and problems" if "seeds" in repeated else "problems"
    caption = f"{dots} Right: difference on the same problems, with a 95% interval\nover {over}, for these base models."
    height = len(sets) * (0.62 + 0.34 * most) + 1.6
    return _picture(path, (12, height), "Scores without strategies", caption, draw)


def _scores(axes: Any, each: SetSummary, looks: Mapping[str, Look]) -> None:
    for place, line in enumerate(each.lines):
        color = looks[line.method].color
        values = [100 * score for score in line.scores.values()]
        axes.plot(values, _beside(place, len(values)), "o", color=color, alpha=0.55, markersize=5.5, markeredgewidth=0)
        axes.plot([100 * line.mean] * 2, [place - 0.32, place + 0.32], color=color, linewidth=2.6)
        axes.annotate(
            f"{100 * line.mean:.1f}",
            (1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=color,
            fontweight="bold",
        )
    title = "average of the sets" if each.k is None else f"{each.name} ({each.problems} problems, avg@{each.k})"
    axes.set_title(title, loc="left", fontsize=11.5, color=INK)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.12 * (high - low))
    _rows_of_methods(axes, each.lines)


def _beside(place: int, count: int) -> list[float]:
    """Heights of a row's dots, a little apart, so that equal scores are seen."""
    return [place + 0.36 * ((number + 0.5) / count - 0.5) for number in range(count)]


def _differences(axes: Any, each: SetSummary, looks: Mapping[str, Look], baseline: str) -> None:
    axes.axvline(0, color=INK, linewidth=1)
    for place, line in enumerate(each.lines):
        if line.difference is None:
            if line.method == baseline:
                axes.annotate(baseline, (0, place), xytext=(6, 0), textcoords="offset points", va="center", color=MUTED)
            continue
        color = looks[line.method].color
        low, high = (100 * value for value in line.difference.interval)
        axes.plot([low, high], [place, place], color=color, linewidth=2.2, solid_capstyle="round")
        axes.plot([100 * line.difference.mean], [place], "o", color=color, markersize=7, markeredgecolor="white")
    axes.set_title(f"minus {baseline}", loc="left", fontsize=11.5, color=INK)
    _rows_of_methods(axes, each.lines, named=False)


def _rows_of_methods(axes: Any, lines: Sequence[MethodSummary], *, named: bool = True) -> None:
    axes.set_ylim(len(lines) - 0.45, -0.55)
    axes.set_yticks(range(len(lines)), [line.method for line in lines] if named else [""] * len(lines))
    if named:
        for label in axes.get_yticklabels():
            label.set_color(INK)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)


# ---------------------------------------------------------------------- one picture


def _picture(path: Path, size: tuple[float, float], title: str, caption: str, draw: Callable[[Any], list[Any]]) -> Path:
    """Title on top, below it one legend for all panels, at the bottom what is shown."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08, wspace=0.03, hspace=0.06)
        figure = Figure(figsize=size, dpi=160, layout=layout)
        handles = {handle.get_label(): handle for handle in draw(figure)}
        if handles:
            figure.legend(
                handles.values(),
                handles.keys(),
                loc="outside upper left",
                ncols=min(len(handles), 8),
                frameon=False,
                handlelength=2.2,
                title=title,
                title_fontproperties={"size": 15, "weight": "bold"},
                alignment="left",
            )
        else:
            figure.suptitle(title, x=0.012, ha="left", fontsize=15, fontweight="bold")
        figure.supxlabel(caption, x=0.012, ha="left", fontsize=10, color=MUTED)
        write_figure(figure, path, FORMATS)
    return path
