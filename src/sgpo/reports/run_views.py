"""Which targets of a run a page shows token by token; training keeps them, see `sgpo.training.token_views`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgpo.reports.page import script_json, shown_text
from sgpo.reports.run_completions import cut
from sgpo.reports.run_folder import RunFolder
from sgpo.runs.folder import views_in

MOST_VIEWS = 6  # of a page
VIEWS_BUDGET = 700_000  # bytes of JSON of all views of a page
VIEWS_RULE = (
    "The numbers are those of the policy that sampled the target, before the update. With each table of completions "
    "training keeps up to four targets, those of the largest α, and the first 1,000 tokens of each. Here are at most "
    f"{MOST_VIEWS} of them: one of the first table, one of the last, one of each other, and so on; within a table the "
    f"largest mean dₜ comes first. Together they fill at most {VIEWS_BUDGET / 1e6:.1f} MB."
)
LONG_TEXTS, NUMBERS = ("problem", "strategy"), ("divergence", "sft", "entropy", "guided_entropy", "p", "guided_p")


@dataclass(frozen=True)
class TargetView:
    """A target, token by token. Example: ``TargetView(50, "rl-7", 0.31, {"texts": ["So", ...], ...})``

    `answer` is what `sgpo.inspection.page.answer_data` made of it.
    """

    step: int
    id: str
    mean_divergence: float
    answer: dict[str, Any]

    @property
    def label(self) -> str:
        return f"after {self.step} updates: {self.id}, mean dₜ {self.mean_divergence:.2g}"


def read_views(path: Path) -> list[TargetView]:
    """Of a rollout batch, the largest mean divergence first. Raises ValueError for a file of something else."""
    try:
        found = [
            TargetView(int(each["step"]), str(each["id"]), float(each["mean_divergence"]), _checked(each["answer"]))
            for each in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no token views of sgpo train: {error!r}; delete it") from error
    return sorted(found, key=lambda view: -view.mean_divergence)


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    """With texts that may be shown. Raises ValueError where the numbers are not those of its tokens."""
    count = len(answer["texts"])
    for name in NUMBERS:
        if len(answer[name]) != count or not all(isinstance(each, int | float) for each in answer[name]):
            raise ValueError(f"{name} are not numbers of {count} tokens")
    shown = {name: [shown_text(str(text)) for text in answer[name]] for name in ("texts", "names")}
    facts = [cut(str(fact)) for fact in answer["facts"]]
    return answer | shown | {"facts": facts} | {name: cut(str(answer[name])) for name in LONG_TEXTS}


def kept_views(
    runs: Sequence[RunFolder], most: int = MOST_VIEWS, budget: int = VIEWS_BUDGET
) -> list[tuple[str, dict[str, Any]]]:
    """What `VIEWS_RULE` keeps, run by run in the order of the steps: label and data of each.

    Raises ValueError as `read_views`.
    """
    kept: list[tuple[int, TargetView]] = []
    size = 0
    for number, view in _in_turn([_in_order(run) for run in runs]):
        if len(kept) < most and size + (length := len(script_json(view.answer))) <= budget:
            size += length
            kept.append((number, view))
    kept.sort(key=lambda each: (each[0], each[1].step, -each[1].mean_divergence))
    names = [f"{run.name}, " if len(runs) > 1 else "" for run in runs]
    return [(cut(names[number] + view.label), view.answer) for number, view in kept]


def _in_order(run: RunFolder) -> Iterator[TargetView]:
    """One view of each rollout batch in turn; the first rollout batch and the last one lead."""
    batches = [read_views(path) for path in views_in(run.folder).values()]
    ordered = [*batches[:1], *batches[1:][-1:], *batches[1:-1]]
    return (view for layer in itertools.zip_longest(*ordered) for view in layer if view is not None)


def _in_turn(views: Sequence[Iterator[TargetView]]) -> Iterator[tuple[int, TargetView]]:
    """One view of each run in turn, with the number of its run."""
    for layer in itertools.zip_longest(*views):
        yield from ((number, view) for number, view in enumerate(layer) if view is not None)
