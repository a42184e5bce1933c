"""`guidance: after_failure`: guided completions only where no autonomous one is correct."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from trainer_setup import PLANS, MakeTrainer, full_reward

from sgpo.methods.records import ProblemRollouts
from sgpo.methods.registry import METHODS
from sgpo.problems import Problem
from sgpo.training.start_table import start_rows
from sgpo.training.step import joined
from sgpo.training.trainer import SGPOTrainer

G1, G2 = 3, 2
UNSOLVED = [1, 7]  # of the plans with a strategy, those without a correct autonomous completion
SOLVED = [0, 2, 4, 5, 6]


@pytest.fixture
def trainer(make_trainer: MakeTrainer) -> SGPOTrainer:
    return make_trainer(guidance="after_failure")


@pytest.fixture
def answered(trainer: SGPOTrainer, problems: list[Problem]) -> Callable[[], list[ProblemRollouts]]:
    """All completions of the problems, as a rollout batch has them."""

    def sample() -> list[ProblemRollouts]:
        groups = trainer._verify(trainer._sample(problems))
        return joined(groups, trainer._verify(trainer._sample_after_verdict(groups), goes_on=True))

    return sample


def test_the_second_call_depends_on_the_verdict(
    trainer: SGPOTrainer, problems: list[Problem], answered: Callable[[], list[ProblemRollouts]]
) -> None:
    groups = answered()
    (first, _, seed), (second, _, other_seed) = trainer.sampler.calls  # type: ignore[attr-defined]
    assert [request.count for request in first] == [3, 3, 3, 5, 3, 3, 3, 3]  # that without a strategy waits for nothing
    bare = [request.prompt_ids for request in first]
    assert [request.prompt_ids for request in second[: len(SOLVED)]] == [bare[place] for place in SOLVED]
    guided = [groups[place].prompts["guided"] for place in UNSOLVED]
    assert [request.prompt_ids for request in second[len(SOLVED) :]] == guided
    assert {request.count for request in second} == {G2}
    assert seed != other_seed
    for place, group in enumerate(groups):
        assert group.problem == problems[place]
        plans = PLANS[place][0]
        again = plans[:G2] if place in SOLVED else []  # the scripted sampler begins anew
        assert [rollout.reward for rollout in group.autonomous] == [full_reward(plan) for plan in [*plans, *again]]
        assert [rollout.reward for rollout in group.guided] == (
            [full_reward(plan) for plan in PLANS[place][1]] if place in UNSOLVED else []
        )
        assert sum(len(rollouts) for rollouts in group.groups.values()) == G1 + G2


def test_what_is_learnt(
    trainer: SGPOTrainer, make_trainer: MakeTrainer, answered: Callable[[], list[ProblemRollouts]]
) -> None:
    """GRPO on all completions where one is correct; elsewhere the target, with the weight of p_auto = 0."""
    groups = answered()
    decisions = [decision for update in trainer._decide(groups) for decision in update.decisions]
    by_grpo = make_trainer(method="grpo", num_autonomous=G1, num_guided=G2)
    expected = [decision for update in by_grpo._decide(groups) for decision in update.decisions]
    for place in [*SOLVED, 3]:
        ours, grpo = decisions[place].rows, expected[place].rows
        assert [(row.term, row.completion_ids, row.weights) for row in ours] == [
            (row.term, row.completion_ids, row.weights) for row in grpo
        ]
        assert decisions[place].alpha == 0
        assert len(ours) == G1 + G2
    # p_guide is 1/2: clip(.5 (.5 + .1) / .1, 0, .8) = .8, by 4 problems an update and 8 tokens of the target
    rows = {row.term: row for row in decisions[1].rows if row.contributes}
    assert (decisions[1].alpha, list(rows)) == (0.8, ["distillation"])
    assert len(rows["distillation"].completion_ids) == 8
    assert float(rows["distillation"].weights) == pytest.approx(0.8 / (4 * 8))
    assert not any(row.contributes for row in decisions[7].rows)
    assert decisions[1].reason.startswith(
        "0 of 3 autonomous completions are correct; equal rewards weigh nothing, 1 of 2"
    )
    assert decisions[0].reason.endswith("no guidance needed")
    assert decisions[3].reason.endswith("no strategy")


def test_a_rollout_batch_has_two_calls(trainer: SGPOTrainer) -> None:
    """And two updates, of four problems each; one of eight problems has a target."""
    trainer.train()
    assert len(trainer.sampler.calls) == 2  # type: ignore[attr-defined]
    lines = [line for line in trainer.state.log_history if "target_share" in line]
    assert sum(line["target_share"] for line in lines) == pytest.approx(2 / 8)
    assert sum(line["alpha"] for line in lines) == pytest.approx(2 * 0.8 / 8)


def test_without_it_there_is_one_call(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.train()
    assert len(trainer.sampler.calls) == 1  # type: ignore[attr-defined]


def test_the_work_is_that_of_the_worst_problem() -> None:
    method = METHODS["sgpo"]
    work = method.work(method.options(num_autonomous=5, num_guided=3, guidance="after_failure"))
    assert (work.sampled, work.ratios, work.learnt, work.scored, work.taught, work.calls) == (8, 8, 9, 4, 1, 2)


def test_the_start_says_both_kinds(trainer: SGPOTrainer, problems: list[Problem]) -> None:
    rows = dict(start_rows(trainer.args, problems, 50, 2, 0, evaluated=False))
    assert rows["samples a problem"] == "3 autonomous + 2 guided after a failure, else 5 autonomous or 5 autonomous"
    # 4 problems an update: 20 autonomous rows if all are solved, and 8 guided ones if none is
    assert "hold up to 28 sequences" in rows["micro-batches an update"]


def test_a_method_of_ones_own_with_experts(trainer: SGPOTrainer, problems: list[Problem]) -> None:
    """The expert's responses are verified once, in the first call."""
    method = replace(trainer.method, uses=("strategy", "response"))
    trainer.method = method
    some = [replace(problem, response="so 1") for problem in problems[:2]]
    groups = trainer._verify(trainer._sample(some))
    later = trainer._sample_after_verdict(groups)
    assert [len(group.experts) for group in groups] == [1, 1]
    assert [group.experts for group in later] == [[], []]
    assert [len(group.experts) for group in joined(groups, later)] == [1, 1]


@pytest.mark.parametrize("name", ["guidde", "autonomous"])
def test_only_a_prompt_of_the_method_can_wait(name: str) -> None:
    method = replace(METHODS["sgpo"], after_failure=lambda options: (name,))
    with pytest.raises(
        ValueError, match=f"the method lets the prompt '{name}' wait for a failure; it may be of guided"
    ):
        method.waiting(method.options())


def test_without_autonomous_rows_it_is_refused() -> None:
    refusals = METHODS["sgpo"].options(guidance="after_failure", train_autonomous=False).refusals()
    assert any("train_autonomous: false learns none" in each for each in refusals)
