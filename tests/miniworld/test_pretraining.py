"""Documents of pretraining, the tokenizer and the base model of the mini-world."""

from __future__ import annotations

import math
import random
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo import verify
from sgpo.miniworld import pretrain as pretrain_module
from sgpo.miniworld.documents import (
    FIDELITY,
    NOTEBOOK_SKILL,
    notebook,
    notebook_policy,
    pretraining_documents,
    puzzles,
    teacher_solution,
    worksheet,
)
from sgpo.miniworld.families import (
    FAMILIES,
    TRAINED_FAMILIES,
    finished,
    options,
    right_method,
    valid_computations,
)
from sgpo.miniworld.tokenizer import build_tokenizer
from sgpo.prompts import encode_prompts, guided_messages, response_messages, student_messages

# --- documents of pretraining -------------------------------------------------------------------------------


def binomial_error(rate: float, count: int) -> float:
    return math.sqrt(rate * (1 - rate) / count)


def test_notebooks_choose_the_right_method_at_the_rate_of_their_skill() -> None:
    rng = random.Random(0)
    right = decisions = 0
    for puzzle in islice(puzzles("skill", "train", tuple(FAMILIES), (3, 4, 5)), 1000):
        choose, state = notebook_policy(puzzle, rng), puzzle.start
        while not finished(state) and options(state):
            method = choose(state)
            if right_method(state) in options(state) and len(options(state)) > 1:
                decisions += 1
                right += method == right_method(state)
            state = options(state)[method].state
    assert decisions > 3000
    assert abs(right / decisions - NOTEBOOK_SKILL) < 4 * binomial_error(NOTEBOOK_SKILL, decisions)


def test_notebooks_are_honest_to_their_end() -> None:
    """The bare problem, computations all true, and mostly a wrong answer."""
    rng = random.Random(1)
    correct = 0
    stream = list(islice(puzzles("honest", "train", TRAINED_FAMILIES, (4,)), 300))
    for puzzle in stream:
        prompt, response = notebook(puzzle, rng)
        assert prompt == student_messages(puzzle.text)
        assert valid_computations(response[0]["content"])
        assert len(re.findall(r"\([a-z]\) (?:add|subtract|multiply|divide): ", response[0]["content"])) == 4
        correct += verify(response[0]["content"], teacher_solution(puzzle).answer).correct
    assert 0 < correct < 0.25 * len(stream)


def test_worksheets_follow_their_strategy_right_or_wrong() -> None:
    rng = random.Random(2)
    stream = list(islice(puzzles("worksheets", "train", TRAINED_FAMILIES, (4,)), 600))
    followed = decisions = right = 0
    for puzzle in stream:
        prompt, response = worksheet(puzzle, rng)
        strategy = prompt[-1]["content"].split("\n\nProblem:\n")[0].split(":\n", 1)[1]
        assert prompt == guided_messages(puzzle.text, strategy)
        told = re.findall(r"\([a-z]\) (\w+)", strategy)
        done = re.findall(r"\([a-z]\) (\w+)", response[0]["content"])
        assert len(told) == len(done) == 4
        decisions += 4
        followed += sum(one == other for one, other in zip(told, done, strict=True))
        right += tuple(told) == teacher_solution(puzzle).methods
    # After a slip the state is another one, and a method may not work out there; half of the slips agree by chance.
    assert FIDELITY - 0.02 < followed / decisions <= 1.0
    share = right / len(stream)  # half, and the few wrong ones that happen to be right
    assert 0.5 - 4 * binomial_error(0.5, len(stream)) < share < 0.56 + 4 * binomial_error(0.5, len(stream))


# --- tokenizer and base model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def documents() -> list[Any]:
    return list(islice(pretraining_documents(7), 200))


def test_tokenizer_round_trip(tokenizer: Any, documents: list[Any]) -> None:
    for prompt, response in documents:
        for message in prompt + response:
            ids = tokenizer(message["content"], add_special_tokens=False)["input_ids"]
            assert tokenizer.decode(ids) == message["content"]
    for text in ("Größe: 12½ €\n\tx_1", "A <|other|> 𝛼"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_numbers_are_single_tokens(tokenizer: Any) -> None:
    def pieces(text: str) -> list[str]:
        return [tokenizer.decode([i]) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]

    for number in range(100):
        assert pieces(str(number)) == [str(number)]
        assert pieces(f"x+{number}={number}").count(str(number)) == 2
    assert pieces("12*8=96") == ["12", "*", "8", "=", "96"]


def test_every_token_of_the_tokenizer_is_in_the_model(checkpoint: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert max(tokenizer.get_vocab().values()) < model.config.vocab_size
    assert len(tokenizer) <= model.config.vocab_size
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_a_loaded_tokenizer_is_the_one_that_was_built(tokenizer: Any, documents: list[Any]) -> None:
    """Loaders choose a class of their own for Qwen2 checkpoints; it must not tokenize in its own way."""
    built = build_tokenizer(documents=100)
    for prompt, response in documents:
        text = tokenizer.apply_chat_template(prompt + response, tokenize=False)
        assert text == built.apply_chat_template(prompt + response, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == built(text, add_special_tokens=False)["input_ids"]


def test_chat_template(tokenizer: Any) -> None:
    messages = [*student_messages("Compute 1+2", "Be brief."), *response_messages("\\boxed{3}")]
    expected = "<|system|>Be brief.<|end|><|user|>Compute 1+2<|end|><|assistant|>\\boxed{3}<|end|>"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == expected
    start = "<|system|>Be brief.<|end|><|user|>Compute 1+2<|end|><|assistant|>"
    assert tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True) == start
    assert student_messages("Compute 1+2", "") == [{"role": "user", "content": "Compute 1+2"}]


def test_the_prompt_is_a_prefix_of_prompt_and_response(tokenizer: Any, documents: list[Any]) -> None:
    """In token ids: supervised fine-tuning and sampling start from the same ones."""
    for prompt, response in documents:
        (ids,) = encode_prompts(tokenizer, [prompt])
        whole = tokenizer(tokenizer.apply_chat_template(prompt + response, tokenize=False), add_special_tokens=False)[
            "input_ids"
        ]
        answer = tokenizer(response[0]["content"], add_special_tokens=False)["input_ids"]
        assert whole == [*ids, *answer, tokenizer.eos_token_id]


def test_pretraining_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain_module, "build_tokenizer", lambda: build_tokenizer(documents=100))
    logged: list[tuple[int, float]] = []
    losses = pretrain_module.pretrain(
        tmp_path / "base", seed=0, steps=12, documents_per_step=4, log=lambda step, loss: logged.append((step, loss))
    )
    assert logged == list(enumerate(losses))
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert losses[0] == pytest.approx(math.log(len(tokenizer)), abs=0.3)  # nothing is known yet
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert model.config.model_type == "qwen2"
    prompt, response = next(pretraining_documents(5))
    (ids,) = encode_prompts(tokenizer, [prompt])
    answer = [*tokenizer(response[0]["content"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    labels = torch.tensor([[-100] * len(ids) + answer])
    assert model(torch.tensor([ids + answer]), labels=labels).loss.item() < 0.7 * losses[0]
