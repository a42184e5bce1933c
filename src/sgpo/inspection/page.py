"""The token view of some answers: one HTML file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sgpo.inspection.kinds import DOMINANT, STYLE, kinds_of, shares_of
from sgpo.inspection.measure import Side, TokenMeasures
from sgpo.inspection.texts import TokenNames, TokenText, steps_of, token_texts
from sgpo.methods.terms import divergence_mask
from sgpo.reports.page import page, shown_text
from sgpo.reports.token_view import EXPLAINED, PLACE, token_view

HERE = Path(__file__)
DIGITS = 4  # significant ones of a number in the page


@dataclass(frozen=True)
class InspectedAnswer:
    """An answer with all that the page shows of it.

    Example: ``InspectedAnswer("17", "Compute 1+2", "Problem type: ...", ["correct"], ids, measures, None, 1.0)``
    """

    label: str
    problem: str
    strategy: str
    facts: Sequence[str]
    ids: Sequence[int]
    measures: TokenMeasures
    after: Tensor | None  # [T] log-probabilities under the other model, without the strategy
    delta: float


def inspection_page(
    answers: Sequence[InspectedAnswer], tokenizer: Any, *, subtitle: str, other_label: str = "after training"
) -> str:
    """HTML of a page that shows one of the answers at a time.

    Args:
        subtitle: what model this is.
        other_label: what `after` is called.
    """
    names = TokenNames(tokenizer)
    data: dict[str, Any] = {
        "index": {
            "answers": [shown_text(each.label) for each in answers],
            "subtitle": shown_text(subtitle),
            "explained": EXPLAINED,
            "other_label": shown_text(other_label),
        }
    }
    special = frozenset(tokenizer.all_special_ids)
    for number, each in enumerate(answers):
        data[f"answer-{number}"] = answer_data(each, token_texts(tokenizer, each.ids), names, special)
    own = {kind: HERE.with_name(f"inspect.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")}
    return page(
        f"Token divergence: {answers[0].label}" if len(answers) == 1 else "Token divergence",
        own["html"].replace(PLACE, token_view("html")),
        style=token_view("css") + own["css"],
        script=token_view("js") + own["js"],
        data=data,
    )


def answer_data(
    answer: InspectedAnswer, texts: Sequence[TokenText], names: TokenNames, special: frozenset[int]
) -> dict[str, Any]:
    """What the page's script reads of an answer: arrays of T numbers, and for top tokens of T times as many as kept."""
    plain, measures = [each.text for each in texts], answer.measures
    known: dict[str, int] = {}
    kinds, divergence = kinds_of(plain), measures.divergence.tolist()
    shares = {
        "tokens": shares_of(kinds, [1.0] * len(kinds)),
        "divergence": shares_of(kinds, divergence),
        "sft": shares_of(kinds, (-measures.bare.logprobs).tolist()),
    }
    return {
        "problem": shown_text(answer.problem),
        "strategy": shown_text(answer.strategy),
        "facts": [shown_text(fact) for fact in answer.facts],
        "delta": answer.delta if math.isfinite(answer.delta) else None,
        "texts": [shown_text(text) for text in plain],
        "parts": {number: (each.part, each.parts) for number, each in enumerate(texts) if each.parts > 1},
        "steps": [(step.start, step.stop) for step in steps_of(plain)],
        "divergence": _numbers(measures.divergence),
        "masked": (~divergence_mask(measures.divergence, answer.delta)).nonzero().flatten().tolist(),
        "special": [number for number, token in enumerate(answer.ids) if token in special],
        "own": _indices(names(answer.ids), known),
        **_side_data("", measures.bare, names, known),
        **_side_data("guided_", measures.guided, names, known),
        "sft": _numbers(-measures.bare.logprobs),
        "after_p": None if answer.after is None else _numbers(answer.after.exp()),
        "names": list(known),
        "kinds": shares,
        "warning": style_warning(shares["divergence"], shares["tokens"]),
    }


def _side_data(prefix: str, side: Side, names: TokenNames, known: dict[str, int]) -> dict[str, Any]:
    return {
        f"{prefix}p": _numbers(side.logprobs.exp()),
        f"{prefix}entropy": _numbers(side.entropy),
        f"{prefix}top": _indices(names(side.top_ids.flatten().tolist()), known),
        f"{prefix}top_p": _numbers(side.top_probs.flatten()),
    }


def style_warning(divergence: Mapping[str, float], tokens: Mapping[str, float]) -> str | None:
    """The sentence of the report where more than half of the divergence lies on style; else None.

    Args:
        divergence, tokens: shares by kind, of the divergence and of the tokens.
    """
    if divergence[STYLE] <= DOMINANT:
        return None
    others = ", ".join(f"{100 * share:.0f} % on {kind}" for kind, share in divergence.items() if kind != STYLE)
    return (
        f"Style dominates: {100 * divergence[STYLE]:.0f} % of the divergence lies on punctuation, layout and words "
        f"that any text has ({100 * tokens[STYLE]:.0f} % of the tokens), {others}. Distilling this answer teaches a "
        "manner of writing more than a way of solving."
    )


def _indices(texts: Sequence[str], known: dict[str, int]) -> list[int]:
    """The place of each text among the distinct ones, to which new ones are added."""
    return [known.setdefault(shown_text(text), len(known)) for text in texts]


def _numbers(values: Tensor) -> list[float]:
    return [float(f"{max(value, 0.0):.{DIGITS}g}") for value in values.tolist()]
