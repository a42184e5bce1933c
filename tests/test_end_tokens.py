"""Models with several end tokens, as Qwen's and Gemma's: each ends a completion, which is complete, and is learnt."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.cli import main
from sgpo.methods.records import response_ids
from sgpo.problems import Problem, save_problems
from sgpo.prompts import encode_prompts, student_messages
from sgpo.sampling.records import SampleRequest, SamplingConfig
from sgpo.tokenizers import end_token_ids, turn_end_id

PROBLEMS = [Problem(f"p{n}", f"{n}+1", str(n + 1), f"\\boxed{{{n + 1}}}", f"Steps: (a) add {n}") for n in range(8)]
TURN_END = "<end_of_turn>"
# As Gemma's: the token that ends a turn is not the tokenizer's end token.
GEMMA = (
    "{% for message in messages %}"
    "{{ '<' + message['role'] + '>' + message['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def gemma(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of which every sixth token ends a completion, with such a template; its end token is no such token."""
    folder = tmp_path_factory.mktemp("models") / "gemma"
    shutil.copytree(checkpoint, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [TURN_END]})
    tokenizer.chat_template = GEMMA
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    others = [token for token in range(6, len(tokenizer) - 1, 6) if token != tokenizer.eos_token_id]
    model.generation_config.eos_token_id = others
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gemma_tokenizer(gemma: Path) -> Any:
    return AutoTokenizer.from_pretrained(gemma)


def ends_of(folder: Path) -> list[int]:
    found = GenerationConfig.from_pretrained(folder).eos_token_id
    return found if isinstance(found, list) else [found]


# --- which tokens end a completion --------------------------------------------------------------------------


@pytest.mark.parametrize(("written", "of_model"), [(None, set()), (7, {7}), ([7], {7}), ([8, 7], {7, 8})])
def test_end_tokens_of_model_tokenizer_and_template(gemma_tokenizer: Any, written: Any, of_model: set[int]) -> None:
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=written))
    own = {gemma_tokenizer.eos_token_id, gemma_tokenizer.convert_tokens_to_ids(TURN_END)}
    assert len(own) == 2
    assert end_token_ids(model, gemma_tokenizer) == sorted(own | of_model)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (GEMMA, TURN_END),
        (GEMMA.replace("<end_of_turn>\n", "\n<end_of_turn>"), TURN_END),
        (GEMMA.replace("<end_of_turn>\n", "\n"), None),  # no token: a line ends it
        (GEMMA.replace("<end_of_turn>\n", ""), None),
        ("{{ raise_exception('no') }}", None),
        (None, None),
    ],
)
def test_what_ends_a_turn_of_the_assistant(gemma_tokenizer: Any, template: str | None, expected: str | None) -> None:
    tokenizer = copy.deepcopy(gemma_tokenizer)
    tokenizer.chat_template = template
    assert tokenizer.convert_ids_to_tokens(turn_end_id(tokenizer)) == (expected or tokenizer.eos_token)


def test_a_response_ends_as_the_template_ends_a_turn(gemma_tokenizer: Any, tokenizer: Any) -> None:
    for each, end in ((gemma_tokenizer, TURN_END), (tokenizer, tokenizer.eos_token)):
        ids = response_ids("1+2", each)
        assert each.decode(ids) == f"1+2{end}"


# --- sampled, judged and learnt -----------------------------------------------------------------------------


def parity(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float(len(completion) % 2) for completion in completions]


def test_training_learns_each_end_and_takes_none_for_a_cut(
    gemma: Path, gemma_tokenizer: Any, make_config: Callable[..., SGPOConfig]
) -> None:
    config = make_config(max_completion_length=9, delta=30.0, learning_rate=1e-5)
    trainer = SGPOTrainer(str(gemma), config, PROBLEMS, reward_funcs=parity)
    ends = {*ends_of(gemma), gemma_tokenizer.eos_token_id, turn_end_id(gemma_tokenizer)}
    assert {*trainer.sampler.eos_token_ids} == ends
    rollouts: list[Any] = []
    verify = trainer._verify

    def recorded(groups: Any, **keywords: Any) -> Any:
        found = verify(groups, **keywords)
        rollouts.extend(rollout for group in found for rollout in group.rollouts)
        return found

    trainer._verify = recorded  # type: ignore[method-assign]
    trainer.train()
    ended = [rollout for rollout in rollouts if rollout.completion_ids[-1] in ends]
    assert len({rollout.completion_ids[-1] for rollout in ended}) > 3
    for rollout in rollouts:
        assert rollout.truncated == (rollout.completion_ids[-1] not in ends)
        assert not ends & {*rollout.completion_ids[:-1]}
        assert not rollout.truncated or (len(rollout.completion_ids) == 9 and rollout.reward == 0)
    rows = [row for update in trainer._updates for row in update.rows if row.contributes]
    learnt = [row for row in rows if row.completion_ids[-1] in ends]
    assert len(learnt) > 4
    for row in learnt:
        assert torch.as_tensor(row.weights).expand(len(row.completion_ids))[-1] != 0
    trainer.save_model()
    assert ends == {*ends_of(Path(config.output_dir))}


def test_evaluation_takes_none_for_a_cut(gemma: Path, gemma_tokenizer: Any, tmp_path: Path) -> None:
    save_problems(PROBLEMS, tmp_path / "problems.jsonl")
    given = ["--model", str(gemma), "--problems", str(tmp_path / "problems.jsonl"), "--k", "2"]
    assert main(["eval", *given, "--max_completion_length", "9", "--output", str(tmp_path / "scores")]) == 0
    rows = Dataset.from_parquet(str(tmp_path / "scores" / "samples" / "problems.parquet")).to_list()
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())["benchmarks"]["problems"]
    assert 0 < summary["truncated"] < 0.9
    for row in rows:
        assert row["truncated"] <= (row["length"] == 9)
        assert row["truncated"] or row["length"] <= 9
    assert all(not row["truncated"] for row in rows if row["length"] < 9)


def test_greedy_answers_end_where_those_of_generate_end(gemma: Path, gemma_tokenizer: Any) -> None:
    from sgpo.sampling.transformers import TransformersSampler

    model = AutoModelForCausalLM.from_pretrained(gemma)
    ends = end_token_ids(model, gemma_tokenizer)
    prompts = encode_prompts(gemma_tokenizer, [student_messages(problem.prompt) for problem in PROBLEMS])
    sampler = TransformersSampler.of(model, gemma_tokenizer)
    found = sampler.sample([SampleRequest(ids, 1) for ids in prompts], SamplingConfig(30, 0.0, 1.0), seed=0)
    for ids, (rollout,) in zip(prompts, found, strict=True):
        prompt = torch.tensor([ids])
        written = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=30, eos_token_id=ends
        )
        assert rollout.completion_ids == written[0, len(ids) :].tolist()
