"""Answers for the token view, with made-up numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sgpo.inspection.measure import TOP, Side, TokenMeasures
from sgpo.inspection.page import InspectedAnswer


class ListTokenizer:
    """A vocabulary of any texts; a token's text is the same wherever it stands."""

    all_special_ids = (0,)

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = ["<|end|>", "a", *texts]

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(self.texts[each] for each in ids)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [1]}

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.texts[token]


def made_up(ids: Sequence[int], vocabulary: int, *, label: str = "made up", seed: int = 0) -> InspectedAnswer:
    """An answer with random numbers; one token in ten has a large divergence."""
    generator = torch.Generator().manual_seed(seed)
    count = len(ids)

    def side() -> Side:
        probs = torch.rand(count, TOP, generator=generator).sort(descending=True).values / TOP
        top = torch.randint(0, vocabulary, (count, TOP), generator=generator)
        return Side(-3 * torch.rand(count, generator=generator), torch.rand(count, generator=generator), top, probs)

    divergence = 4 * torch.rand(count, generator=generator) ** 12
    measures = TokenMeasures(divergence, side(), side())
    after = -torch.rand(count, generator=generator)
    return InspectedAnswer(label, "A problem", "A strategy", ["made up"], ids, measures, after, 1.0)
