"""The page of `sgpo report`: runs at a glance, from their folders, in one file that needs no network."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgpo.reports.page import page
from sgpo.reports.run_completions import (
    BUDGET,
    RULE,
    SampledProblem,
    cut,
    gains_by_type,
    kept_problems,
    read_sampled,
)
from sgpo.reports.run_evaluations import ANSWERS_RULE, compared_answers
from sgpo.reports.run_folder import RunFolder, Score, scores_of, scores_of_evaluation
from sgpo.reports.run_views import VIEWS_RULE, kept_views
from sgpo.reports.token_view import EXPLAINED, PLACE, token_view

HERE = Path(__file__)
MOST_POINTS = 600  # of a curve; a longer one is drawn as means of equally many neighbours
DIGITS = 4
GROUPS = ("autonomous", "guided")
MOST_TYPES = 40  # of problems, in the table of gains


@dataclass(frozen=True)
class Chart:
    """Example: ``Chart("Entropy", "nats a token", {"entropy": ""})``; `lines` maps metrics to the words beside them."""

    title: str
    unit: str
    lines: Mapping[str, str]
    top: float | None = None  # of the axis, for shares


CHARTS = (
    Chart("Reward", "mean of a completion", {"reward/autonomous": "autonomous", "reward/guided": "guided"}),
    Chart(
        "Pass rate",
        "share correct",
        {"pass_rate/autonomous": "autonomous, p_auto", "pass_rate/guided": "guided, p_guide"},
        top=1.0,
    ),
    Chart("Weight of the distillation", "α, mean", {"alpha": "all", "alpha_with_target": "with a target"}),
    Chart("Problems with a target", "share", {"target_share": "with a target", "zero_variance_share": "equal rewards"}),
    Chart("Divergence of the targets", "KL, nats a token", {"divergence": "mean dₜ"}),
    Chart("Masked", "share of the targets' tokens above delta", {"divergence_masked_share": "masked"}),
    Chart("Entropy", "nats a token", {"entropy": "of the policy"}),
    Chart("Length", "tokens a completion", {"length/autonomous": "autonomous", "length/guided": "guided"}),
    Chart("Truncated", "share of completions", {"truncated/autonomous": "autonomous", "truncated/guided": "guided"}),
    Chart("Gradient norm", "before clipping", {"grad_norm": "norm"}),
    Chart("Clipped", "share of tokens", {"clipped_share": "clipped"}),
    Chart(
        "Seconds by phase",
        "of an occasion",
        {
            "seconds/sample": "sample",
            "seconds/optimise": "optimise",
            "seconds/assemble": "assemble",
            "seconds/verify": "verify",
        },
    ),
)
FIRST_OPTIONS = (
    *("method", "model", "problems", "eval_problems", "max_steps", "num_train_epochs", "problems_per_rollout"),
    *("updates_per_rollout", "num_autonomous", "num_guided", "learning_rate", "lr_scheduler_type", "warmup_steps"),
    *("temperature", "top_p", "max_completion_length", "delta", "alpha_rule", "alpha_scale", "alpha_max", "eps_low"),
    *("eps_high", "sampler", "use_peft", "seed"),
)


def run_report(runs: Sequence[RunFolder], evaluations: Mapping[str, Path] | None = None, *, refresh: int = 0) -> str:
    """The page as HTML.

    Args:
        evaluations: folders of `sgpo eval` by name, whose scores and answers stand beside; the first one is before
            training, the last one after it.
        refresh: seconds after which the page loads itself again; 0 for never.

    Raises:
        ValueError: a table of completions, token views, or an evaluation, that cannot be read.
    """
    evaluations = evaluations or {}
    views = kept_views(runs)
    scores = [score for name, folder in evaluations.items() for score in scores_of_evaluation(folder, name)]
    answers, answered = compared_answers(list(evaluations.values())) if len(evaluations) > 1 else ([], 0)
    problems: list[SampledProblem] = []
    kept: list[dict[str, Any]] = []
    for number, run in enumerate(runs):
        tables = [read_sampled(path, number) for path in run.completions]
        problems += [problem for table in tables for problem in table]
        kept += kept_problems(tables, BUDGET // len(runs))
    data = {
        "runs": [_run_data(run, [each for each in problems if each.run == n]) for n, run in enumerate(runs)],
        "scores": [_score_data(score, run.name if len(runs) > 1 else "") for run in runs for score in scores_of(run)]
        + [_score_data(score, "") for score in scores],
        "charts": [found for chart in _charts(runs) if (found := chart_data(chart, runs))["lines"]],
        "problems": kept,
        "rule": RULE,
        "targets": {"answers": [label for label, _ in views], "explained": EXPLAINED, "rule": VIEWS_RULE},
        "evaluations": [cut(name) for name in evaluations],
        "answers": answers,
        "answered": answered,
        "answers_rule": ANSWERS_RULE,
        "refresh": refresh,
        "written": time.time(),
    }
    own = {kind: HERE.with_name(f"run.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")}
    title = ", ".join(run.name for run in runs)
    return page(
        f"{title} · training report",
        own["html"].replace(PLACE, token_view("html")),
        style=token_view("css") + own["css"],
        script=token_view("js") + own["js"],
        data={"report": data} | {f"view-{number}": answer for number, (_, answer) in enumerate(views)},
    )


def _run_data(run: RunFolder, problems: Sequence[SampledProblem]) -> dict[str, Any]:
    config = {key: run.config[key] for key in FIRST_OPTIONS if key in run.config}
    config |= {key: value for key, value in run.config.items() if key not in config}
    gains = gains_by_type(problems)
    both = [problem for problem in problems if problem.gain is not None]
    return {
        "name": cut(run.name),
        "folder": cut(str(run.folder)),
        "updates": run.updates,
        "finished": run.is_finished,
        "seconds": next((line["train_runtime"] for line in reversed(run.lines) if "train_runtime" in line), None),
        "method": cut(str(run.config.get("method", ""))),
        "first": sum(key in run.config for key in FIRST_OPTIONS),
        "config": [[cut(key), cut(_value(value))] for key, value in config.items()],
        "data": [
            [cut(str(part)), cut(f"{each.get('problems', '?')} of {each.get('source', '?')}"), cut(_print_of(each))]
            for part, each in run.data.items()
            if isinstance(each, dict)
        ],
        "versions": [[cut(name), cut(number)] for name, number in run.versions],
        "types": gains[:MOST_TYPES],
        "types_left_out": max(0, len(gains) - MOST_TYPES),
        "sampled": len(problems),
        "both": len(both),
        "unlocked": sum(problem.is_unlocked for problem in problems),
        "tables": len(run.completions),
    }


def _print_of(data: Mapping[str, Any]) -> str:
    return f"fingerprint {data['fingerprint']}" if "fingerprint" in data else ""


def _value(value: Any) -> str:
    return value if isinstance(value, str) else "–" if value is None else str(value)


def _score_data(score: Score, run: str) -> dict[str, Any]:
    return {
        "label": cut(f"{run}: {score.label}" if run else score.label),
        "mean": score.mean,
        "interval": score.interval,
        "detail": cut(score.detail),
    }


def _charts(runs: Sequence[RunFolder]) -> list[Chart]:
    """Evaluations during training, those above, and the means of several reward functions.

    Pass rates are left out where they are the rewards.
    """
    names = {key for run in runs for line in run.lines for key in line}
    scores = {name: name.removeprefix("eval_") for name in sorted(names) if name.startswith("eval_avg_at_")}
    rewards = {
        name: name.split("/")[1] for name in sorted(names) if name.startswith("rewards/") and name.endswith("/mean")
    }
    same = all(run.values(f"pass_rate/{each}") == run.values(f"reward/{each}") for run in runs for each in GROUPS)
    return [
        *([Chart("Evaluation without strategies", "mean over the eval problems", scores)] if scores else []),
        *(chart for chart in CHARTS if not (same and chart.title == "Pass rate")),
        *([Chart("Reward functions", "mean", rewards)] if len(rewards) > 1 else []),
    ]


def chart_data(chart: Chart, runs: Sequence[RunFolder]) -> dict[str, Any]:
    """Title, unit and lines; a run without the metric has no line."""
    lines = []
    for number, run in enumerate(runs):
        for place, (metric, words) in enumerate(chart.lines.items()):
            steps, values = thinned(*run.values(metric))
            if steps:
                x = [_short(step) for step in steps]
                y = [_short(value) for value in values]
                lines.append({"run": number, "place": place, "words": cut(words), "x": x, "y": y})
    return {"title": chart.title, "unit": chart.unit, "top": chart.top, "lines": lines}


def thinned(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most `MOST_POINTS` points: means over neighbours, at the last of their steps."""
    each = -(-len(steps) // MOST_POINTS) or 1
    groups = [values[start : start + each] for start in range(0, len(values), each)]
    last = [steps[min(start + each, len(steps)) - 1] for start in range(0, len(steps), each)]
    return last, [sum(group) / len(group) for group in groups]


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}") if value != int(value) else int(value)
