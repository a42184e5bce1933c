from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sgpo.methods import grpo, sgpo
from sgpo.methods.arguments import MethodArguments
from sgpo.methods.records import Method, ProblemRollouts, TrainingSequence
from sgpo.methods.registry import METHODS
from sgpo.methods.weights import pass_rate
from sgpo.problems import Problem
from sgpo.sampling.records import Rollout
from sgpo.training.config import SGPOConfig
from sgpo.training.metrics import group_metrics, sampler_mismatch, verdict_metrics
from sgpo.verification import VerdictCounts

# Rewards 1, 0, 0: mean 1/3, squared deviations 4/9 + 1/9 + 1/9, unbiased variance 1/3.
GOOD, BAD = (2 / 3) / (math.sqrt(1 / 3) + 1e-6), (-1 / 3) / (math.sqrt(1 / 3) + 1e-6)


def rollout(reward: float, length: int, *, first: int = 50, truncated: bool = False) -> Rollout:
    ids = list(range(first, first + length))
    return Rollout(ids, [-0.5] * length, truncated=truncated, reward=reward, correct=reward == 1)


def group(
    autonomous: Sequence[Rollout], guided: Sequence[Rollout] = (), *, number: int = 0, strategy: bool = True
) -> ProblemRollouts:
    problem = Problem(str(number), f"problem {number}", "1", strategy="a way" if strategy else None)
    guided_prompt = [7, 8, number] if strategy else None
    return ProblemRollouts(problem, [number, 5], guided_prompt, list(autonomous), list(guided))


class FakeScorer:
    """Log-probabilities by the first token of the completion; remembers what it was asked."""

    def __init__(self, logprobs: dict[int, list[float]] | None = None) -> None:
        self.logprobs = logprobs or {}
        self.asked: list[list[tuple[list[int], list[int]]]] = []

    def __call__(self, sequences: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
        self.asked.append([(list(prompt), list(ids)) for prompt, ids in sequences])
        return [self.logprobs[ids[0]] for _, ids in sequences]


Config = Callable[..., SGPOConfig]


def test_the_methods() -> None:
    assert sorted(METHODS) == ["grpo", "hpt", "luffy", "sgpo"]


OPTIONS_OF = {
    "sgpo": "delta alpha_scale alpha_smoothing alpha_max alpha_rule alpha_fixed target_selection distillation "
    "train_autonomous without_strategy",
    "grpo sgpo": "eps_low eps_high",
    "hpt luffy": "normalization entropy_coefficient",
    "hpt": "hpt_gate hpt_sft_coefficient",
    "grpo hpt luffy sgpo": "num_autonomous num_guided max_completion_length importance_cap",
}
OWNERS = {option: owners.split() for owners, options in OPTIONS_OF.items() for option in options.split()}
OTHERS: dict[str, Any] = {  # than the default; of the others 0.25
    "alpha_rule": "fixed",
    "target_selection": "mean",
    "distillation": "reverse_kl",
    "train_autonomous": False,
    "without_strategy": "drop",
    "normalization": "grpo",
    "num_autonomous": 5,
    "num_guided": 6,
    "max_completion_length": 20,
}


def test_every_option_has_its_methods() -> None:
    assert {each.name for each in fields(MethodArguments)} == {"method", *OWNERS}


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("option", OWNERS)
def test_options_that_a_method_does_not_know_are_refused(make_config: Config, method: str, option: str) -> None:
    value, owners = OTHERS.get(option, 0.25), OWNERS[option]
    if method in owners:
        assert getattr(make_config(method=method, **{option: value}), option) == value
        return
    named = f"method {owners[0]}" if len(owners) == 1 else f"methods {' and '.join(owners)}"
    with pytest.raises(ValueError, match=f"^{option} belongs to {named}; {method} does not use it: leave it out$"):
        make_config(method=method, **{option: value})


def test_the_default_of_an_option_is_no_option(make_config: Config) -> None:
    assert make_config(method="grpo", hpt_gate=0.0, delta=1.0, alpha_rule="pass_rate").method == "grpo"


def test_a_method_of_ones_own_names_its_options(make_config: Config, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from sgpo.methods.registry import Method\nfrom sgpo.methods.grpo import assemble, group_sizes\n"
        "METHOD = Method(group_sizes, assemble, options=('eps_low', 'hpt_gate'))\n"
        "GUIDED = Method(group_sizes, assemble, uses=('strategy',))\n"
    )
    assert make_config(method=f"{file}:METHOD", eps_low=0.1, hpt_gate=0.5).hpt_gate == 0.5
    message = "delta belongs to method sgpo; {file}:METHOD does not use it: leave it out, or name it in the options of"
    with pytest.raises(ValueError, match=re.escape(message.format(file=file))):
        make_config(method=f"{file}:METHOD", delta=3.0)
    # What the package itself does for methods that use strategies.
    assert make_config(method=f"{file}:GUIDED", without_strategy="drop").without_strategy == "drop"
    with pytest.raises(ValueError, match=r"a method's options are of num_autonomous, .*, not hpt_gates"):
        Method(grpo.group_sizes, grpo.assemble, options=("hpt_gates",))


BARE, WITH_BOTH = Problem("1", "?", "1"), Problem("1", "?", "1", strategy="a way", response="so")


@pytest.mark.parametrize(
    ("method", "problem", "sizes"),
    [
        ("sgpo", WITH_BOTH, (8, 4)),
        ("sgpo", BARE, (12, 0)),
        ("grpo", WITH_BOTH, (12, 0)),
        ("grpo", BARE, (12, 0)),
        ("luffy", WITH_BOTH, (11, 0)),  # and the expert's response
        ("luffy", BARE, (12, 0)),
        ("hpt", WITH_BOTH, (12, 0)),
        ("hpt", BARE, (12, 0)),
    ],
)
def test_group_sizes(make_config: Config, method: str, problem: Problem, sizes: tuple[int, int]) -> None:
    config = make_config(num_autonomous=8, num_guided=4)
    assert METHODS[method].group_sizes(problem, config) == sizes


def test_pass_rate_counts_correct_completions_whatever_their_reward() -> None:
    rewards = {0.1: True, 0.5: False, 1.5: False, -1.0: True, 2.0: False}
    assert pass_rate([Rollout([1], [0.0], False, reward, correct) for reward, correct in rewards.items()]) == 0.4
    assert pass_rate([]) == 0.0


def test_a_truncated_completion_is_not_correct() -> None:
    with pytest.raises(ValueError, match="a truncated completion is not correct"):
        Rollout([1], [0.0], truncated=True, correct=True)


def test_grpo_weights_by_hand(make_config: Config) -> None:
    first = group([rollout(1, 4), rollout(0, 2), rollout(0, 5)], number=0)
    second = group([rollout(1, 3), rollout(0, 6)], number=1)
    assembly = grpo.assemble([first, second], FakeScorer(), make_config(method="grpo"))
    half = 0.5 / (math.sqrt(0.5) + 1e-6)  # rewards 1, 0: deviations 1/2, unbiased variance 1/2
    expected = [  # A_i / (B G1 |o_i|), B = 2
        ([0, 5], [GOOD / (2 * 3 * 4)] * 4),
        ([0, 5], [BAD / (2 * 3 * 2)] * 2),
        ([0, 5], [BAD / (2 * 3 * 5)] * 5),
        ([1, 5], [half / (2 * 2 * 3)] * 3),
        ([1, 5], [-half / (2 * 2 * 6)] * 6),
    ]
    assert [row.prompt_ids for row in assembly.sequences] == [prompt for prompt, _ in expected]
    for row, (_, weights) in zip(assembly.sequences, expected, strict=True):
        assert row.weights == pytest.approx(weights, rel=1e-12)
        assert (row.term, row.teacher_prompt_ids, row.old_logprobs) == ("surrogate", None, None)
    completions = [r.completion_ids for g in (first, second) for r in g.autonomous]
    assert [row.completion_ids for row in assembly.sequences] == completions
    assert assembly.alphas == []
    assert assembly.has_target == []


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_equal_rewards_weigh_nothing_but_stay(make_config: Config, reward: float) -> None:
    equal = group([rollout(reward, 4) for _ in range(3)], number=0)
    mixed = group([rollout(1, 4), rollout(0, 2), rollout(0, 5)], number=1)
    rows = grpo.assemble([equal, mixed], FakeScorer(), make_config(method="grpo")).sequences
    assert [row.weights for row in rows[:3]] == [[0.0] * 4] * 3
    assert rows[3].weights == pytest.approx([GOOD / (2 * 3 * 4)] * 4, rel=1e-12)  # B counts both problems


def test_sgpo_weights_by_hand(make_config: Config) -> None:
    """p_auto = 1/3, p_guide = 1/2: alpha = 0.5 (1/2 - 1/3 + 0.1) / (1/3 + 0.1)."""
    target = rollout(1, 5, first=80)
    with_target = group([rollout(1, 4), rollout(0, 2), rollout(0, 5)], [rollout(0, 3), target], number=0)
    without = group([rollout(1, 4), rollout(0, 2), rollout(0, 5)], [rollout(0, 3), rollout(0, 2)], number=1)
    scorer = FakeScorer()
    assembly = sgpo.assemble([with_target, without], scorer, make_config())
    alpha = 0.5 * (1 / 2 - 1 / 3 + 0.1) / (1 / 3 + 0.1)
    assert assembly.alphas == pytest.approx([alpha, 0.0], rel=1e-12)
    assert assembly.has_target == [True, False]
    assert [row.term for row in assembly.sequences] == ["surrogate"] * 3 + ["distillation"] + ["surrogate"] * 3
    row = assembly.sequences[3]
    assert row.weights == pytest.approx([alpha / (2 * 5)] * 5, rel=1e-12)
    assert row.prompt_ids == [0, 5]
    assert row.teacher_prompt_ids == [7, 8, 0]
    assert row.completion_ids == target.completion_ids
    assert row.old_logprobs is None
    assert assembly.sequences[0].weights == pytest.approx([GOOD / (2 * 3 * 4)] * 4, rel=1e-12)
    assert scorer.asked in ([], [[]])  # a single candidate needs no score


def test_alpha_follows_the_configuration(make_config: Config) -> None:
    one = group([rollout(1, 4), rollout(0, 2), rollout(0, 5)], [rollout(1, 3), rollout(1, 3)])
    by_hand = 0.3 * (1 - 1 / 3 + 0.2) / (1 / 3 + 0.2)
    assert sgpo.alpha(one, make_config(alpha_scale=0.3, alpha_smoothing=0.2)) == pytest.approx(by_hand, rel=1e-12)
    assert sgpo.alpha(one, make_config(alpha_scale=0.3, alpha_smoothing=0.2, alpha_max=0.25)) == 0.25


def test_no_correct_guided_completion_no_distillation(make_config: Config) -> None:
    """Eq. 6 alone would give 0.5 for (0, 0)."""
    hard = group([rollout(0, 4), rollout(0, 2)], [rollout(0, 3), rollout(0.9, 3)])
    assembly = sgpo.assemble([hard], FakeScorer(), make_config())
    assert assembly.alphas == [0.0]
    assert assembly.has_target == [False]
    assert [row.term for row in assembly.sequences] == ["surrogate"] * 2


def test_weight_zero_with_a_target_gives_no_row(make_config: Config) -> None:
    """p_auto = 3/4, p_guide = 1/2: Eq. 6 is negative, so alpha is 0 though there is a target."""
    easy = group([rollout(r, 4) for r in (1, 1, 1, 0)], [rollout(1, 3), rollout(0, 3)])
    assembly = sgpo.assemble([easy], FakeScorer(), make_config(num_autonomous=4))
    assert assembly.alphas == [0.0]
    assert assembly.has_target == [True]
    assert [row.term for row in assembly.sequences] == ["surrogate"] * 4


def test_truncated_completions_are_never_candidates(make_config: Config) -> None:
    cut = rollout(0, 3, first=80, truncated=True)
    kept = rollout(1, 9, first=90)
    autonomous = [rollout(0, 4), rollout(0, 2)]
    assert sgpo.candidates(group(autonomous, [cut, kept])) == [kept]
    alone = sgpo.assemble([group(autonomous, [cut])], FakeScorer(), make_config())
    assert alone.alphas == [0.0]
    assert all(row.term == "surrogate" for row in alone.sequences)
    both = sgpo.assemble([group(autonomous, [cut, kept])], FakeScorer(), make_config())
    assert both.sequences[-1].completion_ids == kept.completion_ids


def test_truncated_completions_stay_in_grpo(make_config: Config) -> None:
    one = group([rollout(1, 4), rollout(0, 2, truncated=True), rollout(0, 5)])
    rows = grpo.assemble([one], FakeScorer(), make_config(method="grpo")).sequences
    assert rows[1].weights == pytest.approx([BAD / (3 * 2)] * 2, rel=1e-12)


LONG, SHORT, WRONG = 100, 200, 300
SCORES = {LONG: [-0.5] * 6, SHORT: [-1.0] * 2}  # sums -3 and -2, means -0.5 and -1


@pytest.mark.parametrize(("how", "chosen"), [("sum", SHORT), ("mean", LONG)])
def test_target_is_the_likeliest_of_the_correct(make_config: Config, how: str, chosen: int) -> None:
    guided = [rollout(1, 6, first=LONG), rollout(0, 1, first=WRONG), rollout(1, 2, first=SHORT)]
    one = group([rollout(0, 4), rollout(0, 2)], guided, number=3)
    scorer = FakeScorer(SCORES)
    assembly = sgpo.assemble([one], scorer, make_config(target_selection=how, num_guided=3))
    assert assembly.sequences[-1].completion_ids[0] == chosen
    unguided = [3, 5]
    assert scorer.asked == [[(unguided, guided[0].completion_ids), (unguided, guided[2].completion_ids)]]


def test_targets_of_all_problems_are_scored_in_one_call(make_config: Config) -> None:
    """Problems with none, one and two candidates in turn: each gets its own target."""
    autonomous = [rollout(0, 4), rollout(0, 2)]
    groups = [
        group(autonomous, [rollout(1, 2, first=SHORT), rollout(1, 6, first=LONG)], number=0),
        group(autonomous, [rollout(0, 2, first=WRONG), rollout(1, 3, first=400)], number=1),
        group(autonomous, [rollout(0, 2, first=WRONG), rollout(0, 3, first=500)], number=2),
        group(autonomous, [rollout(1, 1, first=600), rollout(1, 1, first=700)], number=3),
        group(autonomous, [rollout(1, 1, first=700), rollout(1, 1, first=600)], number=4),
    ]
    scorer = FakeScorer({**SCORES, 600: [-3.0], 700: [-1.0]})
    assembly = sgpo.assemble(groups, scorer, make_config())
    rows = [row for row in assembly.sequences if row.term == "distillation"]
    assert [(row.prompt_ids[0], row.completion_ids[0]) for row in rows] == [(0, SHORT), (1, 400), (3, 700), (4, 700)]
    assert [row.teacher_prompt_ids for row in rows] == [[7, 8, 0], [7, 8, 1], [7, 8, 3], [7, 8, 4]]
    assert [len(asked) for asked in scorer.asked] == [6]
    # p_auto = 0: (p_guide + 0.1) / 0.2 is above the cap everywhere
    assert assembly.alphas == [0.8, 0.8, 0.0, 0.8, 0.8]
    assert rows[1].weights == pytest.approx([0.8 / (5 * 3)] * 3, rel=1e-12)


def test_alpha_zero_gives_grpo_on_the_same_completions(make_config: Config) -> None:
    groups = [
        group([rollout(1, 4), rollout(0, 2), rollout(0, 5)], [rollout(1, 3), rollout(1, 2)], number=0),
        group([rollout(0, 4), rollout(0, 2)], [rollout(1, 3)], number=1),
        group([rollout(0, 4), rollout(1, 2)], number=2, strategy=False),
    ]
    scorer = FakeScorer()
    ours = sgpo.assemble(groups, scorer, make_config(alpha_max=0.0))
    assert ours.sequences == grpo.assemble(groups, scorer, make_config(method="grpo")).sequences
    assert ours.alphas == [0.0] * 3


def test_group_metrics_by_hand(make_config: Config) -> None:
    groups = [
        group([rollout(1, 4), rollout(0, 2), rollout(0, 6)], [rollout(1, 3), rollout(0, 2, truncated=True)], number=0),
        group([rollout(0, 4), rollout(0, 2), rollout(0, 6)], [rollout(0, 5), rollout(0, 4)], number=1),
    ]
    alpha = 0.5 * (1 / 2 - 1 / 3 + 0.1) / (1 / 3 + 0.1)
    metrics = group_metrics(groups, sgpo.assemble(groups, FakeScorer(), make_config())).values()
    expected: dict[str, Any] = {
        "reward/autonomous": 1 / 6,
        "pass_rate/autonomous": 1 / 6,
        "length/autonomous": 4.0,
        "truncated/autonomous": 0.0,
        "reward/guided": 0.25,
        "pass_rate/guided": 0.25,
        "length/guided": 3.5,
        "truncated/guided": 0.25,
        "zero_variance_share": 0.5,
        "alpha": alpha / 2,
        "alpha_with_target": alpha,
        "target_share": 0.5,
        "surprisal": 0.5,
    }
    assert metrics == pytest.approx(expected, rel=1e-12)
    alone = group_metrics(groups[1:], grpo.assemble(groups[1:], FakeScorer(), make_config(method="grpo"))).values()
    assert {"alpha", "alpha_with_target", "target_share"}.isdisjoint(alone)
    assert alone["zero_variance_share"] == 1.0


def test_verdicts_are_shares() -> None:
    assert verdict_metrics(VerdictCounts()).values() == {}
    counts = VerdictCounts()
    counts.add(["correct"] * 12 + ["wrong"] * 6 + ["unparsed", "timeout"])
    expected = {"correct": 0.6, "wrong": 0.3, "unparsed": 0.05, "timeout": 0.05}
    assert verdict_metrics(counts).values() == {f"verdicts/{status}": share for status, share in expected.items()}


def test_the_mismatch_counts_differences_of_both_signs() -> None:
    def row(old: list[float] | None, sampled: list[float] | None) -> TrainingSequence:
        return TrainingSequence("ratio", [1], [2, 3], [1.0, 1.0], old_logprobs=old, sampler_logprobs=sampled)

    compared = [row([-1.0, -2.0], [-1.5, -1.0]), row([-1.0, -1.0], [-1.0, -3.0])]
    others = [row(None, [-9.0, -9.0]), row([-9.0, -9.0], None)]
    assert sampler_mismatch([*compared, *others]).values() == {"sampler_mismatch": (0.5 + 1.0 + 0.0 + 2.0) / 4}
    assert sampler_mismatch(others).values() == {}
