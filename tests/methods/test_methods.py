from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from method_cases import decided, group_of, scores, weights_of

from sgpo.methods import grpo, sgpo
from sgpo.methods.method import Method
from sgpo.methods.records import ProblemRollouts, TokenScores, TrainingSequence
from sgpo.methods.registry import DEFAULTS, METHODS, find_method, options_from
from sgpo.methods.sgpo import SGPOOptions
from sgpo.methods.weights import pass_rate
from sgpo.problems import Problem
from sgpo.sampling.records import Rollout, correct_of
from sgpo.training.config import SGPOConfig
from sgpo.training.metrics import group_metrics, sampler_mismatch, verdict_metrics
from sgpo.verification import VerdictCounts

# Rewards 1, 0, 0: mean 1/3, squared deviations 4/9 + 1/9 + 1/9, unbiased variance 1/3.
GOOD, BAD = (2 / 3) / (math.sqrt(1 / 3) + 1e-6), (-1 / 3) / (math.sqrt(1 / 3) + 1e-6)


def rollout(reward: float, length: int, *, first: int = 50, truncated: bool = False) -> Rollout:
    ids = list(range(first, first + length))
    return Rollout(ids, torch.full((length,), -0.5), truncated=truncated, reward=reward, correct=reward == 1)


def group(
    autonomous: Sequence[Rollout], guided: Sequence[Rollout] = (), *, number: int = 0, strategy: bool = True
) -> ProblemRollouts:
    problem = Problem(str(number), f"problem {number}", "1", strategy="a way" if strategy else None)
    guided_prompt = [7, 8, number] if strategy else None
    return group_of(problem, [number, 5], guided_prompt, autonomous, guided)


class FakeScorer:
    """Log-probabilities by the first token of the completion; remembers what it was asked."""

    def __init__(self, logprobs: dict[int, list[float]] | None = None) -> None:
        self.logprobs = logprobs or {}
        self.asked: list[list[tuple[list[int], list[int]]]] = []

    def __call__(self, sequences: Sequence[tuple[list[int], list[int]]]) -> list[TokenScores]:
        self.asked.append([(list(prompt), list(ids)) for prompt, ids in sequences])
        return [scores(self.logprobs[ids[0]]) for _, ids in sequences]


Config = Callable[..., SGPOConfig]


def test_the_methods() -> None:
    assert sorted(METHODS) == ["ampo", "grpo", "hpt", "luffy", "opsd", "scaf_grpo", "sdpo", "sgpo", "srft"]


OPTIONS_OF = {
    "sgpo": "delta alpha_scale alpha_smoothing alpha_max alpha_rule alpha_fixed target_selection distillation "
    "train_autonomous guidance without_strategy",
    "ampo grpo scaf_grpo sgpo": "eps_low eps_high",
    "ampo": "ampo_replaced",
    "ampo hpt luffy srft": "normalization entropy_coefficient",
    "opsd sdpo": "divergence",
    "opsd": "opsd_teacher_update_rate",
    "sdpo": "sdpo_prompt_length sdpo_teacher_update_rate",
    "scaf_grpo": "scaf_exempt_updates",
    "srft": "srft_sft_coefficient srft_rl_coefficient",
    "hpt": "hpt_gate hpt_sft_coefficient",
    "ampo grpo hpt luffy opsd scaf_grpo sdpo sgpo srft": "num_autonomous num_guided max_completion_length "
    "importance_cap",
}
OWNERS = {option: owners.split() for owners, options in OPTIONS_OF.items() for option in options.split()}
OTHERS: dict[str, Any] = {  # than the default; of the others 0.25
    "alpha_rule": "fixed",
    "target_selection": "mean",
    "distillation": "reverse_kl",
    "train_autonomous": False,
    "guidance": "after_failure",
    "without_strategy": "drop",
    "normalization": "grpo",
    "divergence": "reverse_kl",
    "sdpo_prompt_length": 100,
    "num_autonomous": 5,
    "ampo_replaced": 3,
    "scaf_exempt_updates": 7,
    "num_guided": 3,
    "max_completion_length": 20,
}


WITHOUT_RATIOS = {"srft", "opsd", "sdpo"}


def test_every_option_has_its_methods() -> None:
    assert DEFAULTS.keys() == OWNERS.keys()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_work_of_a_method_holds_what_it_samples(name: str) -> None:
    method, problem = METHODS[name], Problem("p", "1+1", "2", "1+1 is \\boxed{2}", "Add.")
    options = method.options(num_autonomous=5, num_guided=3)
    work = method.work(options)
    assert work.sampled == sum(method.sample_counts(problem, options).values())
    assert work.ratios <= work.sampled
    assert work.ratios + work.taught <= work.learnt


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("option", OWNERS)
def test_options_that_a_method_does_not_know_are_refused(make_config: Config, method: str, option: str) -> None:
    value, owners = OTHERS.get(option, 0.25), OWNERS[option]
    if option == "importance_cap" and method in WITHOUT_RATIOS:
        with pytest.raises(ValueError, match=r"importance_cap corrects ratios, and this method has none"):
            make_config(method=method, **{option: value})
    elif method in owners:
        assert getattr(make_config(method=method, **{option: value}), option) == value
    else:
        named = f"method {owners[0]}" if len(owners) == 1 else f"methods {' and '.join(owners)}"
        with pytest.raises(ValueError, match=f"^{option} belongs to {named}; {method} does not use it: leave it out$"):
            make_config(method=method, **{option: value})


def test_the_default_of_an_option_is_no_option(make_config: Config) -> None:
    assert make_config(method="grpo", hpt_gate=0.0, delta=1.0, alpha_rule="pass_rate").method == "grpo"


def test_a_method_of_ones_own_names_its_options(make_config: Config, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom sgpo.methods.method import Method, all_autonomous\n"
        "from sgpo.methods.grpo import GRPOOptions, decide\n"
        "@dataclass\nclass Mine(GRPOOptions):\n    hpt_gate: float = 0.0\n    keep: float = 0.5\n"
        "@dataclass\nclass Other(GRPOOptions):\n    delta: float = 3.0\n"
        "@dataclass\nclass Clash(GRPOOptions):\n    seed: int = 3\n"
        "METHOD = Method(Mine, all_autonomous, decide)\nOTHER = Method(Other, all_autonomous, decide)\n"
        "CLASH = Method(Clash, all_autonomous, decide)\n"
    )
    found = make_config(method=f"{file}:METHOD", eps_low=0.1, hpt_gate=0.5, method_options={"keep": 0.25})
    options = options_from(find_method(found.method), found)
    assert (options.eps_low, options.hpt_gate, options.keep, options.num_guided) == (0.1, 0.5, 0.25, found.num_guided)

    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(ValueError, match=re.escape(message.format(file=file))):
            make_config(**changes)

    mine = f"{file}:METHOD"
    refused("delta belongs to method sgpo; {file}:METHOD does not use it: leave it out, or", method=mine, delta=3.0)
    refused("kept is none of the own options of method", method=mine, method_options={"kept": 1})
    refused("keep is none of the own options of method grpo: it has none", method="grpo", method_options={"keep": 1})
    refused("option delta of method {file}:OTHER has the default 3.0, and 1.0 in sgpo", method=f"{file}:OTHER")
    refused("seed is an option of method {file}:CLASH and an argument of every run", method=f"{file}:CLASH")
    with pytest.raises(ValueError, match="a method's options are a dataclass derived from MethodOptions"):
        Method(dict, grpo.METHOD.samples, grpo.decide)  # type: ignore[arg-type]


BARE, WITH_BOTH = Problem("1", "?", "1"), Problem("1", "?", "1", strategy="a way", response="so")


@pytest.mark.parametrize(
    ("method", "problem", "sizes"),
    [
        ("sgpo", WITH_BOTH, {"autonomous": 8, "guided": 4}),
        ("sgpo", BARE, {"autonomous": 12}),
        ("grpo", WITH_BOTH, {"autonomous": 12}),
        ("grpo", BARE, {"autonomous": 12}),
        ("luffy", WITH_BOTH, {"autonomous": 11}),  # and the expert's response
        ("luffy", BARE, {"autonomous": 12}),
        ("srft", WITH_BOTH, {"autonomous": 11}),
        ("srft", BARE, {"autonomous": 12}),
        ("opsd", WITH_BOTH, {"autonomous": 12}),
        ("sdpo", BARE, {"autonomous": 12}),
        ("ampo", WITH_BOTH, {"autonomous": 12}),
        ("scaf_grpo", WITH_BOTH, {"autonomous": 10, "whole_strategy": 1, "informed": 1}),
        ("hpt", WITH_BOTH, {"autonomous": 12}),
        ("hpt", BARE, {"autonomous": 12}),
    ],
)
def test_sample_counts(make_config: Config, method: str, problem: Problem, sizes: dict[str, int]) -> None:
    config = make_config(num_autonomous=8, num_guided=4)
    assert METHODS[method].sample_counts(problem, options_from(METHODS[method], config)) == sizes


def test_pass_rate_counts_correct_completions_whatever_their_reward() -> None:
    rewards = {0.1: True, 0.5: False, 1.5: False, -1.0: True, 2.0: False}
    some = [Rollout([1], None, False, reward, correct) for reward, correct in rewards.items()]
    assert pass_rate(correct_of(some)) == 0.4
    assert pass_rate(correct_of([])) == 0.0


def test_a_truncated_completion_is_not_correct() -> None:
    with pytest.raises(ValueError, match="a truncated completion is not correct"):
        Rollout([1], None, truncated=True, correct=True)


def test_grpo_weights_by_hand(make_config: Config) -> None:
    first = group([rollout(1, 4), rollout(0, 2), rollout(0, 5)], number=0)
    second = group([rollout(1, 3), rollout(0, 6)], number=1)
    assembly = decided(grpo.METHOD, [first, second], make_config(method="grpo"), FakeScorer())
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
        assert weights_of(row) == pytest.approx(weights, rel=1e-12)
        assert (row.term, row.teacher_prompt_ids, row.old_logprobs) == ("surrogate", None, None)
    completions = [r.completion_ids for g in (first, second) for r in g.autonomous]
    assert [row.completion_ids for row in assembly.sequences] == completions
    assert assembly.alphas == [None, None]
    assert assembly.metric("target_share") == [None, None]


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_equal_rewards_weigh_nothing_but_stay(make_config: Config, reward: float) -> None:
    equal = group([rollout(reward, 4) for _ in range(3)], number=0)
    mixed = group([rollout(1, 4), rollout(0, 2), rollout(0, 5)], number=1)
    rows = decided(grpo.METHOD, [equal, mixed], make_config(method="grpo"), FakeScorer()).sequences
    assert [weights_of(row) for row in rows[:3]] == [[0.0] * 4] * 3
    assert weights_of(rows[3]) == pytest.approx([GOOD / (2 * 3 * 4)] * 4, rel=1e-12)  # B counts both problems


def test_sgpo_weights_by_hand(make_config: Config) -> None:
    """p_auto = 1/3, p_guide = 1/2: alpha = 0.5 (1/2 - 1/3 + 0.1) / (1/3 + 0.1)."""
    target = rollout(1, 5, first=80)
    with_target = group([rollout(1, 4), rollout(0, 2), rollout(0, 5)], [rollout(0, 3), target], number=0)
    without = group([rollout(1, 4), rollout(0, 2), rollout(0, 5)], [rollout(0, 3), rollout(0, 2)], number=1)
    scorer = FakeScorer()
    assembly = decided(sgpo.METHOD, [with_target, without], make_config(), scorer)
    alpha = 0.5 * (1 / 2 - 1 / 3 + 0.1) / (1 / 3 + 0.1)
    assert assembly.alphas == pytest.approx([alpha, 0.0], rel=1e-12)
    assert assembly.metric("target_share") == [True, False]
    assert [row.term for row in assembly.sequences] == ["surrogate"] * 3 + ["distillation"] + ["surrogate"] * 3
    row = assembly.sequences[3]
    assert weights_of(row) == pytest.approx([alpha / (2 * 5)] * 5, rel=1e-12)
    assert row.prompt_ids == [0, 5]
    assert row.teacher_prompt_ids == [7, 8, 0]
    assert row.completion_ids == target.completion_ids
    assert row.old_logprobs is None
    assert weights_of(assembly.sequences[0]) == pytest.approx([GOOD / (2 * 3 * 4)] * 4, rel=1e-12)
    assert scorer.asked in ([], [[]])  # a single candidate needs no score


def test_alpha_follows_the_configuration(make_config: Config) -> None:
    one = group([rollout(1, 4), rollout(0, 2), rollout(0, 5)], [rollout(1, 3), rollout(1, 3)])
    by_hand = 0.3 * (1 - 1 / 3 + 0.2) / (1 / 3 + 0.2)
    assert sgpo.alpha(one, SGPOOptions(alpha_scale=0.3, alpha_smoothing=0.2)) == pytest.approx(by_hand, rel=1e-12)
    assert sgpo.alpha(one, SGPOOptions(alpha_scale=0.3, alpha_smoothing=0.2, alpha_max=0.25)) == 0.25


def test_no_correct_guided_completion_no_distillation(make_config: Config) -> None:
    """Eq. 6 alone would give 0.5 for (0, 0)."""
    hard = group([rollout(0, 4), rollout(0, 2)], [rollout(0, 3), rollout(0.9, 3)])
    assembly = decided(sgpo.METHOD, [hard], make_config(), FakeScorer())
    assert assembly.alphas == [0.0]
    assert assembly.metric("target_share") == [False]
    assert [row.term for row in assembly.sequences] == ["surrogate"] * 2


def test_weight_zero_with_a_target_gives_no_row(make_config: Config) -> None:
    """p_auto = 3/4, p_guide = 1/2: Eq. 6 is negative, so alpha is 0 though there is a target."""
    easy = group([rollout(r, 4) for r in (1, 1, 1, 0)], [rollout(1, 3), rollout(0, 3)])
    assembly = decided(sgpo.METHOD, [easy], make_config(num_autonomous=4), FakeScorer())
    assert assembly.alphas == [0.0]
    assert assembly.metric("target_share") == [True]
    assert [row.term for row in assembly.sequences] == ["surrogate"] * 4


def test_truncated_completions_are_never_candidates(make_config: Config) -> None:
    cut = rollout(0, 3, first=80, truncated=True)
    kept = rollout(1, 9, first=90)
    autonomous = [rollout(0, 4), rollout(0, 2)]
    assert sgpo.candidates(group(autonomous, [cut, kept])) == [kept]
    alone = decided(sgpo.METHOD, [group(autonomous, [cut])], make_config(), FakeScorer())
    assert alone.alphas == [0.0]
    assert all(row.term == "surrogate" for row in alone.sequences)
    both = decided(sgpo.METHOD, [group(autonomous, [cut, kept])], make_config(), FakeScorer())
    assert both.sequences[-1].completion_ids == kept.completion_ids


def test_truncated_completions_stay_in_grpo(make_config: Config) -> None:
    one = group([rollout(1, 4), rollout(0, 2, truncated=True), rollout(0, 5)])
    rows = decided(grpo.METHOD, [one], make_config(method="grpo"), FakeScorer()).sequences
    assert weights_of(rows[1]) == pytest.approx([BAD / (3 * 2)] * 2, rel=1e-12)


LONG, SHORT, WRONG = 100, 200, 300
SCORES = {LONG: [-0.5] * 6, SHORT: [-1.0] * 2}  # sums -3 and -2, means -0.5 and -1


@pytest.mark.parametrize(("how", "chosen"), [("sum", SHORT), ("mean", LONG)])
def test_target_is_the_likeliest_of_the_correct(make_config: Config, how: str, chosen: int) -> None:
    guided = [rollout(1, 6, first=LONG), rollout(0, 1, first=WRONG), rollout(1, 2, first=SHORT)]
    one = group([rollout(0, 4), rollout(0, 2)], guided, number=3)
    scorer = FakeScorer(SCORES)
    assembly = decided(sgpo.METHOD, [one], make_config(target_selection=how, num_guided=3), scorer)
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
    assembly = decided(sgpo.METHOD, groups, make_config(), scorer)
    rows = [row for row in assembly.sequences if row.term == "distillation"]
    assert [(row.prompt_ids[0], row.completion_ids[0]) for row in rows] == [(0, SHORT), (1, 400), (3, 700), (4, 700)]
    assert [row.teacher_prompt_ids for row in rows] == [[7, 8, 0], [7, 8, 1], [7, 8, 3], [7, 8, 4]]
    assert [len(asked) for asked in scorer.asked] == [6]
    # p_auto = 0: (p_guide + 0.1) / 0.2 is above the cap everywhere
    assert assembly.alphas == [0.8, 0.8, 0.0, 0.8, 0.8]
    assert weights_of(rows[1]) == pytest.approx([0.8 / (5 * 3)] * 3, rel=1e-12)


def test_alpha_zero_gives_grpo_on_the_same_completions(make_config: Config) -> None:
    groups = [
        group([rollout(1, 4), rollout(0, 2), rollout(0, 5)], [rollout(1, 3), rollout(1, 2)], number=0),
        group([rollout(0, 4), rollout(0, 2)], [rollout(1, 3)], number=1),
        group([rollout(0, 4), rollout(1, 2)], number=2, strategy=False),
    ]
    scorer = FakeScorer()
    ours = decided(sgpo.METHOD, groups, make_config(alpha_max=0.0), scorer)
    assert ours.sequences == decided(grpo.METHOD, groups, make_config(method="grpo"), scorer).sequences
    assert ours.alphas == [0.0] * 3


def test_group_metrics_by_hand(make_config: Config) -> None:
    groups = [
        group([rollout(1, 4), rollout(0, 2), rollout(0, 6)], [rollout(1, 3), rollout(0, 2, truncated=True)], number=0),
        group([rollout(0, 4), rollout(0, 2), rollout(0, 6)], [rollout(0, 5), rollout(0, 4)], number=1),
    ]
    alpha = 0.5 * (1 / 2 - 1 / 3 + 0.1) / (1 / 3 + 0.1)
    metrics = group_metrics(groups, decided(sgpo.METHOD, groups, make_config(), FakeScorer()).decisions).values()
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
    of_grpo = decided(grpo.METHOD, groups[1:], make_config(method="grpo"))
    alone = group_metrics(groups[1:], of_grpo.decisions).values()
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
        known = {name: None if v is None else torch.tensor(v) for name, v in (("old", old), ("sampler", sampled))}
        of_old, of_sampler = known["old"], known["sampler"]
        return TrainingSequence("ratio", [1], [2, 3], 1.0, old_logprobs=of_old, sampler_logprobs=of_sampler)

    compared = [row([-1.0, -2.0], [-1.5, -1.0]), row([-1.0, -1.0], [-1.0, -3.0])]
    others = [row(None, [-9.0, -9.0]), row([-9.0, -9.0], None)]
    assert sampler_mismatch([*compared, *others]).values() == {"sampler_mismatch": (0.5 + 1.0 + 0.0 + 2.0) / 4}
    assert sampler_mismatch(others).values() == {}
