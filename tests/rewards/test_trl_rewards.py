"""TRL's reward signature: what a function gets here is what TRL's own trainer gives it, and TRL's functions work."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from places import ROOT
from transformers import TrainerState
from trl import GRPOTrainer
from trl.rewards import (
    accuracy_reward,
    get_cosine_scaled_reward,
    get_repetition_penalty_reward,
    get_soft_overlong_punishment,
    reasoning_accuracy_reward,
    think_format_reward,
)

from sgpo.problems import Problem
from sgpo.prompts import encode_prompts, guided_messages, student_messages
from sgpo.rewards.metrics import logged_metrics
from sgpo.sampling.records import Rollout
from sgpo.training.config import SGPOConfig
from sgpo.training.trainer import SGPOTrainer

DOCS = ROOT / "docs" / "rewards.md"
# Only the last problem has the column "hint".
PROBLEMS = [
    Problem("a", "Compute 3+4", "7", "\\boxed{7}", "Steps: (a) add", {"level": 1}),
    Problem("b", "Compute 5+4", "9", "\\boxed{9}", "Steps: (a) add", {"level": 2, "hint": "two"}),
]
TEXTS = ["<think>\n3+4\n</think>\\boxed{7}", "\\boxed{9}", "8", "<think>\n5</think> \\boxed{9} \\boxed{9} \\boxed{9}"]


@pytest.fixture
def make_trainer(
    make_config: Callable[..., SGPOConfig], checkpoint: Path, tokenizer: Any, scripted_sampler: Any
) -> Callable[..., SGPOTrainer]:
    """Of each problem two autonomous and two guided completions, the texts above."""

    def rollout(text: str) -> Rollout:
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        return Rollout(ids, torch.full((len(ids),), -1.0), truncated=False)

    def make(rewards: Any, weights: Any = None, problems: Sequence[Problem] = PROBLEMS, **changes: Any) -> SGPOTrainer:
        script = {}
        for problem in problems:
            both = [student_messages(problem.prompt), guided_messages(problem.prompt, problem.strategy or "")]
            bare, guided = encode_prompts(tokenizer, both)
            script[tuple(bare)] = [rollout(text) for text in TEXTS[:2]]
            script[tuple(guided)] = [rollout(text) for text in TEXTS[2:]]
        sizes = {"num_autonomous": 2, "num_guided": 2, "problems_per_rollout": 2, "updates_per_rollout": 1}
        return SGPOTrainer(
            str(checkpoint),
            make_config(**{**sizes, "max_completion_length": 60, "max_steps": 1, **changes}),
            train_dataset=problems,
            eval_dataset=problems,
            reward_funcs=rewards,
            reward_weights=weights,
            processing_class=tokenizer,
            sampler=scripted_sampler(script),
        )

    return make


def verified(trainer: SGPOTrainer, problems: Sequence[Problem] = PROBLEMS) -> list[Rollout]:
    return [rollout for group in trainer._verify(trainer._sample(problems)) for rollout in group.rollouts]


def called_by_trl(function: Any, ids: Sequence[Sequence[int]]) -> list[float]:
    """The rewards that TRL's trainer computes of the same completions, as of conversational data."""
    rows = [problem for problem in PROBLEMS for _ in TEXTS]
    inputs = [
        {"prompt": p.prompt, "id": p.id, "answer": p.answer, "solution": p.answer, "level": p.extra["level"]}
        for p in rows
    ]
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu", is_main_process=True),
        args=SimpleNamespace(report_to=[]),
        reward_funcs=[function],
        reward_processing_classes=[None],
        reward_func_names=["function"],
        state=TrainerState(),
        environments=None,
        _log_completion_extra=lambda column, values: None,
        _log_metric=lambda name, value: None,
    )
    prompts = [[{"role": "user", "content": p.prompt}] for p in rows]
    completions = [[{"role": "assistant", "content": text}] for _ in PROBLEMS for text in TEXTS]
    found = GRPOTrainer._calculate_rewards(trainer, inputs, prompts, completions, list(ids))
    return found[:, 0].tolist()


@pytest.mark.parametrize(
    ("function", "values"),
    [
        (accuracy_reward, {0.0, 1.0}),
        (reasoning_accuracy_reward, {0.0, 1.0}),
        (think_format_reward, {0.0, 1.0}),
        (get_cosine_scaled_reward(max_len=30), None),
        (get_repetition_penalty_reward(ngram_size=2), None),
        (get_soft_overlong_punishment(max_completion_len=14, soft_punish_cache=8), None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_functions_of_trl_give_what_they_give_there(
    make_trainer: Callable[..., SGPOTrainer], function: Any, values: set[float] | None
) -> None:
    rollouts = verified(make_trainer(function))
    rewards = [rollout.reward for rollout in rollouts]
    assert rewards == pytest.approx(called_by_trl(function, [r.completion_ids for r in rollouts]), abs=1e-6)
    assert len(set(rewards)) > 1  # guards: the function tells the completions apart
    assert values is None or set(rewards) == values


def test_a_function_gets_what_trl_gives(make_trainer: Callable[..., SGPOTrainer]) -> None:
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}

    def spy(completions: list[list[dict[str, str]]], **arguments: Any) -> list[float]:
        seen.update(arguments, completions=completions)
        return [1.0] * len(completions)

    seen = ours
    trainer = make_trainer(spy)
    rollouts = verified(trainer)
    seen = theirs
    called_by_trl(spy, [rollout.completion_ids for rollout in rollouts])
    assert set(theirs) == set(ours) - {"response", "strategy", "hint"}  # columns which that data set lacks
    for name in set(theirs) - {"trainer_state", "log_metric", "log_extra"}:
        assert ours[name] == theirs[name], name
    assert ours["trainer_state"] is trainer.state
    assert ours["strategy"] == ["Steps: (a) add"] * 8
    assert ours["hint"] == [None] * 4 + ["two"] * 4
    assert {f"`{name}`" for name in ours if name not in ("level", "hint")} == documented_arguments()


def documented_arguments() -> set[str]:
    section = DOCS.read_text().partition("## What a function gets")[2].partition("\n## ")[0]
    return {
        name
        for line in section.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`\w+`", line.split("|")[1])
    }


def test_texts_or_messages(make_trainer: Callable[..., SGPOTrainer]) -> None:
    seen: list[Any] = []

    def of_texts(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        seen.append((prompts[0], completions[0]))
        return [1.0] * len(completions)

    def of_messages(prompts: Any, completions: list[list[dict[str, str]]], level: list[int]) -> list[float]:
        """Without **columns: it gets what it names."""
        seen.append((prompts[0], completions[0]))
        return [float(value) for value in level]

    rollouts = verified(make_trainer([of_texts, of_messages], correctness=["of_texts"]))
    assert [rollout.reward for rollout in rollouts] == [2.0] * 4 + [3.0] * 4
    assert seen[0] == ("Compute 3+4", TEXTS[0])
    assert seen[1] == (
        [{"role": "user", "content": "Compute 3+4"}],
        [{"role": "assistant", "content": TEXTS[0]}],
    )


def test_a_column_of_some_problems_is_given_for_every_batch(make_trainer: Callable[..., SGPOTrainer]) -> None:
    def hints(completions: list[str], hint: list[str | None], **columns: Any) -> list[float]:
        return [float(value is not None) for value in hint]

    trainer = make_trainer(hints)
    assert [rollout.reward for rollout in verified(trainer, PROBLEMS[:1])] == [0.0] * 4
    assert [rollout.reward for rollout in verified(trainer, PROBLEMS[1:])] == [1.0] * 4


def test_what_functions_log_is_kept(make_trainer: Callable[..., SGPOTrainer]) -> None:
    """Means under TRL's names in metrics.jsonl, columns in the table of completions; in evaluations as well."""

    def logging(completions: list[str], log_metric: Any, log_extra: Any, **columns: Any) -> list[float | None]:
        log_metric("words/mean", 1.0)
        log_metric("words/mean", 4.0)
        log_extra("place", range(len(completions)))
        log_extra("parts", [text.split() if place % 2 else place for place, text in enumerate(completions)])
        return [None if text == "8" else float(len(text)) for text in completions]

    trainer = make_trainer(
        [accuracy_reward, logging], [1.0, 0.1], correctness=["accuracy_reward"], completions_steps=1, eval_samples=2
    )
    trainer.train()
    evaluated = trainer.evaluate()
    line = json.loads((Path(trainer.args.output_dir) / "metrics.jsonl").read_text().splitlines()[0])
    table = pq.read_table(Path(trainer.args.output_dir) / "completions" / "step-000000.parquet")
    rows = table.to_pylist()
    lengths = [row["rewards/logging"] for row in rows]
    assert lengths == [None if row["completion"] == "8" else len(row["completion"]) for row in rows]
    known = [value for value in lengths if value is not None]
    mean = sum(known) / len(known)
    assert line["rewards/logging/mean"] == pytest.approx(mean, rel=1e-12)
    std = (sum((value - mean) ** 2 for value in known) / (len(known) - 1)) ** 0.5
    assert line["rewards/logging/std"] == pytest.approx(std, rel=1e-12)
    right = [row["correct"] for row in rows]
    assert line["rewards/accuracy_reward/mean"] == sum(right) / len(right) == 3 / 8
    assert line["words/mean"] == 2.5
    assert [row["logging/place"] for row in rows] == list(range(8))
    assert rows[0]["logging/parts"] == "0"
    assert rows[1]["logging/parts"] == str(rows[1]["completion"].split())
    assert [row["accuracy_reward/solution"] for row in rows] == [row["answer"] for row in rows]
    assert {"accuracy_reward/gold_parsed", "accuracy_reward/answer_parsed"} <= set(table.column_names)
    assert evaluated["eval_words/mean"] == 2.5
    assert evaluated["eval_rewards/accuracy_reward/mean"] == evaluated["eval_avg_at_2"] == 0.5
    assert evaluated["eval_rewards/logging/mean"] == sum(map(len, TEXTS[:2])) / 2
    assert evaluated["eval_reward"] == pytest.approx(0.5 + 0.1 * sum(map(len, TEXTS[:2])) / 2)


# --- what is refused ----------------------------------------------------------------------------------------


def needs_tests(completions: list[str], tests: list[str], *, seconds: int = 5, **columns: Any) -> list[float]:
    raise AssertionError("called")


@pytest.mark.parametrize(
    ("rewards", "problems", "message"),
    [
        (
            needs_tests,
            PROBLEMS,
            "reward function needs_tests needs 'tests', which is no column of the training problems (id, answer, "
            "response, strategy, solution, hint, level) and not given (prompts, completions, completion_ids, "
            "trainer_state, log_metric, log_extra): add the column, or give the parameter a default",
        ),
        (
            accuracy_reward,
            [replace(each, extra={"log_extra": 1}) for each in PROBLEMS],
            "the training problems have a column 'log_extra', which reward functions are given: rename it",
        ),
    ],
)
def test_what_cannot_be_called_is_refused_at_the_start(
    make_trainer: Callable[..., SGPOTrainer], rewards: Any, problems: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_trainer(rewards, problems=problems)


def test_an_evaluation_on_other_problems_is_refused_before_it_samples(make_trainer: Callable[..., SGPOTrainer]) -> None:
    with_tests = [replace(each, extra={"tests": "assert True"}) for each in PROBLEMS]
    trainer = make_trainer(needs_tests, problems=with_tests)
    with pytest.raises(ValueError, match="needs 'tests', which is no column of the evaluation problems"):
        trainer.evaluate(PROBLEMS)
    assert trainer.sampler.calls == []  # type: ignore[attr-defined]


def test_a_reward_model_is_no_function(make_trainer: Callable[..., SGPOTrainer]) -> None:
    with pytest.raises(ValueError, match=r"a reward model \(Linear\) is no reward function: give one that asks it"):
        make_trainer(torch.nn.Linear(2, 1))


def documented_metrics() -> list[str]:
    section = (DOCS.parent / "metrics.md").read_text().partition("\n## Metrics")[2].partition("\n## ")[0]
    return [
        name
        for line in section.splitlines()
        if line.startswith("| `")
        for name in re.findall("`(.+?)`", line.split("|")[1])
    ]


def test_log_metric_takes_no_name_of_ours() -> None:
    names = documented_metrics()
    assert len(names) > 40
    for name in names:
        with pytest.raises(ValueError, match=f"log_metric: '{name}' is a name of sgpo's own metrics"):
            logged_metrics({name: [1.0]})
    assert logged_metrics({"judge/mean": [1.0, 2.0]}).values() == {"judge/mean": 1.5}


def test_log_extra_needs_a_value_for_each_completion(make_trainer: Callable[..., SGPOTrainer]) -> None:
    def short(completions: list[str], log_extra: Any, **columns: Any) -> list[float]:
        log_extra("first", completions[:1])
        return [1.0] * len(completions)

    with pytest.raises(ValueError, match="log_extra: short/first has 1 values for 8 completions; log one for each"):
        verified(make_trainer(short))


def test_a_function_for_messages_that_does_not_say_so(make_trainer: Callable[..., SGPOTrainer]) -> None:
    def contents(completions: Any, **columns: Any) -> list[float]:
        return [float(len(completion[0]["content"])) for completion in completions]

    with pytest.raises(TypeError) as caught:
        verified(make_trainer(contents))
    assert caught.value.__notes__[1] == (
        "it was given texts; a function for chat messages says so by its signature, "
        "completions: list[list[dict[str, str]]]"
    )


# --- asynchronous functions ---------------------------------------------------------------------------------


def test_asynchronous_functions_run_at_the_same_time(make_trainer: Callable[..., SGPOTrainer]) -> None:
    """Each waits for the other, and both keep what belongs to one event loop."""
    kept: dict[str, Any] = {}

    async def first(completions: list[str], log_metric: Any, **columns: Any) -> list[float]:
        barrier = kept.setdefault("barrier", asyncio.Barrier(2))
        await asyncio.wait_for(barrier.wait(), 60)
        log_metric("waited", 1.0)
        return [1.0] * len(completions)

    class Second:
        async def __call__(self, completions: list[str], weight: float, **columns: Any) -> list[float]:
            await asyncio.wait_for(kept["barrier"].wait(), 60)
            return [weight] * len(completions)

    functions = [first, functools.partial(Second(), weight=0.25), accuracy_reward]
    trainer = make_trainer(functions, correctness=["accuracy_reward"])
    for _ in range(2):
        rewards = [rollout.rewards for rollout in verified(trainer)]
        assert [each["first"] for each in rewards] == [1.0] * 8
        assert [each["Second"] for each in rewards] == [0.25] * 8
    assert trainer.logbook.take()["waited"] == 1.0


def test_an_error_of_an_asynchronous_function_names_it(make_trainer: Callable[..., SGPOTrainer]) -> None:
    ended: list[str] = []

    async def broken(completions: list[str], **columns: Any) -> list[float]:
        await asyncio.sleep(0)
        raise KeyError("level")

    async def waiting(completions: list[str], **columns: Any) -> list[float]:
        try:
            await asyncio.sleep(600)
        finally:
            ended.append("waiting")
        return []

    with pytest.raises(KeyError, match="level") as caught:
        verified(make_trainer([waiting, broken], correctness=["broken"]))
    assert caught.value.__notes__ == [
        "raised by the reward function broken, called for 8 samples, the first with the prompt 'Compute 3+4'"
    ]
    deadline = time.monotonic() + 60
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == ["waiting"]
