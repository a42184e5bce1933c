"""From veRL's batch to the rows of an update: the same rows as those of `sgpo train`; veRL itself is not needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sgpo.integrations.verl.rows import (
    Parcel,
    SampledRow,
    aligned,
    arranged,
    decided,
    pairs_from,
    sequences_from,
    to_fields,
)
from sgpo.methods.records import TrainingSequence
from sgpo.methods.registry import METHODS
from sgpo.methods.terms import TERMS

SGPO, GRPO = METHODS["sgpo"], METHODS["grpo"]
TERM = {name: number for number, name in enumerate(TERMS)}


def row(problem: str, session: int, correct: bool, guided: bool = False, **changes: Any) -> SampledRow:
    completion = [20 + session, 30, 31][: 2 + session % 2]
    values: dict[str, Any] = {
        "key": f"{problem}_{session}_0",
        "problem": problem,
        "prompt_ids": [5, 6],
        "completion_ids": completion,
        "guided_prompt_ids": [5, 9, 6] if guided else [],
        "reward": float(correct),
        "correct": correct,
        "truncated": False,
        "old_logprobs": torch.full((len(completion),), -1.0 - session / 10),
        "sampler_logprobs": torch.full((len(completion),), -1.0),
    }
    return SampledRow(**{**values, **changes})


def problem(name: str, autonomous: str, guided: str) -> list[SampledRow]:
    """Rows of the completions written as 1 (correct), 0 (wrong) or t (truncated, though the reward says 1)."""
    return [
        row(name, number, mark != "0", number >= len(autonomous), truncated=mark == "t")
        for number, mark in enumerate(autonomous + guided)
    ]


def options(method: Any = SGPO, **values: Any) -> Any:
    return method.options(num_autonomous=4, num_guided=2, **values)


def test_weights_are_those_of_the_equations() -> None:
    found = decided(problem("a", "1000", "11"), SGPO, options(), 1)
    (parcels,) = found.parcels
    target = next(each for each in parcels if each.term == TERM["distillation"])
    # p_auto 0.25, p_guide 1: alpha = 0.5 * 0.85 / 0.35, capped at 0.8; g+ is the likeliest by the sum of its tokens.
    assert target.key == "a_4_0"
    assert target.teacher_ids == [5, 9, 6]
    assert target.weights.tolist() == pytest.approx([0.8 / 2] * 2)
    right = next(each for each in parcels if each.key == "a_0_0")
    assert right.weights.tolist() == pytest.approx([0.75 / (0.5 + 1e-6) / (4 * 2)] * 2)
    assert {each.key for each in parcels} == {"a_0_0", "a_1_0", "a_2_0", "a_3_0", "a_4_0"}
    assert found.advantages["a_0_0"] == pytest.approx(1.5, rel=1e-5)
    assert found.advantages["a_4_0"] == 0.0


def test_a_truncated_completion_has_no_reward_and_is_no_target() -> None:
    found = decided(problem("a", "t000", "t0"), SGPO, options(), 1)
    assert found.parcels == [[]]
    assert found.updates[0].decisions[0].alpha == 0.0


def test_a_problem_without_a_strategy_is_autonomous_throughout() -> None:
    found = decided(problem("a", "100000", ""), SGPO, options(), 1)
    assert {each.term for each in found.parcels[0]} == {TERM["surrogate"]}
    assert found.updates[0].decisions[0].reason.endswith("no strategy")


def test_grpo_has_no_targets() -> None:
    found = decided(problem("a", "100000", ""), GRPO, options(GRPO), 1)
    assert {each.term for each in found.parcels[0]} == {TERM["surrogate"]}


def test_later_updates_compare_with_the_old_policy_and_the_first_does_not() -> None:
    found = decided([*problem("b", "1000", "10"), *problem("a", "0100", "01")], SGPO, options(), 2)
    first, second = found.parcels
    assert {each.key[0] for each in first} == {"a"}  # in the order of the names
    assert all(each.old_logprobs is None for each in first)
    olds = {each.key: each.old_logprobs for each in second if each.term == TERM["surrogate"]}
    assert olds["b_1_0"].tolist() == pytest.approx([-1.1] * 3)
    assert found.updates[0].decisions[0].alpha == found.updates[1].decisions[0].alpha


def test_a_problem_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match="1 problems cannot be parted among 2"):
        decided(problem("a", "1000", "10"), SGPO, options(), 2)


def test_tokens_are_weighed_by_importance_where_asked() -> None:
    found = decided(problem("a", "1000", "00"), SGPO, options(importance_cap=2.0), 1)
    plain = decided(problem("a", "1000", "00"), SGPO, options(), 1)
    for weighed, each in zip(found.parcels[0], plain.parcels[0], strict=True):
        session = int(each.key.split("_")[1])
        ratio = torch.tensor(-session / 10).exp()
        assert torch.allclose(weighed.weights, each.weights * ratio)


def parcels_of(lengths: list[int], name: str) -> list[Parcel]:
    return [Parcel(f"{name}{n}", 0, torch.ones(length), None, []) for n, length in enumerate(lengths)]


def test_each_process_gets_as_many_rows_of_each_update() -> None:
    spare = [Parcel.nothing(f"spare{n}", 1) for n in range(9)]
    order = arranged([parcels_of([9, 7, 5, 3, 1], "a"), parcels_of([4], "b")], spare, 2)
    keys = [each.key for each in order]
    # count = 3; two processes, of two updates each
    assert keys[:3] == ["a0", "a3", "a4"]  # 9 + 3 + 1 tokens
    assert keys[6:8] == ["a1", "a2"]  # 7 + 5
    assert keys[3] == "b0"
    assert sorted(key for key in keys if key.startswith("spare")) == [f"spare{n}" for n in range(6)]
    assert len(keys) == 12


def test_an_update_without_rows_has_one_that_weighs_nothing() -> None:
    assert [each.key for each in arranged([[]], [Parcel.nothing("s", 3)], 1)] == ["s"]
    with pytest.raises(ValueError, match="too few rows are left"):
        arranged([parcels_of([1], "a"), []], [], 2)


def test_rows_come_out_at_the_worker_as_they_went_in() -> None:
    rows = [*problem("b", "1000", "10"), *problem("a", "0100", "01")]
    found = decided(rows, SGPO, options(), 2)
    by_key = {each.key: each for each in rows}
    order = arranged(found.parcels, [Parcel.nothing("a_3_0", 3)] * 9, 1)
    data = to_fields(order)
    for name, field in (("prompts", "prompt_ids"), ("responses", "completion_ids")):
        values = [torch.tensor(getattr(by_key[each.key], field)) for each in order]
        data[name] = torch.nested.as_nested_tensor(values, layout=torch.jagged)
    received = [each for each in sequences_from(data) if each.contributes]
    expected = [each for update in found.updates for each in update.rows if each.contributes]

    def comparable(sequence: TrainingSequence) -> tuple[Any, ...]:
        weights = torch.as_tensor(sequence.weights, dtype=torch.float32).expand(len(sequence.completion_ids))
        old = None if sequence.old_logprobs is None else sequence.old_logprobs.tolist()
        head = (sequence.term, sequence.prompt_ids, sequence.completion_ids, sequence.teacher_prompt_ids)
        return (*head, weights.tolist(), old)

    assert sorted(map(comparable, received), key=str) == sorted(map(comparable, expected), key=str)
    assert pairs_from(data)[0] == (by_key[order[0].key].prompt_ids, by_key[order[0].key].completion_ids)


def test_scores_stand_one_place_before_their_tokens() -> None:
    found = aligned([torch.tensor([1.0, 2.0]), torch.tensor([3.0])], [3, 1])
    assert [each.tolist() for each in found.unbind()] == [[0, 0, 1, 2, 0], [3, 0]]
