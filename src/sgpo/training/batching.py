"""Training sequences to micro-batches under a token budget.

The loss is a sum over tokens whose weights were fixed when the batch was assembled, so how rows are cut into
micro-batches changes neither the loss nor its gradient. Rows are therefore sorted by length, to pad little,
and rows without any weight are left out.

Layout of N rows with P columns of prompt and C of completion (Q of prompt on the side with the strategy):

    input_ids          [N, P + C]   . . p p p | c c c c .
    teacher_input_ids  [N, Q + C]   p p p p p p | c c c c .      the same completion block
    weights            [N, C]                   w w w w 0

The prompt is padded on the left and the completion on the right, so the completion is the last C columns on
both sides, and ``model(..., logits_to_keep=C + 1).logits[:, :-1]`` predicts exactly its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sgpo.training.rollouts import TrainingSequence


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one loss term, padded into tensors; padding has weight 0 and mask 0.

    Example: ``model(**batch.model_inputs, logits_to_keep=batch.completion_ids.shape[1] + 1).logits[:, :-1]``
    """

    term: str  # a key of sgpo.training.objectives.TERMS
    input_ids: Tensor  # [N, P + C]
    attention_mask: Tensor  # [N, P + C]
    position_ids: Tensor  # [N, P + C] counted from each row's first token
    completion_ids: Tensor  # [N, C]
    completion_mask: Tensor  # [N, C] boolean
    weights: Tensor  # [N, C]
    old_logprobs: Tensor | None = None  # [N, C]; None where pi_old is the present policy
    teacher_input_ids: Tensor | None = None  # [N, Q + C], likewise the next two
    teacher_attention_mask: Tensor | None = None
    teacher_position_ids: Tensor | None = None

    @property
    def model_inputs(self) -> dict[str, Tensor]:
        """Arguments of the model for the policy's side: the unguided prompt."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }

    @property
    def teacher_inputs(self) -> dict[str, Tensor] | None:
        """Arguments of the model for the fixed side, with the strategy; None for a term without that side."""
        if self.teacher_input_ids is None or self.teacher_attention_mask is None or self.teacher_position_ids is None:
            return None
        return {
            "input_ids": self.teacher_input_ids,
            "attention_mask": self.teacher_attention_mask,
            "position_ids": self.teacher_position_ids,
        }


def split_by_token_budget(sequences: Sequence[TrainingSequence], max_tokens: int) -> list[list[TrainingSequence]]:
    """Rows grouped by term, longest first; no micro-batch has more than max_tokens tokens, padding included.

    A row longer than the budget is a micro-batch of its own. A row whose weights are all zero is left out: it
    adds exactly nothing to the loss or to its gradient.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be positive, not {max_tokens}")
    rows_of_term: dict[str, list[TrainingSequence]] = {}
    for sequence in sequences:
        if any(sequence.weights):
            rows_of_term.setdefault(sequence.term, []).append(sequence)
    micro_batches = []
    for rows in rows_of_term.values():
        # Longest first: a budget too large for the memory fails at once rather than late in the step.
        micro_batches += _fill(sorted(rows, key=_row_length, reverse=True), max_tokens)
    return micro_batches


def _fill(rows: list[TrainingSequence], max_tokens: int) -> list[list[TrainingSequence]]:
    micro_batches: list[list[TrainingSequence]] = []
    prompt_width = completion_width = 0
    for row in rows:
        # Prompts and completions are padded apart, so a row that is shorter in sum can still widen the block.
        prompt_width = max(prompt_width, _prompt_length(row))
        completion_width = max(completion_width, len(row.completion_ids))
        fits = bool(micro_batches) and ((len(micro_batches[-1]) + 1) * (prompt_width + completion_width) <= max_tokens)
        if fits:
            micro_batches[-1].append(row)
        else:
            micro_batches.append([row])
            prompt_width, completion_width = _prompt_length(row), len(row.completion_ids)
    return micro_batches


def _prompt_length(row: TrainingSequence) -> int:
    """Length of the longer prompt: both sides are computed, and the larger one must fit."""
    return max(len(row.prompt_ids), len(row.teacher_prompt_ids or ()))


def _row_length(row: TrainingSequence) -> int:
    return _prompt_length(row) + len(row.completion_ids)


def collate(
    sequences: Sequence[TrainingSequence],
    pad_token_id: int,
    device: torch.device | str,
    *,
    dtype: torch.dtype = torch.float32,
) -> MicroBatch:
    """Rows of one term as tensors in the layout above; ``dtype`` is for weights and old log-probabilities."""
    _check(sequences)
    completions = [row.completion_ids for row in sequences]
    completion_ids = _pad(completions, pad_token_id, torch.long)
    completion_mask = _pad([[True] * len(ids) for ids in completions], False, torch.bool)
    prompts = [row.prompt_ids for row in sequences]
    input_ids, attention_mask, position_ids = _join(prompts, completion_ids, completion_mask, pad_token_id)
    old_logprobs: list[Any] = [row.old_logprobs for row in sequences]
    teacher: dict[str, Tensor] = {}
    teacher_prompts = [row.teacher_prompt_ids for row in sequences if row.teacher_prompt_ids is not None]
    if teacher_prompts:
        names = ("teacher_input_ids", "teacher_attention_mask", "teacher_position_ids")
        joined = _join(teacher_prompts, completion_ids, completion_mask, pad_token_id)
        teacher = {name: tensor.to(device) for name, tensor in zip(names, joined, strict=True)}
    return MicroBatch(
        term=sequences[0].term,
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        position_ids=position_ids.to(device),
        completion_ids=completion_ids.to(device),
        completion_mask=completion_mask.to(device),
        weights=_pad([row.weights for row in sequences], 0.0, dtype).to(device),
        old_logprobs=None if None in old_logprobs else _pad(old_logprobs, 0.0, dtype).to(device),
        **teacher,
    )


def _check(sequences: Sequence[TrainingSequence]) -> None:
    kinds = {(row.term, row.teacher_prompt_ids is not None, row.old_logprobs is not None) for row in sequences}
    if len(kinds) != 1:
        raise ValueError(
            "a micro-batch holds rows of one term, all with a teacher prompt or all without, all with old "
            f"log-probabilities or all without; these are (term, has the one, has the other): {sorted(kinds)}"
        )
    for row in sequences:
        lengths = (
            len(row.completion_ids),
            len(row.weights),
            len(row.completion_ids if row.old_logprobs is None else row.old_logprobs),
        )
        if len(set(lengths)) != 1:
            raise ValueError(f"completion tokens, weights and old log-probabilities differ in number: {lengths}")
        if not row.prompt_ids or (row.teacher_prompt_ids is not None and not row.teacher_prompt_ids):
            raise ValueError("a prompt is empty: nothing would predict the first token of the completion")


def _join(
    prompts: Sequence[list[int]], completion_ids: Tensor, completion_mask: Tensor, pad_token_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Left-padded prompts before the completions: input_ids, attention_mask, position_ids [N, P + C]."""
    reversed_prompts = [ids[::-1] for ids in prompts]
    prompt_ids = _pad(reversed_prompts, pad_token_id, torch.long).flip(1)
    prompt_mask = _pad([[True] * len(ids) for ids in prompts], False, torch.bool).flip(1)
    attention_mask = torch.cat([prompt_mask, completion_mask], dim=1).long()
    position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    return torch.cat([prompt_ids, completion_ids], dim=1), attention_mask, position_ids


def _pad(rows: Sequence[Sequence[float]], value: float, dtype: torch.dtype) -> Tensor:
    """Rows padded on the right to the longest. -> [N, longest]"""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=dtype)
