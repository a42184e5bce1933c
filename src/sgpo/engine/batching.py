"""Training sequences to micro-batches under a token budget.

The loss is a sum over tokens whose weights were fixed when the batch was assembled, so how rows are cut into
micro-batches changes neither the loss nor its gradient. Rows are therefore sorted by length, to pad little, and rows
without any weight are left out. Two layouts of the rows p (prompt) and c (completion):

    padded    input_ids [N, L]     p p c c c          packed    input_ids [1, sum L]     p p c c c p c p p p c c
                                   p c . . .                    position_ids             0 1 2 3 4 0 1 0 1 2 3 4
                                   p p p c c

Packed rows have no padding; they need an attention that keeps them apart by their positions (FlashAttention, flex
attention; sdpa builds a block-diagonal mask). What is known of completion tokens is flat in both, [T] over all rows,
and ``predictors`` says where in the flattened hidden states each token is predicted: one place before it. The last
token of a row predicts nothing and is not in the input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from typing import Any

import torch
from torch import Tensor

from sgpo.engine.prefix_trie import common_length, prefix_trie, segment_batches
from sgpo.methods.records import TrainingSequence

MOST_OF_PLAIN = 0.9  # prefixes are shared if at most this share of the tokens remains: below it the attention pays


@dataclass(frozen=True)
class ModelInputs:
    """The rows under one of their prompts.

    Example: ``model.base_model(**inputs.arguments).last_hidden_state.flatten(0, 1)[inputs.predictors]``  -> [T, H]
    """

    # input_ids, position_ids [N, L], attention_mask [N, L] unless packed; shared_prefixes, if there are
    arguments: dict[str, Any]
    predictors: Tensor  # [T] places in the flattened [N * L]


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one loss term.

    Example: ``collate(rows, pad_token_id=0, device="cpu")``
    """

    term: str  # a key of sgpo.methods.terms.TERMS
    policy: ModelInputs  # under the row's prompt
    teacher: ModelInputs | None  # under the prompt of the fixed side; None for a term without that side
    completion_ids: Tensor  # [T]
    weights: Tensor  # [T]
    old_logprobs: Tensor | None  # [T]; None where pi_old is the present policy
    entropy_bonus: Tensor | None  # [T]; None where there is none


@dataclass(frozen=True)
class BatchLayout:
    """How sequences become micro-batches.

    Example: ``BatchLayout(max_tokens=16_384, pad_token_id=0)``
    """

    max_tokens: int  # of a forward pass, padding included
    pad_token_id: int
    packed: bool = False  # without padding, for attention that keeps packed rows apart
    share_prefixes: bool = False  # where it saves tokens, for a model of which `can_share_prefixes` holds

    def for_rows(self, sequences: Sequence[TrainingSequence]) -> BatchLayout:
        """The same without sharing, where that would save too little: see MOST_OF_PLAIN."""
        if not self.share_prefixes:
            return self
        plain = replace(self, share_prefixes=False)
        saves = computed_tokens(sequences, self) <= MOST_OF_PLAIN * computed_tokens(sequences, plain)
        return self if saves else plain

    def split(self, sequences: Sequence[TrainingSequence]) -> list[list[TrainingSequence]]:
        return split_by_token_budget(sequences, self.max_tokens, packed=self.packed, share_prefixes=self.share_prefixes)

    def collate(self, rows: Sequence[TrainingSequence], device: torch.device | str) -> list[MicroBatch]:
        """The rows of one forward pass, those of each term apart. Only rows that share prefixes may have several."""
        if self.share_prefixes:
            return collate_shared(rows, device)
        return [collate(rows, self.pad_token_id, device, packed=self.packed)]


def rows_are_packed(model: Any, asked: bool | None) -> bool:
    """Whether micro-batches go without padding: where the attention keeps packed rows apart at no cost, or as asked."""
    if asked is not None:
        return asked
    return any(name in model.config._attn_implementation for name in ("flash", "flex"))


def split_by_token_budget(
    sequences: Sequence[TrainingSequence], max_tokens: int, *, packed: bool = False, share_prefixes: bool = False
) -> list[list[TrainingSequence]]:
    """Rows grouped by term, longest first; no micro-batch has more than max_tokens tokens, padding included.

    Rows of a term with and without old log-probabilities are apart too. A row longer than the budget is a micro-batch
    of its own. A row that weighs nothing is left out: it adds exactly nothing to the loss or to its gradient. With
    shared prefixes rows that begin alike are together, whatever their terms, and what they share counts once.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be positive, not {max_tokens}")
    weighted = [sequence for sequence in sequences if sequence.contributes]
    if share_prefixes:
        return _fill_shared(sorted(weighted, key=_policy_tokens), max_tokens)
    micro_batches = []
    for rows in _alike(weighted):
        # Longest first: a budget too large for the memory fails at once rather than late in the step.
        micro_batches += _fill(sorted(rows, key=_row_length, reverse=True), max_tokens, packed)
    return micro_batches


def _alike(sequences: Sequence[TrainingSequence]) -> list[list[TrainingSequence]]:
    """By what a micro-batch has one of: the term, and whether there are old log-probabilities."""
    alike: dict[tuple[str, bool], list[TrainingSequence]] = {}
    for sequence in sequences:
        alike.setdefault((sequence.term, sequence.old_logprobs is None), []).append(sequence)
    return list(alike.values())


def _fill(rows: list[TrainingSequence], max_tokens: int, packed: bool) -> list[list[TrainingSequence]]:
    micro_batches: list[list[TrainingSequence]] = []
    tokens = 0
    for row in rows:
        length = _row_length(row)
        # Sorted, so the first row of a padded micro-batch is its widest.
        more = length if packed else _row_length(micro_batches[-1][0]) if micro_batches else 0
        if micro_batches and tokens + more <= max_tokens:
            micro_batches[-1].append(row)
            tokens += more
        else:
            micro_batches.append([row])
            tokens = length
    return micro_batches


def _fill_shared(rows: list[TrainingSequence], max_tokens: int) -> list[list[TrainingSequence]]:
    """Rows in the order of their tokens: each costs what it does not share with the one before it. Largest first."""
    filled: list[tuple[int, list[TrainingSequence]]] = []
    policy = teacher = 0
    for before, row in pairwise([None, *rows]):
        assert row is not None
        more = _more_tokens(before, row, _policy_tokens), _more_tokens(before, row, _teacher_tokens)
        if filled and max(policy + more[0], teacher + more[1]) <= max_tokens:
            policy, teacher = policy + more[0], teacher + more[1]
            filled[-1] = (max(policy, teacher), [*filled[-1][1], row])
        else:
            policy, teacher = len(_policy_tokens(row)), len(_teacher_tokens(row))
            filled.append((max(policy, teacher), [row]))
    return [part for _, part in sorted(filled, key=lambda each: each[0], reverse=True)]


def _more_tokens(
    before: TrainingSequence | None, row: TrainingSequence, tokens: Callable[[TrainingSequence], list[int]]
) -> int:
    own = tokens(row)
    return len(own) - (0 if before is None else common_length(tokens(before), own))


def _policy_tokens(row: TrainingSequence) -> list[int]:
    return [*row.prompt_ids, *row.completion_ids]


def _teacher_tokens(row: TrainingSequence) -> list[int]:
    return [] if row.teacher_prompt_ids is None else [*row.teacher_prompt_ids, *row.completion_ids]


def _row_length(row: TrainingSequence) -> int:
    """With the longer of the two prompts: both sides are computed, and the larger one must fit."""
    return max(len(_policy_tokens(row)), len(_teacher_tokens(row)))


def computed_tokens(sequences: Sequence[TrainingSequence], layout: BatchLayout) -> int:
    """Tokens that go through the model in the passes of both sides, padding included."""
    sides = (_policy_tokens, _teacher_tokens)
    return sum(_size(list(map(side, rows)), layout) for rows in layout.split(sequences) for side in sides)


def _size(rows: list[list[int]], layout: BatchLayout) -> int:
    if layout.share_prefixes:
        rows = sorted(rows)
        return sum(len(row) - common_length(before, row) for before, row in pairwise([[], *rows]))
    lengths = list(map(len, rows))
    return sum(lengths) if layout.packed else len(lengths) * max(lengths)


def collate(
    sequences: Sequence[TrainingSequence],
    pad_token_id: int,
    device: torch.device | str,
    *,
    packed: bool = False,
    dtype: torch.dtype = torch.float32,
) -> MicroBatch:
    """Rows of one term as tensors in one of the layouts above; ``dtype`` is for weights and old log-probabilities."""
    _check(sequences)

    def side(prompts: Sequence[list[int]]) -> ModelInputs:
        return _model_inputs(prompts, [row.completion_ids for row in sequences], pad_token_id, device, packed)

    teacher_prompts = [row.teacher_prompt_ids for row in sequences if row.teacher_prompt_ids is not None]
    policy = side([row.prompt_ids for row in sequences])
    return _micro_batch(sequences, policy, side(teacher_prompts) if teacher_prompts else None, device, dtype)


def collate_shared(
    sequences: Sequence[TrainingSequence], device: torch.device | str, *, dtype: torch.dtype = torch.float32
) -> list[MicroBatch]:
    """Rows of any terms with shared prefixes: micro-batches of one term each, all with the same arguments."""
    alike = _alike(sequences)
    for rows in alike:
        _check(rows)
    policies = _shared_inputs([[(row.prompt_ids, row.completion_ids) for row in rows] for rows in alike], device)
    # Of a term all rows have a teacher or none.
    taught = [
        [(row.teacher_prompt_ids, row.completion_ids) for row in rows if row.teacher_prompt_ids is not None]
        for rows in alike
    ]
    shared = iter(_shared_inputs([rows for rows in taught if rows], device))
    teachers = [next(shared) if rows else None for rows in taught]
    return [_micro_batch(*each, device, dtype) for each in zip(alike, policies, teachers, strict=True)]


def _micro_batch(
    sequences: Sequence[TrainingSequence],
    policy: ModelInputs,
    teacher: ModelInputs | None,
    device: torch.device | str,
    dtype: torch.dtype,
) -> MicroBatch:
    def flat(values: Sequence[float | Tensor]) -> Tensor:
        return _per_token(values, lengths, dtype, device)

    lengths = [len(row.completion_ids) for row in sequences]
    old_logprobs = [row.old_logprobs for row in sequences if row.old_logprobs is not None]
    bonuses = [row.entropy_bonus for row in sequences]
    return MicroBatch(
        term=sequences[0].term,
        policy=policy,
        teacher=teacher,
        completion_ids=torch.tensor([*chain.from_iterable(row.completion_ids for row in sequences)], device=device),
        weights=flat([row.weights for row in sequences]),
        old_logprobs=flat(old_logprobs) if old_logprobs else None,
        entropy_bonus=flat(bonuses) if any(bonuses) else None,
    )


def _per_token(
    values: Sequence[float | Tensor], lengths: Sequence[int], dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """A number for each token of all rows [T], from a number or a vector for each row."""
    if not any(isinstance(value, Tensor) for value in values):
        of_rows = torch.tensor(values, dtype=dtype, device=device)
        return of_rows.repeat_interleave(torch.tensor(lengths, device=device), output_size=sum(lengths))
    parts = [torch.as_tensor(value, dtype=dtype, device=device) for value in values]
    return torch.cat([part.expand(length) for part, length in zip(parts, lengths, strict=True)])


def _check(sequences: Sequence[TrainingSequence]) -> None:
    kinds = {(row.term, row.teacher_prompt_ids is not None, row.old_logprobs is not None) for row in sequences}
    if len(kinds) != 1:
        raise ValueError(
            "a micro-batch holds rows of one term, all with a teacher prompt or all without, all with old "
            f"log-probabilities or all without; these are (term, has the one, has the other): {sorted(kinds)}"
        )
    for row in sequences:
        of_tokens = [each for each in (row.weights, row.old_logprobs) if isinstance(each, Tensor)]
        lengths = [len(row.completion_ids), *map(len, of_tokens)]
        if len(set(lengths)) != 1:
            raise ValueError(f"completion tokens, weights and old log-probabilities differ in number: {lengths}")
        if not row.prompt_ids or (row.teacher_prompt_ids is not None and not row.teacher_prompt_ids):
            raise ValueError("a prompt is empty: nothing would predict the first token of the completion")


def _model_inputs(
    prompts: Sequence[list[int]],
    completions: Sequence[list[int]],
    pad_token_id: int,
    device: torch.device | str,
    packed: bool,
) -> ModelInputs:
    rows = [torch.tensor([*prompt, *completion[:-1]]) for prompt, completion in zip(prompts, completions, strict=True)]
    positions = [torch.arange(len(row)) for row in rows]
    if packed:
        starts = torch.tensor([0, *map(len, rows[:-1])]).cumsum(0).tolist()
        arguments = {"input_ids": torch.cat(rows)[None], "position_ids": torch.cat(positions)[None]}
    else:
        width = max(map(len, rows))
        starts = list(range(0, len(rows) * width, width))
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        arguments = {
            "input_ids": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_token_id),
            "attention_mask": mask,
            "position_ids": torch.nn.utils.rnn.pad_sequence(positions, batch_first=True),
        }
    predictors = torch.cat(
        [
            torch.arange(len(completion)) + start + len(prompt) - 1
            for start, prompt, completion in zip(starts, prompts, completions, strict=True)
        ]
    )
    return ModelInputs({name: tensor.to(device) for name, tensor in arguments.items()}, predictors.to(device))


def _shared_inputs(
    groups: Sequence[Sequence[tuple[list[int], list[int]]]], device: torch.device | str
) -> list[ModelInputs]:
    """Of (prompt, completion) of the rows of each group: all in one trie, whose arguments all groups have."""
    pairs = [*chain.from_iterable(groups)]
    if not pairs:
        return []
    trie = prefix_trie([[*prompt, *completion[:-1]] for prompt, completion in pairs], [len(each) for each, _ in pairs])
    arguments = {
        "input_ids": torch.tensor([trie.input_ids], device=device),
        "position_ids": torch.tensor([trie.position_ids], device=device),
        # A mask of four dimensions is taken as it is: transformers makes none of its own, and ours are elsewhere.
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        "shared_prefixes": segment_batches(trie, device),
    }
    predictors = (path[len(prompt) - 1 :] for path, (prompt, _) in zip(trie.paths, pairs, strict=True))
    return [
        ModelInputs(arguments, torch.tensor([*chain.from_iterable(islice(predictors, len(rows)))], device=device))
        for rows in groups
    ]
