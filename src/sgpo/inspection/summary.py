"""An inspection as a table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sgpo.inspection.kinds import STYLE, kinds_of, shares_of
from sgpo.inspection.page import InspectedAnswer
from sgpo.inspection.texts import token_texts
from sgpo.methods.terms import divergence_mask
from sgpo.reports.page import shown_text

SHOWN, LEAST = 5, 0.01  # tokens of an answer, and the divergence from which on they are named


def print_summary(answers: Sequence[InspectedAnswer], tokenizer: Any, console: Console | None = None) -> None:
    """A row an answer: tokens, mean divergence, masked tokens, share on style, the most changed tokens."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("answer", "tokens", "mean d_t", "masked", "on style", "largest d_t"):
        table.add_column(name, justify="left" if name in ("answer", "largest d_t") else "right")
    for answer in answers:
        table.add_row(*map(Text, _cells(answer, tokenizer)))
    (console or Console()).print(table)


def _cells(answer: InspectedAnswer, tokenizer: Any) -> list[str]:
    divergence = answer.measures.divergence
    texts = [each.text for each in token_texts(tokenizer, answer.ids)]
    style = shares_of(kinds_of(texts), divergence.tolist())[STYLE]
    top = divergence.topk(min(SHOWN, len(divergence)))
    largest = (
        f"{shown_text(texts[place]).strip() or '␣'} {value:.2f}"
        for value, place in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        if value >= LEAST
    )
    return [
        shown_text(answer.label),
        str(len(texts)),
        f"{float(divergence.mean()):.3f}",
        str(int((~divergence_mask(divergence, answer.delta)).sum())),
        f"{100 * style:.0f} %",
        ", ".join(largest),
    ]
