"""Token views that runs kept, and made-up ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from token_view_cases import ListTokenizer

from sgpo.inspection.page import InspectedAnswer, answer_data
from sgpo.inspection.texts import TokenNames, token_texts
from sgpo.runs.folder import views_path


def views_of(run: str | Path, step: int = 0) -> dict[str, dict[str, Any]]:
    """By the id of the problem."""
    return {view["id"]: view for view in json.loads(views_path(run, step).read_text())}


def assert_same_views(run: Path, other: Path) -> None:
    """Of the first rollout batch. Which targets of equal alpha are kept depends on the processes."""
    found, expected = views_of(run), views_of(other)
    assert len(found) == len(expected) > 0
    common = found.keys() & expected.keys()
    assert common
    for name in common:
        one, two = (views[name]["answer"] for views in (found, expected))
        assert one["texts"] == two["texts"]
        assert one["divergence"] == pytest.approx(two["divergence"], rel=1e-3, abs=1e-6)


def write_views(run: Path, step: int, answers: Sequence[InspectedAnswer], tokenizer: ListTokenizer) -> None:
    """The label of an answer is the id of its problem."""
    views = [
        {
            "step": step,
            "id": answer.label,
            "mean_divergence": float(answer.measures.divergence.mean()),
            "answer": answer_data(answer, token_texts(tokenizer, answer.ids), TokenNames(tokenizer), frozenset({0})),
        }
        for answer in answers
    ]
    path = views_path(run, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(views))
