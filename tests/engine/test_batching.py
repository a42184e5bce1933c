from __future__ import annotations

import functools
import math
import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from sgpo.engine.batching import collate, split_by_token_budget
from sgpo.engine.update import add_head_task, microbatch_loss
from sgpo.means import Means
from sgpo.methods.records import TrainingSequence
from sgpo.methods.terms import Thresholds

PAD = 0
VOCABULARY = 13
THRESHOLDS = Thresholds(eps_low=0.2, eps_high=0.28, delta=0.05)  # masks some tokens of an untrained model


def row(prompt: int, completion: int, *, weight: float = 1.0, teacher: int | None = None) -> TrainingSequence:
    """A sequence of which only the lengths matter."""
    return TrainingSequence(
        term="surrogate" if teacher is None else "distillation",
        prompt_ids=[1] * prompt,
        completion_ids=[2] * completion,
        weights=weight,
        old_logprobs=torch.full((completion,), -1.0),
        teacher_prompt_ids=None if teacher is None else [3] * teacher,
    )


def padded_tokens(rows: list[TrainingSequence]) -> int:
    """Computed positions; the last token of a row is no input."""
    batch = collate(rows, PAD, "cpu")
    return max(side.arguments["input_ids"].numel() for side in (batch.policy, batch.teacher) if side is not None)


# --- splitting ----------------------------------------------------------------------------------------------


def test_split_by_hand() -> None:
    rows = [row(2, 3), row(2, 8), row(2, 4), row(2, 2), row(2, 6)]  # lengths 5, 10, 6, 4, 8
    lengths = [[len(r.prompt_ids + r.completion_ids) for r in batch] for batch in split_by_token_budget(rows, 16)]
    assert lengths == [[10], [8, 6], [5, 4]]


def test_split_counts_the_longer_prompt_of_a_distillation_row() -> None:
    rows = [row(2, 4, teacher=6), row(2, 4, teacher=6)]
    assert [len(batch) for batch in split_by_token_budget(rows, 19)] == [1, 1]
    assert [len(batch) for batch in split_by_token_budget(rows, 20)] == [2]


def test_packed_rows_are_counted_as_they_are() -> None:
    rows = [row(1, 9), row(1, 3), row(1, 2)]  # 10, 4 and 3 tokens
    assert [len(batch) for batch in split_by_token_budget(rows, 14)] == [1, 2]
    assert [len(batch) for batch in split_by_token_budget(rows, 16, packed=True)] == [2, 1]
    assert [len(batch) for batch in split_by_token_budget(rows, 17, packed=True)] == [3]


def test_a_row_longer_than_the_budget_is_alone() -> None:
    rows = [row(2, 2), row(2, 30), row(2, 2)]
    batches = split_by_token_budget(rows, 8)
    assert [len(batch) for batch in batches] == [1, 2]
    assert batches[0] == [rows[1]]


def test_rows_without_weight_are_left_out() -> None:
    partly = replace(row(1, 3), weights=torch.tensor([0.0, 0.0, -1e-9]))
    assert split_by_token_budget([row(1, 3, weight=0.0), partly, row(1, 9, weight=-0.0)], 100) == [[partly]]
    assert split_by_token_budget([row(1, 3, weight=0.0)], 100) == []
    assert split_by_token_budget([], 100) == []
    not_a_number = row(1, 1, weight=math.nan)
    assert len(split_by_token_budget([not_a_number], 100)) == 1  # to fail in the loss, not to vanish


@pytest.mark.parametrize("max_tokens", [1, 40, 90, 300, 10_000])
def test_split_holds_the_budget_and_loses_nothing(max_tokens: int) -> None:
    source = random.Random(max_tokens)
    rows = [
        row(
            source.randint(1, 9),
            source.randint(1, 30),
            teacher=source.choice([None, None, source.randint(1, 20)]),
        )
        for _ in range(60)
    ]
    batches = split_by_token_budget(rows, max_tokens)
    assert sorted(id(r) for batch in batches for r in batch) == sorted(map(id, rows))
    for batch in batches:
        assert len({r.term for r in batch}) == 1
        assert len(batch) == 1 or padded_tokens(batch) <= max_tokens
    if max_tokens == 10_000:
        assert len(batches) == 2


def test_budget_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_tokens must be positive"):
        split_by_token_budget([row(1, 1)], 0)


# --- layout -------------------------------------------------------------------------------------------------


tensor = functools.partial(torch.tensor, dtype=torch.float64)
ROWS = [
    TrainingSequence("distillation", [5, 6], [7, 8, 9], tensor([0.1, 0.2, 0.3]), tensor([-1.0, -2.0, -3.0]), [4, 5, 6]),
    TrainingSequence("distillation", [5, 6, 7], [8], 0.4, tensor([-4.0]), [4]),
]


def test_padded_layout() -> None:
    batch = collate(ROWS, 11, "cpu", dtype=torch.float64)
    assert batch.teacher is not None
    assert {name: tensor.tolist() for name, tensor in batch.policy.arguments.items()} == {
        "input_ids": [[5, 6, 7, 8], [5, 6, 7, 11]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 1, 0]],
        "position_ids": [[0, 1, 2, 3], [0, 1, 2, 0]],
    }
    assert batch.policy.predictors.tolist() == [1, 2, 3, 6]
    assert {name: tensor.tolist() for name, tensor in batch.teacher.arguments.items()} == {
        "input_ids": [[4, 5, 6, 7, 8], [4, 11, 11, 11, 11]],
        "attention_mask": [[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]],
        "position_ids": [[0, 1, 2, 3, 4], [0, 0, 0, 0, 0]],
    }
    assert batch.teacher.predictors.tolist() == [2, 3, 4, 5]


def test_packed_layout() -> None:
    batch = collate(ROWS, 11, "cpu", packed=True)
    assert batch.teacher is not None
    assert {name: tensor.tolist() for name, tensor in batch.policy.arguments.items()} == {
        "input_ids": [[5, 6, 7, 8, 5, 6, 7]],
        "position_ids": [[0, 1, 2, 3, 0, 1, 2]],
    }
    assert batch.policy.predictors.tolist() == [1, 2, 3, 6]
    assert batch.teacher.arguments["input_ids"].tolist() == [[4, 5, 6, 7, 8, 4]]
    assert batch.teacher.arguments["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0]]
    assert batch.teacher.predictors.tolist() == [2, 3, 4, 5]


def test_completion_tokens_are_flat() -> None:
    batch = collate(ROWS, 11, "cpu", dtype=torch.float64)
    assert batch.term == "distillation"
    assert batch.completion_ids.tolist() == [7, 8, 9, 8]
    assert batch.weights.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert batch.old_logprobs is not None
    assert batch.old_logprobs.tolist() == [-1.0, -2.0, -3.0, -4.0]
    assert batch.weights.dtype == batch.old_logprobs.dtype == torch.float64
    assert collate([row(1, 1)], PAD, "cpu").teacher is None
    assert collate([row(1, 1)], PAD, "meta").weights.device.type == "meta"


def test_old_logprobs_may_be_absent_from_all_rows() -> None:
    """None stands for the present policy; an empty place is no row of numbers."""
    rows = [replace(row(1, 2), old_logprobs=None), replace(row(3, 4), old_logprobs=None)]
    batch = collate(rows, PAD, "cpu")
    assert batch.old_logprobs is None
    assert batch.weights.tolist() == [1.0] * 6
    assert split_by_token_budget(rows, 100) == [[rows[1], rows[0]]]
    distilled = collate([replace(row(1, 2, teacher=3), old_logprobs=None)], PAD, "cpu")
    assert distilled.old_logprobs is None
    assert distilled.teacher is not None
    with pytest.raises(ValueError, match="differ in number"):
        collate([replace(row(1, 2), old_logprobs=None, weights=torch.tensor([1.0]))], PAD, "cpu")


@pytest.mark.parametrize("absent", [0, 1])
def test_collate_refuses_old_logprobs_in_some_rows_only(absent: int) -> None:
    rows = [row(1, 2), row(1, 2)]
    rows[absent] = replace(rows[absent], old_logprobs=None)
    with pytest.raises(ValueError, match="all with old log-probabilities or all without"):
        collate(rows, PAD, "cpu")


def test_collate_refuses_what_does_not_fit_together() -> None:
    with pytest.raises(ValueError, match="rows of one term"):
        collate([row(1, 1), row(1, 1, teacher=2)], PAD, "cpu")
    with pytest.raises(ValueError, match="all with a teacher prompt or all without"):
        collate([row(1, 1, teacher=2), replace(row(1, 1, teacher=2), teacher_prompt_ids=None)], PAD, "cpu")
    with pytest.raises(ValueError, match="rows of one term"):
        collate([], PAD, "cpu")
    with pytest.raises(ValueError, match="differ in number"):
        collate([replace(row(1, 2), weights=torch.tensor([1.0]))], PAD, "cpu")
    with pytest.raises(ValueError, match="differ in number"):
        collate([replace(row(1, 2), old_logprobs=torch.tensor([]))], PAD, "cpu")
    with pytest.raises(ValueError, match="prompt is empty"):
        collate([row(0, 2)], PAD, "cpu")
    with pytest.raises(ValueError, match="prompt is empty"):
        collate([row(1, 2, teacher=0)], PAD, "cpu")


# --- invariances of the loss, through a model ---------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).double().eval()
    add_head_task(model)
    return model


@pytest.fixture(scope="module")
def sequences() -> list[TrainingSequence]:
    source = random.Random(0)

    def ids(longest: int) -> list[int]:
        return [source.randrange(1, VOCABULARY) for _ in range(source.randint(1, longest))]

    rows = []
    for index in range(12):
        prompt, completion = ids(6), ids(9)
        distilled = index % 3 == 0
        weight = 0.0 if index == 5 else source.uniform(0.1, 1.0) * (1 if distilled else source.choice([-1, 1]))
        rows.append(
            TrainingSequence(
                term="distillation" if distilled else "surrogate",
                prompt_ids=prompt,
                completion_ids=completion,
                weights=weight / len(completion),
                old_logprobs=torch.tensor([source.uniform(-3.0, -1.5) for _ in completion]),
                teacher_prompt_ids=ids(5) + prompt if distilled else None,
            )
        )
    return rows


def loss_and_gradient(
    model: Qwen2ForCausalLM, batches: list[list[TrainingSequence]], pad_token_id: int = PAD, packed: bool = False
) -> tuple[float, Tensor]:
    model.zero_grad()
    total = 0.0
    for rows in batches:
        batch = collate(rows, pad_token_id, "cpu", packed=packed, dtype=torch.float64)
        loss = microbatch_loss(model, [batch], THRESHOLDS, Means())
        loss.backward()
        total += loss.item()
    return total, torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.grad is not None])


def assert_same(left: tuple[float, Tensor], right: tuple[float, Tensor]) -> None:
    assert left[0] == pytest.approx(right[0], rel=0, abs=1e-10)
    torch.testing.assert_close(left[1], right[1], rtol=0, atol=1e-10)


def one_by_one(model: Qwen2ForCausalLM, sequences: list[TrainingSequence]) -> tuple[float, Tensor]:
    """Without a batch, padding, masks, positions or TERMS: each row alone through the plain model."""
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for sequence in sequences:
        completion = torch.tensor(sequence.completion_ids)
        start = len(sequence.prompt_ids)
        logits = model(torch.tensor([sequence.prompt_ids + sequence.completion_ids])).logits[0]
        logprobs = logits[start - 1 : -1].log_softmax(-1)
        weights = torch.tensor(sequence.weights, dtype=torch.float64).expand(len(completion))
        if sequence.teacher_prompt_ids is None:
            chosen = logprobs[range(len(completion)), completion]
            rho = (chosen - sequence.old_logprobs.double()).exp()
            total = total - torch.minimum(rho * weights, rho.clamp(0.8, 1.28) * weights).sum()
        else:
            start = len(sequence.teacher_prompt_ids)
            with torch.no_grad():
                teacher = model(torch.tensor([sequence.teacher_prompt_ids + sequence.completion_ids])).logits[0]
                fixed = teacher[start - 1 : -1].log_softmax(-1)
            divergence = (fixed.exp() * (fixed - logprobs)).sum(-1)
            total = total + (weights * (divergence <= THRESHOLDS.delta) * divergence).sum()
    total.backward()
    return total.item(), torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("packed", [False, True])
def test_loss_does_not_depend_on_the_budget(
    model: Qwen2ForCausalLM, sequences: list[TrainingSequence], packed: bool
) -> None:
    expected = one_by_one(model, sequences)
    assert expected[1].abs().max() > 1e-2
    numbers = set()
    for max_tokens in (1, 25, 40, 60, 100, 1000):
        batches = split_by_token_budget(sequences, max_tokens, packed=packed)
        numbers.add(len(batches))
        assert_same(loss_and_gradient(model, batches, packed=packed), expected)
    assert {2, 11} <= numbers  # one micro-batch a term ... one a row; the row without weight is gone
    assert len(numbers) >= 4


def test_loss_does_not_depend_on_the_order(model: Qwen2ForCausalLM, sequences: list[TrainingSequence]) -> None:
    expected = loss_and_gradient(model, split_by_token_budget(sequences, 60))
    for seed in range(3):
        shuffled = random.Random(seed).sample(sequences, len(sequences))
        assert_same(loss_and_gradient(model, split_by_token_budget(shuffled, 60)), expected)


def test_thresholds_are_active(model: Qwen2ForCausalLM, sequences: list[TrainingSequence]) -> None:
    """Guards the tests above: both terms have tokens inside and outside their bounds."""
    for term, name in (("surrogate", "clipped_share/low"), ("distillation", "divergence_masked_share")):
        sums = Means()
        for rows in split_by_token_budget([row for row in sequences if row.term == term], 1):
            microbatch_loss(model, [collate(rows, PAD, "cpu", dtype=torch.float64)], THRESHOLDS, sums)
        assert 0.05 < sums.values()[name] < 0.9


def test_padding_has_no_effect(model: Qwen2ForCausalLM, sequences: list[TrainingSequence]) -> None:
    """A row says the same alone as among longer prompts and completions, whatever the padding token is."""
    for teacher in (None, 15):
        wide = row(12, 15, weight=0.0, teacher=teacher)
        rows = [sequence for sequence in sequences if (sequence.teacher_prompt_ids is None) == (teacher is None)]
        for sequence in rows:
            expected = loss_and_gradient(model, [[sequence]])
            for pad_token_id in (PAD, 7):
                assert_same(loss_and_gradient(model, [[wide, sequence]], pad_token_id), expected)


def test_rows_left_out_change_nothing(model: Qwen2ForCausalLM, sequences: list[TrainingSequence]) -> None:
    unweighted = [sequence for sequence in sequences if not sequence.weights]
    assert len(unweighted) == 1
    loss, gradient = loss_and_gradient(model, [unweighted])
    assert loss == 0.0
    assert torch.count_nonzero(gradient) == 0
