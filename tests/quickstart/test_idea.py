"""The idea on one problem: the choice by a hand-made case, the numbers by a plain forward pass, the look by width."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from sgpo.problems import Problem
from sgpo.prompts import guided_messages, student_messages
from sgpo.quickstart.idea import VIEWS, Case, find_idea, largest, possible_cases
from sgpo.quickstart.idea_report import print_idea
from sgpo.quickstart.policy import GreedyAnswer, LoadedPolicy

RIGHT, WRONG = GreedyAnswer("\\boxed{1}", True, [5, 6]), GreedyAnswer("\\boxed{2}", False, [5, 7])
PROBLEMS = [
    Problem(
        id=f"p{number}",
        prompt=f"Solve for x: x+{number}=9",
        answer="7",
        strategy=f"Problem type: equation\nStrategy: subtract {number}",
        extra={"card": card, "family": "equation"},
    )
    for number, card in enumerate(["right", "right", "mistaken", "right"])
]


def case(unguided: GreedyAnswer, guided: GreedyAnswer, card: str = "right") -> Case:
    return Case(Problem(id="p", prompt="q", answer="1", strategy="s", extra={"card": card}), unguided, guided)


# --- the choice -----------------------------------------------------------------------------------------------


def test_only_helped_problems_with_a_right_strategy_can_be_chosen() -> None:
    helped = case(WRONG, RIGHT)
    others = [case(RIGHT, RIGHT), case(WRONG, WRONG), case(RIGHT, WRONG), case(WRONG, RIGHT, "mistaken")]
    assert possible_cases([*others, helped]) == [helped]
    assert possible_cases(others) == others[:3]  # none is helped: those with a right strategy


def test_the_largest_mean_divergence_decides() -> None:
    """Not the largest sum, nor the largest token."""
    assert largest([torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.9, 0.9]), torch.tensor([0.3] * 20)]) == 1
    assert largest([torch.tensor([1.0]), torch.tensor([1.0])]) == 0


# --- the numbers ----------------------------------------------------------------------------------------------


class ScriptedPolicy(LoadedPolicy):
    """A real checkpoint whose answers are given: by the guided ones' correctness for each problem."""

    def __init__(self, folder: Path, unguided: Sequence[bool], guided: Sequence[bool]) -> None:
        super().__init__(folder)
        self.script = {False: unguided, True: guided}

    def answers(self, problems: Sequence[Problem], max_new_tokens: int, *, guided: bool = False) -> list[GreedyAnswer]:
        found = []
        for number, correct in enumerate(self.script[guided]):
            ids = torch.arange(8 + number) * (11 + 2 * number + guided) % 200 + 3
            found.append(GreedyAnswer(self.decode(ids.tolist()), correct, ids.tolist()))
        return found


@pytest.fixture(scope="module")
def policies(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedPolicy]:
    """Three checkpoints: p0 and p3 are helped, p2 would be but for its card; each is solved after training by one."""
    scripts = {"sft": [False] * 4, "grpo": [True, False, True, False], "sgpo": [True, False, False, True]}
    found: dict[str, LoadedPolicy] = {}
    for seed, (name, unguided) in enumerate(scripts.items()):
        folder = tmp_path_factory.mktemp(name) / "checkpoint"
        policy = LoadedPolicy(checkpoint)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        policy.model.save_pretrained(folder)
        policy.tokenizer.save_pretrained(folder)
        found[name] = ScriptedPolicy(folder, unguided, [True, False, True, True])
    return found


@pytest.fixture(scope="module")
def idea(policies: dict[str, LoadedPolicy]) -> dict[str, Any]:
    return find_idea(PROBLEMS, policies, 16)


def plain_distributions(policy: LoadedPolicy, problem: Problem, ids: list[int], guided: bool) -> torch.Tensor:
    """By transformers alone, in float64. [T, V]"""
    messages = guided_messages(problem.prompt, problem.strategy or "") if guided else student_messages(problem.prompt)
    text = policy.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(policy.model.name_or_path, dtype=torch.float64).eval()
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0]
    return torch.stack([logits[len(prompt) - 1 + place].softmax(-1) for place in range(len(ids))])


def test_numbers_are_those_of_a_plain_forward_pass(idea: dict[str, Any], policies: dict[str, LoadedPolicy]) -> None:
    def divergences(number: int) -> tuple[list[int], torch.Tensor]:
        ids = policies["sft"].answers(PROBLEMS, 16, guided=True)[number].ids
        q = plain_distributions(policies["sft"], PROBLEMS[number], ids, guided=True)
        p = plain_distributions(policies["sft"], PROBLEMS[number], ids, guided=False)
        return ids, (q * (q / p).log()).sum(-1)

    means = {number: float(divergences(number)[1].mean()) for number in (0, 3)}  # the helped ones
    number = max(means, key=means.__getitem__)
    problem, (ids, divergence) = PROBLEMS[number], divergences(number)
    assert idea["problem"]["id"] == problem.id
    assert idea["divergence"] == pytest.approx(means[number], abs=1e-5)
    expected = {name: plain_distributions(policy, problem, ids, guided=False) for name, policy in policies.items()}
    expected["sft-guided"] = plain_distributions(policies["sft"], problem, ids, guided=True)
    assert [token["place"] for token in idea["tokens"]] == sorted(divergence.topk(5).indices.tolist())
    for token in idea["tokens"]:
        place = token["place"]
        assert token["divergence"] == pytest.approx(float(divergence[place]), abs=1e-5)
        for name in VIEWS:
            assert token["probability"][name] == pytest.approx(float(expected[name][place, ids[place]]), abs=1e-5)
        assert token["token"] == policies["sft"].decode([ids[place]])
        assert token["before"] == policies["sft"].decode(ids[:place])
        assert token["unguided"] == policies["sft"].decode([int(expected["sft"][place].argmax())])
    values = [token["probability"][name] for token in idea["tokens"] for name in VIEWS]
    assert max(values) - min(values) > 1e-3  # so that the tolerance tells them apart


def test_summary_has_a_stable_structure(idea: dict[str, Any]) -> None:
    assert idea["problems"] == {
        "all": 4,
        "right_strategy": 3,
        "helped": 2,
        "solved_after": {"grpo": 1, "sgpo": 2},
    }
    assert set(idea) == {"problems", "problem", "answers", "divergence", "tokens", "average"}
    assert set(idea["problem"]) == {"id", "family", "prompt", "answer", "strategy"}
    assert list(idea["answers"]) == list(VIEWS) == ["sft", "sft-guided", "grpo", "sgpo"]
    assert [answer["correct"] for answer in idea["answers"].values()][:2] == [False, True]
    assert len(idea["tokens"]) == 5
    for token in idea["tokens"]:
        assert list(token) == ["place", "before", "token", "unguided", "divergence", "probability"]
        assert list(token["probability"]) == list(VIEWS)
    assert idea["average"]["tokens"] == 10  # of two helped problems
    assert list(idea["average"]["probability"]) == list(VIEWS)


def test_answers_are_greedy_and_judged(checkpoint: Path) -> None:
    """Each token is the most probable one after those before it."""
    policy = LoadedPolicy(checkpoint)
    for guided in (False, True):
        for problem, answer in zip(PROBLEMS, policy.answers(PROBLEMS, 6, guided=guided), strict=True):
            measures = policy.measures(problem, answer.ids)
            assert answer.ids == (measures.guided if guided else measures.bare).top_ids[:, 0].tolist()
            assert not answer.correct


# --- the look -------------------------------------------------------------------------------------------------


def printed(idea: dict[str, Any], delta: float = 3.0) -> str:
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    print_idea(console, idea, delta)
    return console.export_text()


def made_idea(helped: int) -> dict[str, Any]:
    text = "Given: " + "a long story " * 8 + "\n(a) subtract: 16-12=4 \\boxed{4}"
    probability = {"sft": 0.0449, "sft-guided": 1.0, "grpo": 0.31, "sgpo": 0.666}
    start = text.index("subtract")
    token = {"place": 9, "before": text[:start], "token": "subtract", "unguided": "[multiplication]\n"}
    return {
        "problems": {"all": 100, "right_strategy": 91, "helped": helped, "solved_after": {"grpo": 7, "sgpo": 11}},
        "problem": {"id": "p", "family": "story", "prompt": "How many [x]?", "answer": "4", "strategy": "go [back]"},
        "answers": {
            name: {"text": text, "correct": name in ("sft-guided", "sgpo")}
            for name in ("sft", "sft-guided", "grpo", "sgpo")
        },
        "divergence": 0.2,
        "tokens": [{**token, "divergence": 12.25, "probability": probability}] * 5,
        "average": {"tokens": 105, "divergence": 0.75, "probability": probability},
    }


def test_a_terminal_of_80_columns_shows_all() -> None:
    text = printed(made_idea(helped=21))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    row = next(line for line in text.splitlines() if "12.2" in line).split()
    assert row[-5:] == ["12.2", "4", "100", "31", "67"]
    assert "subtract" in row
    words = " ".join(text.split())
    assert "answers 21 of these wrongly without it and rightly with it" in words
    assert "Of the 21 problems that SFT solves only with the strategy, GRPO now solves 7 without it, SGPO 11" in words
    assert "wrong, it is 4" in words
    assert "How many [x]?" in words
    assert "go [back]" in words
    assert "mean, 105 such" in words
    assert "Training leaves tokens out whose KL is above delta = 3." in words


def test_masked_tokens_are_mentioned_only_where_there_are_some() -> None:
    assert "above delta" not in printed(made_idea(helped=21), delta=12.25)


def test_without_a_helped_problem_the_screen_says_so() -> None:
    words = " ".join(printed(made_idea(helped=0)).split())
    assert "None of 100 development problems has a right strategy, a wrong answer" in words
    assert "only with the strategy" not in words
