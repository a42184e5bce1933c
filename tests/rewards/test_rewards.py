"""Rewards: TRL's signature, weights, None, and functions named on the command line."""

from __future__ import annotations

import functools
import re

import pytest

from sgpo.rewards import Batch, choose_rewards, load_reward, math_reward, score


def rewards_of(functions, weights, *arguments):
    """Weighted sums; the first function says what is correct."""
    return score(choose_rewards(functions, weights, functions[0].__name__), Batch(*arguments)).rewards


def length_reward(completions, **columns):
    return [len(completion) / 10 for completion in completions]


def only_first(completions, **columns):
    return [2.0] + [None] * (len(completions) - 1)


def never(completions, **columns):
    return [None] * len(completions)


def test_math_reward_on_texts_and_messages():
    chat = [
        {"role": "user", "content": r"is it \boxed{1}?"},
        {"role": "assistant", "content": r"\boxed{2}"},
        {"role": "user", "content": r"sure? \boxed{4}"},
        {"role": "assistant", "content": r"\boxed{3}"},
    ]
    completions = [r"\boxed{7}", r"\boxed{8}", "7", chat]
    assert math_reward(completions, ["7", "7", "7", "3"], prompts=["?"] * 4) == [1.0, 0.0, 0.0, 1.0]


def test_math_reward_refuses_what_it_cannot_read():
    with pytest.raises(ValueError, match="2 completions but 1 answers"):
        math_reward(["a", "b"], ["1"])
    with pytest.raises(ValueError, match="needs an assistant message"):
        math_reward([[{"role": "user", "content": "a"}]], ["1"])
    with pytest.raises(ValueError, match="content must be text"):
        math_reward([[{"role": "assistant", "content": None}]], ["1"])


def test_score_weighs_and_leaves_none_out():
    completions = [r"\boxed{7}", r"\boxed{81}"]
    functions = [math_reward, length_reward, only_first]
    rewards = choose_rewards(functions, [1.0, 0.5, 0.25])
    batch = Batch(["p", "q"], completions, {"answer": ["7", "8"]})
    scores = score(rewards, batch)
    # 1 + 0.5 * 0.9 + 0.25 * 2 and 0 + 0.5 * 1.0
    assert scores.rewards == pytest.approx([1.95, 0.5], abs=1e-12)
    assert scores.correct == [True, False]
    assert scores.of_functions == {"math_reward": [1, 0], "length_reward": [0.9, 1.0], "only_first": [2, None]}
    cut = score(rewards, batch, truncated=[True, False])
    assert (cut.rewards, cut.correct) == ([0.0, scores.rewards[1]], [False, False])


def test_score_hands_over_prompts_and_columns():
    seen = {}

    def spy(prompts, completions, **columns):
        seen.update(prompts=prompts, completions=completions, **columns)
        return [True, 0]

    assert rewards_of([spy], [3.0], ["p", "q"], ["a", "b"], {"level": [1, 2]}) == [3.0, 0.0]
    assert {"log_metric", "log_extra", "trainer_state"} <= seen.keys()
    shown = {name: seen[name] for name in ("prompts", "completions", "level")}
    assert shown == {"prompts": ["p", "q"], "completions": ["a", "b"], "level": [1, 2]}


def test_score_names_the_sample_without_a_reward():
    with pytest.raises(ValueError, match=r"sample 1 \(prompt 'q'\): all of only_first, never returned None"):
        rewards_of([only_first, never], [1, 1], ["p", "q"], ["a", "b"], {})


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], "reward function broken returned 1 rewards for 2 completions"),
        (1.0, r"broken must return a list of 2 numbers or None, not 1\.0"),
        ([0.0, float("nan")], r"broken returned nan for sample 1 \(prompt 'q'\)"),
    ],
)
def test_score_refuses_wrong_returns(returned, message):
    def broken(completions, **columns):
        return returned

    with pytest.raises(ValueError, match=message):
        rewards_of([broken], [1.0], ["p", "q"], ["a", "b"], {})


def test_score_refuses_lengths_that_do_not_fit():
    with pytest.raises(ValueError, match="1 completions need as many prompts, not 2"):
        rewards_of([never], [1], ["p", "q"], ["a"], {})
    with pytest.raises(ValueError, match="column 'answer' has 2 values for 1 completions"):
        rewards_of([never], [1], ["p"], ["a"], {"answer": ["1", "2"]})


class Judge:
    def __call__(self, completions, **columns):
        return [1.0] * len(completions)


@pytest.mark.parametrize(
    ("functions", "asked", "names", "judges"),
    [
        (math_reward, (), ("math_reward",), ("math_reward",)),
        ([length_reward], (), ("length_reward",), ("length_reward",)),
        ([Judge()], (), ("Judge",), ("Judge",)),
        ([length_reward, math_reward], (), ("length_reward", "math_reward"), ("math_reward",)),
        ([never, functools.partial(math_reward, after_think=False)], (), ("never", "math_reward"), ("math_reward",)),
        ([length_reward, math_reward], "length_reward", ("length_reward", "math_reward"), ("length_reward",)),
        ([never, only_first], ["only_first", "never"], ("never", "only_first"), ("only_first", "never")),
        ([never, never], "never_2", ("never", "never_2"), ("never_2",)),
    ],
)
def test_which_function_says_what_is_correct(functions, asked, names, judges):
    rewards = choose_rewards(functions, correctness=asked)
    assert (rewards.names, rewards.correctness) == (names, judges)
    assert rewards.weights == (1.0,) * len(names)
    assert rewards.ask_verifier == ("math_reward" in names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "at least one reward function is needed, for example sgpo.rewards:math_reward"),
        (([never], [1, 2]), "1 reward functions need as many reward_weights, not 2"),
        (([never], [float("nan")]), "reward_weights are [nan]; they must be finite"),
        (("a/model",), "a reward function must be a function, not 'a/model'; sgpo.rewards.load_reward loads one"),
        (([never, 3],), "a reward function must be a function, not 3; sgpo.rewards.load_reward loads one"),
        (
            ([never, only_first],),
            "which of the reward functions never, only_first says what is correct? Name the one that gives 1 to a "
            "correct completion, such as  correctness: never  or add sgpo.rewards:math_reward, whose weight may be 0",
        ),
        (
            ([never, math_reward], None, "maths_reward"),
            "correctness names maths_reward, which is none of the reward functions: they are never, math_reward",
        ),
    ],
)
def test_what_is_no_choice_of_rewards_is_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        choose_rewards(*arguments)


def test_the_first_function_that_applies_says_what_is_correct():
    """An unweighted reward of 1 or more is correct; where none applies, nothing is."""

    def second(completions, **columns):
        return [1.0, 1.0, 0.0, None]

    def format_reward(completions, **columns):
        return [5.0] * 4

    def first(completions, **columns):
        return [0.99, None, 1.0, None]

    functions, batch = [format_reward, first, second], Batch(["p"] * 4, ["a"] * 4, {})
    assert score(choose_rewards(functions, correctness=["first", "second"]), batch).correct == [0, 1, 1, 0]
    assert score(choose_rewards(functions, correctness="second"), batch).correct == [1, 1, 0, 0]
    assert score(choose_rewards([first, format_reward], [0.0, 1.0], "first"), batch).correct == [0, 0, 1, 0]


def test_only_what_follows_the_last_think_tag_is_judged():
    completions = [
        r"<think>\boxed{8}</think> \boxed{7}",
        r"<think>\boxed{7}</think> so it is 7",
        r"\boxed{7}</think>\boxed{7}</think>\boxed{8}",
        r"<think>\boxed{7}",
    ]
    assert math_reward(completions, ["7"] * 4) == [1.0, 0.0, 0.0, 1.0]
    everything = functools.partial(math_reward, after_think=False)
    assert everything(completions, ["7"] * 4) == [1.0, 1.0, 0.0, 1.0]
    assert score(choose_rewards(everything), Batch(["p"], [completions[1]], {"answer": ["7"]})).rewards == [1.0]
    with pytest.raises(ValueError, match="give the data's column of that name another one"):
        math_reward(["a"], ["1"], after_think=["yes"])


def notes_of(function, completions=("good", "bad", "ugly"), prompts=("p", "q", "r")):
    with pytest.raises(KeyError, match="level") as caught:
        score(choose_rewards(function), Batch(prompts, completions, {}))
    assert caught.traceback[-1].frame.code.name != "score"  # the function's own traceback
    return caught.value.__notes__


def test_an_exception_names_the_function_and_the_sample():
    def look_up(text):
        if text == "bad":
            raise KeyError("level")
        return 1.0

    def in_a_loop(completions, **columns):
        return [look_up(completion) for completion in completions]

    expected = "raised by the reward function in_a_loop, called for 3 samples; at that moment its variable 'text' held "
    assert notes_of(in_a_loop) == [expected + "sample 1 (prompt 'q', completion 'bad')"]


def test_an_exception_for_the_batch_names_the_batch():
    def at_once(completions, **columns):
        raise KeyError("level")

    expected = "raised by the reward function at_once, called for 3 samples, the first with the prompt 'p'"
    assert notes_of(at_once) == [expected]
    assert notes_of(functools.partial(at_once, depth=1)) == [expected]
    assert notes_of(at_once, (), ()) == ["raised by the reward function at_once, called for 0 samples"]


def test_load_reward_from_module_and_file(tmp_path):
    assert load_reward("sgpo.rewards:math_reward") is math_reward
    file = tmp_path / "mine.py"
    file.write_text("def shout(completions, **columns):\n    return [float(c.isupper()) for c in completions]\n")
    assert rewards_of([load_reward(f"{file}:shout")], [2.0], ["p", "q"], ["A", "a"], {}) == [2.0, 0.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("math_reward", "write package.module:function"),
        ("sgpo.rewards:", "write package.module:function"),
        ("sgpo.rewards:missing", "sgpo.rewards has no function 'missing'"),
        ("sgpo.rewards:annotations", "is no function, but a _Feature"),
        ("sgpo.nowhere:reward", "no module 'sgpo.nowhere'.*path/to/file.py:function"),
        ("nowhere/mine.py:reward", "no file nowhere/mine.py"),
    ],
)
def test_load_reward_says_what_is_missing(name, message):
    with pytest.raises(ValueError, match=message):
        load_reward(name)


def test_load_reward_passes_on_errors_of_the_module(tmp_path, monkeypatch):
    (tmp_path / "reward_with_missing_import.py").write_text("import sgpo_no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="sgpo_no_such_module"):
        load_reward("reward_with_missing_import:reward")
