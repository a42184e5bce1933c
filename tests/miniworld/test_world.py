from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from fractions import Fraction
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
    instance_strategy,
    notebook,
    notebook_policy,
    pretraining_documents,
    puzzles,
    split_of,
    teacher_solution,
    type_strategy,
    worksheet,
)
from sgpo.miniworld.families import (
    FAMILIES,
    TRAINED_FAMILIES,
    UNSEEN_FAMILY,
    Puzzle,
    finished,
    options,
    right_method,
    valid_computations,
)
from sgpo.miniworld.tokenizer import build_tokenizer
from sgpo.miniworld.world import Sizes, create_world, problem_sets
from sgpo.prompts import encode_prompts, guided_messages, response_messages, student_messages

METHODS = ("add", "subtract", "multiply", "divide")

# --- an independent check of every family: the text of the puzzle, Python's own arithmetic, exact fractions -


def evaluated(term: str, **names: Any) -> Any:
    """A term with Python's precedence, its numbers as exact fractions."""
    return eval(re.sub(r"\d+", r"Fraction(\g<0>)", term), {"Fraction": Fraction, "__builtins__": {}}, names)


def parsed(pattern: str, text: str) -> tuple[str, ...]:
    match = re.fullmatch(pattern, text)
    assert match is not None, text
    return match.groups()


def equation_holds(text: str, answer: Fraction) -> bool:
    term, value = parsed(r"Solve for x: (.+)=(\d+)", text)
    return evaluated(term, x=answer) == int(value)


def computation_holds(text: str, answer: Fraction) -> bool:
    (term,) = parsed(r"Compute (.+)", text)
    return evaluated(term) == answer


STORY = {
    "plus": lambda value, n: value + n,
    "minus": lambda value, n: value - n,
    "times": lambda value, n: value * n,
    "shared by": lambda value, n: value / n,
}


def story_holds(text: str, answer: Fraction) -> bool:
    story, value = parsed(r"My number (.+) makes (\d+)\. My number\?", text)
    for action in story.split(", "):
        word, number = parsed(r"(\D+) (\d+)", action)
        answer = STORY[word](answer, Fraction(number))
    return answer == int(value)


class PowerOfA:
    """a to the exponent: Python's operators on it follow the laws of powers."""

    def __init__(self, exponent: Fraction) -> None:
        self.exponent = exponent

    def __mul__(self, other: PowerOfA) -> PowerOfA:
        return PowerOfA(self.exponent + other.exponent)

    def __truediv__(self, other: PowerOfA) -> PowerOfA:
        return PowerOfA(self.exponent - other.exponent)

    def __pow__(self, exponent: Fraction) -> PowerOfA:
        return PowerOfA(self.exponent * exponent)


def powers_hold(text: str, answer: Fraction) -> bool:
    (term,) = parsed(r"Write (.+) as a\^n\. n\?", text)
    return evaluated(term.replace("^", "**"), a=PowerOfA(Fraction(1))).exponent == answer


def units_hold(text: str, answer: Fraction) -> bool:
    facts, amount, source, target = parsed(r"(.+)\. (\d+) (\w) is how many (\w)\?", text)
    worth: dict[str, dict[str, Fraction]] = {}
    for fact in facts.split(", "):
        one, many, other = parsed(r"1 (\w)=(\d+) (\w)", fact)
        worth.setdefault(one, {})[other] = Fraction(many)
        worth.setdefault(other, {})[one] = 1 / Fraction(many)
    found, waiting = {source: Fraction(amount)}, [source]
    while waiting:
        unit = waiting.pop()
        for other, rate in worth[unit].items():
            if other not in found:
                found[other] = found[unit] * rate
                waiting.append(other)
    return found[target] == answer


AGES: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    r"(\w+) is (\d+) more\.": lambda age, n: age + n,
    r"(\w+) is (\d+) less\.": lambda age, n: age - n,
    r"(\w+) is (\d+) fold\.": lambda age, n: age * n,
    r"(\w+) is one of (\d+) parts\.": lambda age, n: age / n,
}


def ages_hold(text: str, answer: Fraction) -> bool:
    sentences, asked = parsed(r"(.+\.) And (\w+)\?", text)
    first, *others = re.findall(r"[^.]+\.", sentences)
    name, number = parsed(r"(\w+) is (\d+)\.", first)
    age = Fraction(number)
    for sentence in others:
        [(name, age)] = [
            (match[1], change(age, Fraction(match[2])))
            for pattern, change in AGES.items()
            if (match := re.fullmatch(pattern, sentence.strip()))
        ]
    return name == asked and age == answer


CHECKS = {
    "equation": equation_holds,
    "story": story_holds,
    "powers": powers_hold,
    "units": units_hold,
    "signs": computation_holds,
    "order": computation_holds,
    "ages": ages_hold,
}


def some_puzzles(family: str, depth: int, count: int = 25) -> list[Puzzle]:
    rng = random.Random(f"{family} {depth}")
    return [FAMILIES[family].sample(rng, depth) for _ in range(count)]


def test_every_family_is_checked() -> None:
    assert set(CHECKS) == set(FAMILIES)
    assert UNSEEN_FAMILY not in TRAINED_FAMILIES
    assert len(TRAINED_FAMILIES) >= 6


@pytest.mark.parametrize("depth", [3, 4, 5, 6])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_teacher_is_right(family: str, depth: int) -> None:
    for puzzle in some_puzzles(family, depth):
        solution = teacher_solution(puzzle)
        assert CHECKS[family](puzzle.text, Fraction(solution.answer)), puzzle
        assert not CHECKS[family](puzzle.text, Fraction(solution.answer) + 1), puzzle
        assert len(solution.methods) == depth
        assert valid_computations(solution.text)
        assert verify(solution.text, solution.answer).correct


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "order"])
def test_computations_lead_to_the_answer(family: str) -> None:
    """Each computation starts where the one before ended, and the last one ends at the answer."""
    for puzzle in some_puzzles(family, 5):
        solution = teacher_solution(puzzle)
        value = None
        for method, computation in zip(solution.methods, solution.computations, strict=True):
            left, sign, right, result = parsed(r"(-?\d+)([-+*/])(\d+)=(-?\d+)", computation)
            assert METHODS["+-*/".index(sign)] == method
            assert value is None or value == left
            assert evaluated(f"{left}{sign}{right}") == int(result)
            value = result
        assert value == solution.answer


def test_order_is_rewritten_step_by_step() -> None:
    for puzzle in some_puzzles("order", 4):
        solution = teacher_solution(puzzle)
        assert solution.computations[-1] == solution.answer
        for computation in solution.computations:
            assert evaluated(computation) == int(solution.answer)


def test_text_of_a_solution() -> None:
    puzzle = next(p for p in some_puzzles("equation", 3) if p.text)
    solution = teacher_solution(puzzle)
    (first, second, third), computations = solution.methods, solution.computations
    assert solution.text == (
        f"(a) {first}: {computations[0]} (b) {second}: {computations[1]} (c) {third}: {computations[2]} "
        f"\\boxed{{{solution.answer}}}"
    )


def test_valid_computations() -> None:
    assert valid_computations("(a) add: 3+4=7 (b) divide: -8/2=-4 \\boxed{-4}")
    assert not valid_computations("(a) add: 3+4=8")
    assert not valid_computations("(a) divide: 7/2=3")
    assert not valid_computations("(a) add: 3+4=7 (b) subtract: 7-2=9")


# --- strategies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_strategies_have_three_parts_and_no_number(family: str) -> None:
    types = set()
    for depth in (3, 5, 6):
        for puzzle in some_puzzles(family, depth):
            solution = teacher_solution(puzzle)
            strategy = instance_strategy(puzzle, solution.methods)
            for text in (strategy, type_strategy(puzzle)):
                assert not re.search(r"\d", text)
                assert solution.answer not in text
                kind, principle, steps = text.split("\n")
                assert kind == f"Problem type: {FAMILIES[family].problem_type}"
                assert principle == f"Strategy: {FAMILIES[family].principle}"
                assert steps.startswith("Steps: (a) ")
            assert re.findall(r"\([a-z]\) (\w+)", strategy.split("\n")[2]) == list(solution.methods)
            types.add(type_strategy(puzzle))
    assert len(types) == 1  # the rule alone: nothing of an instance


def test_which_strategies_the_base_model_can_read() -> None:
    """`type_strategy` is no control of vagueness: much of it is spelt in pieces that pretraining never shows."""
    tokenizer = build_tokenizer()
    read: set[int] = set()
    for prompt, response in islice(pretraining_documents(102), 3_000):
        for message in (*prompt, *response):
            read.update(tokenizer(message["content"], add_special_tokens=False)["input_ids"])
    problems = problem_sets(401, Sizes(sft=1, rl=60, dev=1, test=1, test_deeper=1, test_unseen=1))["rl"]

    def unknown(texts: list[str]) -> float:
        ids = [i for each in tokenizer(texts, add_special_tokens=False)["input_ids"] for i in each]
        return sum(i not in read for i in ids) / len(ids)

    assert unknown([str(problem.strategy) for problem in problems]) == 0.0
    assert unknown([problem.extra["shuffled_strategy"] for problem in problems]) == 0.0
    assert unknown([problem.extra["type_strategy"] for problem in problems]) == pytest.approx(0.43, abs=0.01)


# --- splits -------------------------------------------------------------------------------------------------

SIZES = Sizes(sft=36, rl=36, dev=36, test=36, test_deeper=18, test_unseen=18)


def test_sets_are_disjoint_whatever_the_seeds() -> None:
    worlds = [problem_sets(seed, SIZES) for seed in (0, 1, 2)]

    def texts(*names: str) -> set[str]:
        return {problem.prompt for world in worlds for name in names for problem in world[name]}

    training = texts("sft", "rl")
    dev, test = texts("dev"), texts("test", "test_deeper", "test_unseen")
    pretrained = {puzzle.text for puzzle in islice(puzzles("pretraining 0", "train", tuple(FAMILIES), (2, 3, 4)), 1000)}
    held_out = dev | test
    assert not dev & test
    assert not (training | pretrained) & held_out
    assert {split_of(text) for text in training} == {"train"}
    assert {split_of(text) for text in dev} == {"dev"}
    assert {split_of(text) for text in test} == {"test"}
    for world in worlds:
        of_sets = {name: [problem.prompt for problem in problems] for name, problems in world.items()}
        for name, prompts in of_sets.items():
            assert len(set(prompts)) == len(prompts) == getattr(SIZES, name)
        assert not set(of_sets["sft"]) & set(of_sets["rl"])
        assert not set(of_sets["test"]) & set(of_sets["test_deeper"])
    assert len({tuple(p.prompt for p in world["rl"]) for world in worlds}) == 3
    assert problem_sets(1, SIZES) == worlds[1]


def test_pretraining_documents_are_of_the_training_split() -> None:
    for prompt, _ in islice(pretraining_documents(3), 300):
        text = prompt[-1]["content"].split("Problem:\n")[-1]
        assert split_of(text) == "train"


def test_shares_of_the_splits() -> None:
    buckets = [split_of(f"Compute {number}") for number in range(4000)]
    assert abs(buckets.count("test") / 4000 - 0.1) < 0.02
    assert abs(buckets.count("dev") / 4000 - 0.1) < 0.02


def test_columns_of_the_problems() -> None:
    world = problem_sets(0, SIZES)
    for name, families, depths in (
        ("sft", set(TRAINED_FAMILIES), {3, 4, 5}),
        ("rl", set(TRAINED_FAMILIES), {3, 4, 5}),
        ("dev", set(TRAINED_FAMILIES), {3, 4, 5}),
        ("test", set(TRAINED_FAMILIES), {3, 4, 5}),
        ("test_deeper", set(TRAINED_FAMILIES), {6}),
        ("test_unseen", {UNSEEN_FAMILY}, {3, 4, 5}),
    ):
        problems = world[name]
        assert {p.extra["family"] for p in problems} == families
        assert {p.extra["depth"] for p in problems} == depths
        assert sorted(p.extra["shuffled_strategy"] for p in problems) == sorted(p.strategy for p in problems)
        assert sum(p.extra["shuffled_strategy"] != p.strategy for p in problems) > len(problems) / 2
        assert len({p.id for p in problems}) == len(problems)
        for problem in problems:
            assert CHECKS[problem.extra["family"]](problem.prompt, Fraction(problem.answer))
            assert verify(problem.response or "", problem.answer).correct


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


def test_world_on_disk(tmp_path: Path, checkpoint: Path) -> None:
    from sgpo import load_problems

    folder = create_world(tmp_path / "world", seed=4, sizes=SIZES, base=checkpoint)
    assert folder == tmp_path / "world"
    for name, problems in problem_sets(4, SIZES).items():
        assert load_problems(folder / f"{name}.jsonl") == problems
    assert (folder / "base" / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    AutoTokenizer.from_pretrained(folder / "base")
