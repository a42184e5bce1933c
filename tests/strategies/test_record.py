"""Reading strategies and scores out of what models write."""

from __future__ import annotations

import pytest

from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.strategies.extract import ScoreFormatError, parse_scores
from sgpo.strategies.prompts import StrategyPrompts, repair_messages, strategy_prompts
from sgpo.strategies.record import Strategy, StrategyFormatError, parse_strategy

STRATEGY = Strategy(
    "linear equation", "undo each operation by its inverse", ("find the outermost operation", "apply its inverse")
)


def test_text_is_the_format_that_training_reads() -> None:
    assert STRATEGY.text == (
        "Problem type: linear equation\nStrategy: undo each operation by its inverse\n"
        "Steps: (a) find the outermost operation (b) apply its inverse"
    )
    assert parse_strategy(STRATEGY.text) == STRATEGY


def test_every_strategy_of_the_mini_world_survives_a_round_trip() -> None:
    sizes = Sizes.only(rl=100, test_deeper=30, test_wording=30, test_composed=30, test_unseen=30)
    for problems in problem_sets(0, sizes).values():
        for problem in problems:
            for text in (problem.strategy, problem.extra["foreign_strategy"]):
                assert parse_strategy(str(text)).text == text


@pytest.mark.parametrize(
    "text",
    [
        "**Problem type:** linear equation\n\n**Strategy:** undo each operation\n  by its inverse\n\n**Steps:**\n"
        "(a) find the outermost operation\n(b) apply its inverse\n",
        "Here it is:\n\n## Problem Type\nlinear equation\n## Strategy\nundo each operation by its inverse\n## Steps\n"
        "1. find the outermost operation\n2. apply its inverse",
        "```text\nProblem type: linear equation\nStrategy: undo each operation by its inverse\nSteps:\n"
        "a) find the outermost operation\nb) apply its inverse\n```",
        "1. Problem type: linear equation\n2. Strategy: undo each operation by its inverse\n3. Steps:\n"
        "- find the outermost operation\n- apply its inverse",
        "problem type: linear equation\nstrategy: undo each operation by its inverse\nsteps: "
        "**(a)** find the outermost operation **(b)** apply its inverse",
    ],
)
def test_decorated_answers_are_read(text: str) -> None:
    assert parse_strategy(text) == STRATEGY


def test_letters_inside_formulas_are_no_steps() -> None:
    steps = parse_strategy("Problem type: t\nStrategy: s\nSteps: (a) compare f(a) with f(b) (b) use (x) and f(c)").steps
    assert steps == ("compare f(a) with f(b)", "use (x) and f(c)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("The answer is 7.", "exactly three parts.*none of them"),
        ("Problem type: t\nSteps: (a) x", "it has Problem type, Steps"),
        ("Strategy: s\nProblem type: t\nSteps: (a) x", "it has Strategy, Problem type, Steps"),
        ("Problem type: t\nStrategy: s\nSteps: (a) x\nSteps: (a) y", "Problem type, Strategy, Steps, Steps"),
        ("Problem type:\nStrategy: s\nSteps: (a) x", "'Problem type:' is empty"),
        ("Problem type: t\nStrategy: s\nSteps: first this, then that", "must be lettered"),
        ("Problem type: t\nStrategy: s\nSteps: (a) x (c) y", r"not lettered in order: \(c\)"),
        ("Problem type: t\nStrategy: s\nSteps: (a) (b) y", r"step \(a\) is empty"),
        ("Problem type: t\nStrategy: s\nSteps: (a) x\nFinal answer: 7", "a part 'Final answer' after the steps"),
    ],
)
def test_other_answers_are_refused_with_what_to_mend(text: str, message: str) -> None:
    with pytest.raises(StrategyFormatError, match=message):
        parse_strategy(text)


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ('{"scores": [0.85, 0.4, 1]}', [0.85, 0.4, 1.0]),
        ('Candidate [1] is best.\n```json\n{"scores": [0.1, 0, 0.3]}\n```', [0.1, 0.0, 0.3]),
        ("[0.5, 0.5, 0.5] at first, but: [0.2, 0.3, 0.4]", [0.2, 0.3, 0.4]),
    ],
)
def test_scores_are_the_last_list(text: str, scores: list[float]) -> None:
    assert parse_scores(text, 3) == scores


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("They are all fine.", "no list of scores"),
        ('{"scores": []}', "no list of scores"),
        ('{"scores": [NaN, 1]}', "no list of scores"),
        ('{"scores": [true, false]}', "no list of scores"),
        ("[0.5]", "1 scores for 2 candidates"),
        ("[0.5, 1.5]", "1.5 is not between 0 and 1"),
        ("[0.5, -0.1]", "-0.1 is not between 0 and 1"),
    ],
)
def test_unusable_scores_are_refused(text: str, message: str) -> None:
    with pytest.raises(ScoreFormatError, match=message):
        parse_scores(text, 2)


def test_prompts_are_filled_in_one_pass(tmp_path: object) -> None:
    prompts = StrategyPrompts("P {problem} R {response} {other}", "{count}: {problem} {candidates}")
    assert prompts.extract_messages("{response}", "\\frac{1}{2}") == [
        {"role": "user", "content": "P {response} R \\frac{1}{2} {other}"}
    ]
    assert prompts.score_messages("q", "r", ["x", "y"])[0]["content"] == "2: q Candidate 1:\nx\n\nCandidate 2:\ny"
    assert repair_messages([{"role": "user", "content": "u"}], "wrong", "no {steps}")[2]["content"].startswith(
        "That cannot be used: no {steps}."
    )


def test_prompt_versions(tmp_path) -> None:
    own = tmp_path / "extract.txt"
    own.write_text("{problem} {response}")
    assert StrategyPrompts().version == strategy_prompts().version == "1"
    changed = strategy_prompts(extract=own).version
    assert changed.startswith("custom-")
    own.write_text("{problem}  {response}")
    assert strategy_prompts(extract=own).version not in (changed, "1")
    own.write_text("{problem}")
    with pytest.raises(ValueError, match=r"the extract prompt needs \{response\}"):
        strategy_prompts(extract=own)
