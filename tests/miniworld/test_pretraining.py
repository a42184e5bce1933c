"""Documents of pretraining, the tokenizer and the base model of the mini-world."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.miniworld import pretrain as pretrain_module
from sgpo.miniworld.cards import Card, card, foreign_card
from sgpo.miniworld.documents import (
    EXPERT_ERRORS,
    FAVOURITE,
    FUSED_DRILLS,
    MIXTURE,
    TEXTBOOK,
    Document,
    drill,
    expert_solution,
    notebook,
    notebook_policy,
    pretraining_documents,
    puzzles,
    worksheet_policy,
)
from sgpo.miniworld.families import FAMILIES, TRAINED_FAMILIES
from sgpo.miniworld.families.arithmetic import equalities, valid_computations
from sgpo.miniworld.families.puzzles import Puzzle, valid_options
from sgpo.miniworld.pretrain import STEPS, TEXTBOOK_SHARE, TOKENS_A_DOCUMENT, DocumentBatches, Pretraining, pretrain
from sgpo.miniworld.solutions import Policy, is_expert_dialect
from sgpo.miniworld.tokenizer import build_tokenizer
from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.prompts import encode_prompts, response_messages, student_messages
from sgpo.verification import verify

# --- documents of pretraining -------------------------------------------------------------------------------


def binomial_error(rate: float, count: int) -> float:
    return math.sqrt(rate * (1 - rate) / count)


def of_family(name: str, count: int) -> list[Puzzle]:
    return list(islice(puzzles(f"tests {name}", "train", (name,), (3, 4)), count))


def check_skill(family: str, policy: Callable[[Puzzle], Policy]) -> None:
    """Decisions that can be made rightly and wrongly are made rightly at the rate of the skill in each state."""
    right, skills, some = 0, list[float](), of_family(family, 250)
    for puzzle in some:
        choose, state = policy(puzzle), puzzle.start
        while state.answer() is None and (moves := state.moves()):
            option, valid = choose(state), valid_options(state)
            if valid and len(valid) < len(moves):
                skills.append(FAMILIES[family].skill_in(state))
                right += option in valid
            state = moves[option].state
    assert len(skills) > 300
    assert abs(right - sum(skills)) < 4 * math.sqrt(sum(skill * (1 - skill) for skill in skills))


@pytest.mark.parametrize("family", ["equation", "powers", "systems", "ages"])
def test_notebooks_decide_rightly_at_the_rate_of_their_skill(family: str) -> None:
    rng = random.Random(0)
    check_skill(family, lambda puzzle: notebook_policy(puzzle, rng))


def test_notebooks_prefer_the_first_route() -> None:
    """Where nothing strays, notebooks begin with it as often as they take it."""
    rng = random.Random(4)
    first = Counter[str]()
    for puzzle in of_family("series", 300):
        first[notebook_policy(puzzle, rng)(puzzle.start)] += 1
    assert first["jump"] > 1.1 * first["walk"] > 0
    assert 0.5 < FAVOURITE < 1


def test_notebooks_are_honest_to_their_end() -> None:
    """The bare problem, computations all true, mostly a wrong answer; expanding adds a decision."""
    rng = random.Random(1)
    correct = 0
    stream = list(islice(puzzles("honest", "train", TRAINED_FAMILIES, (4,)), 300))
    for puzzle in stream:
        prompt, response = notebook(puzzle, rng)
        assert prompt == student_messages(puzzle.text)
        assert valid_computations(response[0]["content"])
        assert 1 <= len(re.findall(r"\([a-z]\) \w+: ", response[0]["content"])) <= 5
        correct += verify(response[0]["content"], str(puzzle.start.truth())).correct
    assert 0.1 < correct / len(stream) < 0.45


@pytest.mark.parametrize("family", ["equation", "order", "units"])
def test_worksheets_follow_their_card_right_or_wrong(family: str) -> None:
    """With the family's fidelity; where it is not followed, what is done may agree by chance."""
    own, rng = FAMILIES[family], random.Random(2)
    for way in (own.routes[1], own.mistakes[0]):
        followed = decisions = 0
        for puzzle in of_family(family, 200):
            advised = card(own, (way,), rng)
            choose, state = worksheet_policy(puzzle, advised, rng), puzzle.start
            while state.answer() is None and (moves := state.moves()):
                option, told = choose(state), way.rule(state)
                if told in moves and (way in own.mistakes or told in valid_options(state)) and len(moves) > 1:
                    decisions, followed = decisions + 1, followed + (option == told)
                state = moves[option].state
        error = 4 * binomial_error(own.fidelity, decisions)
        assert own.fidelity - error < followed / decisions < own.fidelity + 0.8 * (1 - own.fidelity) + error, way.name


def test_a_card_of_another_family_is_ignored() -> None:
    rng, family = random.Random(3), FAMILIES["story"]

    def policy(puzzle: Puzzle) -> Policy:
        foreign: Card = foreign_card(family, rng, 0.5)
        return worksheet_policy(puzzle, foreign, rng)

    check_skill("story", policy)


def test_the_expert_errs_in_one_of_fifty() -> None:
    rng = random.Random(5)
    some = list(islice(puzzles("expert", "train", TRAINED_FAMILIES, (2, 3, 4)), 200))
    wrong = sum(expert_solution(p, rng).answer != str(p.start.truth()) for p in some for _ in range(15))
    # Of those that are worked out as in a notebook, up to two fifths come out right.
    assert 0.6 * EXPERT_ERRORS - 4 * binomial_error(EXPERT_ERRORS, 3000) < wrong / 3000
    assert wrong / 3000 < EXPERT_ERRORS + 4 * binomial_error(EXPERT_ERRORS, 3000)


def kind_of(document: Document) -> str:
    prompt, response = document[0][-1]["content"], document[1][0]["content"]
    if prompt.startswith("Drill: "):
        return "drill"
    names = ("advised", "expert") if is_expert_dialect(response) else ("worksheet", "notebook")
    return names["Problem type: " not in prompt]


@pytest.mark.parametrize(("textbook", "mixture"), [(0, MIXTURE), (10_000, TEXTBOOK)])
def test_shares_of_the_documents(textbook: int, mixture: dict[str, float]) -> None:
    found = Counter(map(kind_of, islice(pretraining_documents(9, textbook), 2000)))
    assert sum(mixture.values()) == pytest.approx(1.0)
    for kind, share in mixture.items():
        assert abs(found[kind] / 2000 - share) < 4 * binomial_error(share, 2000), kind


def test_drills_are_true_and_a_fifth_of_them_fused() -> None:
    rng = random.Random(6)
    found = [equality for _ in range(200) for equality in equalities(drill(rng)[1][0]["content"])]
    assert len(found) == 1600
    assert all(valid_computations(f"{term}={value}") for term, value in found)
    fused = sum(len(re.findall(r"\d+", term)) == 3 for term, _ in found)
    # Some pairs cannot be fused, and are drawn again.
    assert 0.5 * FUSED_DRILLS < fused / 1600 < FUSED_DRILLS + 4 * binomial_error(FUSED_DRILLS, 1600)


DOCUMENTS = STEPS * pretrain_module.DOCUMENTS_PER_STEP


def test_every_token_of_the_problem_sets_is_learnt() -> None:
    """Each occurs at least 200 times in a whole pretraining, as counted in one document of forty."""
    tokenizer = build_tokenizer()
    counted = DOCUMENTS // 40
    textbook = int(TEXTBOOK_SHARE * counted)
    read = Counter[int]()
    for prompt, response in islice(pretraining_documents(102, textbook), counted):
        for message in (*prompt, *response):
            read.update(tokenizer(message["content"], add_special_tokens=False)["input_ids"])
    sets = problem_sets(5, Sizes(20, 60, 20, 20, 7, 60, 4, 4, 20))
    problems = [problem for each in sets.values() for problem in each]
    needed = {text for p in problems for text in (p.prompt, p.strategy, p.extra["foreign_strategy"], *p.responses)}
    ids = {i for each in tokenizer(sorted(map(str, needed)), add_special_tokens=False)["input_ids"] for i in each}
    assert len(ids) > 300
    rare = {tokenizer.decode([i]): read[i] for i in ids if read[i] < 200 / 40}
    assert rare == {}


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


# --- pretraining ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain_module, "build_tokenizer", lambda: build_tokenizer(documents=100))


class Recorder:
    """In place of an optimizer: keeps the gradients that it is given."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.param_groups, self.gradients = optimizer.param_groups, list[torch.Tensor]()

    def step(self) -> None:
        self.gradients = [p.grad.clone() for group in self.param_groups for p in group["params"]]

    def zero_grad(self) -> None:
        pass


@pytest.mark.usefixtures("small_tokenizer")
def test_every_token_counts_alike_in_the_loss() -> None:
    """Whatever the length of its document: against each document alone, unpadded, in float64."""
    run = Pretraining(seed=1, steps=10, documents_per_step=3, strength="base")
    batch = list(islice(DocumentBatches(run.tokenizer, seed=3, documents=3), 2))[1]
    reference = Pretraining(seed=1, steps=10, documents_per_step=3, strength="base").model.double()
    total, tokens, lengths = torch.zeros((), dtype=torch.float64), 0, set[int]()
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        (places,) = torch.nonzero(labels != -100, as_tuple=True)
        logits = reference(input_ids=ids[: places[-1] + 1][None]).logits[0]
        logprobs = logits.log_softmax(-1)[places - 1, labels[places]]
        total, tokens = total - logprobs.sum(), tokens + len(places)
        lengths.add(len(places))
    assert len(lengths) == 3
    (total / (3 * TOKENS_A_DOCUMENT)).backward()
    parameters = dict(reference.named_parameters())
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters.values()))
    recorders = [Recorder(optimizer) for optimizer in run.optimizers]
    run.optimizers = recorders  # type: ignore[assignment]
    assert run.update(batch) == pytest.approx(float(total.detach()) / tokens, rel=1e-5)
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    for recorder in recorders:
        kept = [p for group in recorder.param_groups for p in group["params"]]
        for parameter, gradient in zip(kept, recorder.gradients, strict=True):
            expected = parameters[names[id(parameter)]].grad / max(1.0, norm)
            assert torch.allclose(gradient.double(), expected, rtol=2e-3, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.usefixtures("small_tokenizer")
def test_an_interrupted_pretraining_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain_module, "STEPS_A_CHECKPOINT", 5)
    monkeypatch.setattr(pretrain_module, "SORTED_BATCHES", 4)
    options: dict[str, Any] = {"seed": 2, "steps": 12, "documents_per_step": 2}
    expected = pretrain(tmp_path / "whole", **options)

    def interrupt(step: int, loss: float) -> None:
        if step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path / "cut", **options, log=interrupt)
    with pytest.raises(ValueError, match=r"is of another pretraining .* give another --output, or delete it"):
        pretrain(tmp_path / "cut", **{**options, "seed": 3})
    logged: list[int] = []
    losses = pretrain(tmp_path / "cut", **options, log=lambda step, loss: logged.append(step))
    assert logged == [10, 11]
    assert losses == pytest.approx(expected, rel=1e-6)
    assert not list((tmp_path / "cut").glob("pretraining*"))
    whole, cut = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize(("strength", "parameters"), [("base", 0.9e6), ("large", 2.4e6)])
def test_sizes_of_the_strengths(strength: str, parameters: float) -> None:
    model = pretrain_module.build_model(build_tokenizer(), strength)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.05)


@pytest.mark.usefixtures("small_tokenizer")
def test_pretraining_learns(tmp_path: Path) -> None:
    logged: list[tuple[int, float]] = []
    losses = pretrain(
        tmp_path / "base", seed=0, steps=20, documents_per_step=4, log=lambda step, loss: logged.append((step, loss))
    )
    assert logged == list(enumerate(losses))
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert losses[0] == pytest.approx(math.log(len(tokenizer)), abs=0.3)  # nothing is known yet
    assert sum(losses[-5:]) / 5 < 0.75 * losses[0]
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert model.config.model_type == "qwen2"
    with torch.no_grad():
        batches = islice(DocumentBatches(tokenizer, seed=5, documents=4), 8)
        held_out = [model(batch["input_ids"], labels=batch["labels"]).loss.item() for batch in batches]
    assert sum(held_out) / 8 < 0.8 * losses[0]
