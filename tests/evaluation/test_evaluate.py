from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from sgpo.evaluation.evaluate import Evaluation, Sample, SampledCompletion, evaluate, evaluation_of, problem_seed
from sgpo.problems import Problem
from sgpo.prompts import encode_prompts, guided_messages, student_messages
from sgpo.rewards import choose_rewards
from sgpo.sampling.records import Rollout, SamplingConfig

SAMPLING = SamplingConfig(max_new_tokens=9, temperature=0.6, top_p=0.9)
PROBLEMS = [
    Problem("a", "Compute 3+4", "7", strategy="Steps: (a) add", extra={"family": "sum", "depth": 1}),
    Problem("b", "Compute 3*4", "12", strategy="Steps: (a) multiply", extra={"family": "product", "depth": 1}),
    Problem("c", "Compute 5+4", "9", strategy="Steps: (a) add", extra={"family": "sum"}),
]


def evaluation(rewards: Sequence[Sequence[float]]) -> Evaluation:
    samples = [
        Sample(problem, "text", reward / 2, reward == 1, truncated=reward == 0.0, length=3 + number)
        for problem, of_problem in zip(PROBLEMS, rewards, strict=True)
        for number, reward in enumerate(of_problem)
    ]
    return Evaluation(samples, len(rewards[0]))


def test_averages_by_hand() -> None:
    result = evaluation([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]])
    assert result.rates == [0.5, 0.0, 0.75]
    assert result.average == pytest.approx(5 / 12, rel=1e-12)
    # deviations 1/12, -5/12, 4/12: sum of squares 42/144, over n - 1 = 2 and n = 3
    assert result.standard_error == pytest.approx(math.sqrt(42 / 144 / 2 / 3), rel=1e-12)
    assert result.by("family") == {"product": 0.0, "sum": 0.625}
    assert list(result.by("family")) == ["product", "sum"]
    assert result.by("depth") == {"1": 0.25, "None": 0.75}
    assert result.metrics() == {
        "avg_at_4": pytest.approx(5 / 12),
        "standard_error": pytest.approx(math.sqrt(42 / 144 / 2 / 3)),
        "pass_at_4": pytest.approx(2 / 3),
        "reward": pytest.approx(5 / 24),
        "truncated": pytest.approx(7 / 12),
        "length": 4.5,
        "problems": 3,
    }


def test_pass_at_by_hand() -> None:
    result = evaluation([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]])
    # two of four: 1 - 1/6; none; three of four: no pair without a correct one
    assert result.pass_at == pytest.approx({1: 5 / 12, 2: (5 / 6 + 1) / 3, 4: 2 / 3})
    assert result.majority is None  # nobody judged these


def test_majority_counts_parsed_answers_that_ended() -> None:
    def group(problem: Problem, *answers: str, cut: bool = False) -> tuple[Problem, list[SampledCompletion]]:
        return problem, [SampledCompletion(answer, cut, 5) for answer in answers]

    groups = [
        group(PROBLEMS[0], "\\boxed{7}", "\\boxed{7.0}", "\\boxed{8}", "8"),  # two votes for 7, one for 8
        group(PROBLEMS[1], "\\boxed{12}", "\\boxed{11}", "\\boxed{ 11 }", "\\boxed{13}"),
        group(PROBLEMS[2], *["\\boxed{9}"] * 4, cut=True),  # right, but cut off: no vote and no reward
    ]
    result = evaluation_of([problem for problem, _ in groups], [completions for _, completions in groups])
    assert result.rates == [0.5, 0.25, 0.0]
    assert result.majority == pytest.approx(1 / 3)
    assert result.metrics()["majority_at_4"] == result.majority
    assert result.verdicts == {"correct": 7, "wrong": 4, "unparsed": 1, "timeout": 0}


def test_standard_error_of_equal_rates_and_of_one_problem() -> None:
    assert evaluation([[1, 0], [0, 1], [1, 0]]).standard_error == 0.0
    assert Evaluation([Sample(PROBLEMS[0], "", 1.0, True, False, 1)] * 2, 2).standard_error == 0.0


@pytest.fixture
def texts(tokenizer: Any) -> Any:
    def rollout(text: str, truncated: bool = False) -> Rollout:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = ids if truncated else [*ids, tokenizer.eos_token_id]
        return Rollout(ids, torch.full((len(ids),), -1.0), truncated=truncated)

    return rollout


def test_evaluate(tokenizer: Any, texts: Any, scripted_sampler: Any) -> None:
    prompts = encode_prompts(tokenizer, [student_messages(p.prompt) for p in PROBLEMS])
    answers = [
        [texts("\\boxed{7}"), texts("\\boxed{8}")],
        [texts("12"), texts("\\boxed{12}", truncated=True)],
        [texts("3+4=7 \\boxed{9}"), texts("\\boxed{9.0}")],
    ]
    sampler = scripted_sampler({tuple(ids): rollouts for ids, rollouts in zip(prompts, answers, strict=True)})
    result = evaluate(sampler, tokenizer, PROBLEMS, SAMPLING, k=2, seed=5)
    assert result.rates == [0.5, 0.0, 1.0]
    assert result.verdicts == {
        "correct": 4,
        "wrong": 1,
        "unparsed": 1,
        "timeout": 0,
    }  # truncated ones too
    assert result.metrics()["verdicts/correct"] == pytest.approx(4 / 6)
    assert [sample.problem.id for sample in result.samples] == ["a", "a", "b", "b", "c", "c"]
    assert [sample.completion for sample in result.samples][:3] == ["\\boxed{7}", "\\boxed{8}", "12"]
    assert [sample.truncated for sample in result.samples] == [False, False, False, True, False, False]
    assert [sample.length for sample in result.samples] == [len(r.completion_ids) for group in answers for r in group]
    [(requests, sampling, seed)] = sampler.calls
    assert [(request.prompt_ids, request.count) for request in requests] == [(ids, 2) for ids in prompts]
    assert (sampling, seed) == (SAMPLING, 5)
    assert [request.seed for request in requests] == [problem_seed(5, problem) for problem in PROBLEMS]


def test_guided_evaluation_uses_the_guided_prompt(tokenizer: Any, texts: Any, scripted_sampler: Any) -> None:
    system = "Answer."
    prompts = encode_prompts(tokenizer, [guided_messages(p.prompt, p.strategy or "", system) for p in PROBLEMS])
    sampler = scripted_sampler({tuple(ids): [texts("\\boxed{7}")] for ids in prompts})
    result = evaluate(sampler, tokenizer, PROBLEMS, SAMPLING, k=1, guided=True, system_prompt=system)
    assert result.rates == [1.0, 0.0, 0.0]


def test_other_rewards(tokenizer: Any, texts: Any, scripted_sampler: Any) -> None:
    def depth(completions: Sequence[str], depth: Sequence[int | None], **columns: Any) -> list[float]:
        return [float(value or 0) for value in depth]

    def seven(completions: Sequence[str], **columns: Any) -> list[float]:
        return [float("7" in completion) for completion in completions]

    prompts = encode_prompts(tokenizer, [student_messages(p.prompt) for p in PROBLEMS])
    sampler = scripted_sampler({tuple(ids): [texts("7"), texts("8")] for ids in prompts})
    rewards = choose_rewards([depth, seven], [0.25, 0.5], correctness="seven")
    result = evaluate(sampler, tokenizer, PROBLEMS, SAMPLING, k=2, rewards=rewards)
    assert [sample.reward for sample in result.samples] == [0.75, 0.25, 0.75, 0.25, 0.5, 0.0]
    assert [sample.correct for sample in result.samples] == [True, False] * 3
    assert result.rates == [0.5] * 3
    assert result.verdicts == {}  # nobody asked the verifier
    assert "verdicts/correct" not in result.metrics()


def test_evaluate_refuses(tokenizer: Any, scripted_sampler: Any) -> None:
    sampler = scripted_sampler({})
    for problems, k in (([], 4), (PROBLEMS, 0)):
        with pytest.raises(ValueError, match="an evaluation needs problems and k of at least 1"):
            evaluate(sampler, tokenizer, problems, SAMPLING, k=k)
    bare = [PROBLEMS[0], Problem("x", "Compute 1+1", "2")]
    with pytest.raises(ValueError, match=r"a guided evaluation needs strategies; 1 problems have none, e\.g\. x"):
        evaluate(sampler, tokenizer, bare, SAMPLING, guided=True)
    assert sampler.calls == []
