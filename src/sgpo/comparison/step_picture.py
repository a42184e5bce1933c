"""Where guidance changes a policy: mean KL and SFT loss of each step of one target, as Figure 5 of arXiv:2606.24064.

Of the targets that a run keeps token by token (`sgpo.training.token_views`), the one of largest mean divergence.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sgpo.reports.run_views import read_views
from sgpo.reports.style import BLUE, INK, ORANGE
from sgpo.runs.folder import views_in

MOST_STEPS = 16
WIDTH, LINES = 52, 2  # of a step's text: characters of a line, lines


@dataclass(frozen=True)
class MeasuredStep:
    """Example: ``MeasuredStep("(a) split: 54/3=18", 0.102, 0.28)``; means over the step's tokens, in nats."""

    text: str
    divergence: float
    sft_loss: float


@dataclass(frozen=True)
class MeasuredTarget:
    """A target of a run. Example: ``MeasuredTarget("sgpo", 50, "rl-7", [MeasuredStep(...), ...])``"""

    run: str
    updates: int  # of the policy that sampled it
    problem: str
    steps: Sequence[MeasuredStep]


def largest_target(folders: Sequence[Path]) -> MeasuredTarget | None:
    """Of all that the runs keep; None if they keep none. Raises ValueError for a file that cannot be read."""
    views = [(folder, view) for folder in folders for path in views_in(folder).values() for view in read_views(path)]
    if not views:
        return None
    folder, view = max(views, key=lambda each: each[1].mean_divergence)
    answer = view.answer
    steps = [
        MeasuredStep(
            "".join(answer["texts"][start:end]).strip(),
            fmean(answer["divergence"][start:end]),
            fmean(answer["sft"][start:end]),
        )
        for start, end in answer["steps"]
    ]
    return MeasuredTarget(folder.resolve().name, view.step, view.id, steps)


def draw_steps(axes: Any, target: MeasuredTarget) -> list[Any]:
    """Two bars a step beside its text; returns what the legend shows."""
    steps = target.steps[:MOST_STEPS]
    places = range(len(steps))
    kinds = (
        ("mean KL, with strategy ‖ without", ORANGE, -0.19, [step.divergence for step in steps]),
        ("mean SFT loss", BLUE, 0.19, [step.sft_loss for step in steps]),
    )
    handles = []
    for label, color, offset, values in kinds:
        handles.append(axes.barh([place + offset for place in places], values, 0.36, color=color, label=label))
        for place, value in zip(places, values, strict=True):
            axes.annotate(
                f"{value:.2g}",
                (value, place + offset),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=color,
            )
    axes.set_yticks(places, [_wrapped(step.text) for step in steps])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)  # a dollar sign of an answer is one
        text.set_color(INK)
    axes.set_ylim(len(steps) - 0.45, -0.55)
    axes.set_xlim(left=0)
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")
    axes.tick_params(length=0)
    axes.set_xlabel("nats a token")
    return handles


def steps_caption(target: MeasuredTarget) -> str:
    left_out = len(target.steps) - MOST_STEPS
    cut = f" The first {MOST_STEPS} of {len(target.steps)} steps." if left_out > 0 else ""
    return (
        f"Target of problem {target.problem}, by the policy of {target.run} after {target.updates} updates: of the "
        f"kept ones that of largest mean KL.{cut}"
    )


def _wrapped(text: str) -> str:
    lines = textwrap.wrap(text, WIDTH) or ["↵"]
    return "\n".join(lines if len(lines) <= LINES else [*lines[: LINES - 1], f"{lines[LINES - 1][: WIDTH - 2]} …"])
