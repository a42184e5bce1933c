"""Prompts, log-probabilities and divergences of a pretrained chat model, against transformers' own.

    SGPO_REAL_MODEL=FOLDER python -m pytest -m realmodel tests/realmodel/test_numbers.py

The weights, the vocabulary of 49,152 and the template are real: distributions are sharp, states have outliers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from sgpo.engine.batching import BatchLayout
from sgpo.engine.update import accumulate_gradients, add_head_task, completion_scores
from sgpo.methods.records import TrainingSequence
from sgpo.methods.terms import Thresholds
from sgpo.models.weights import load_weights
from sgpo.problems import Problem
from sgpo.prompts import encode_prompts, guided_messages, student_messages
from sgpo.sampling.records import SampleRequest, SamplingConfig
from sgpo.sampling.transformers import TransformersSampler
from sgpo.tokenizers import end_token_ids, pad_token_id
from sgpo.training.sft import WarmupConfig, build_warmup_trainer

pytestmark = pytest.mark.realmodel
END = 2
SAMPLING = SamplingConfig(20, temperature=1.0, top_p=1.0)


@pytest.fixture(scope="module")
def model(real_model: Path) -> Any:
    model = load_weights(str(real_model))
    add_head_task(model)
    return model


@pytest.fixture(scope="module")
def prompts(real_tokenizer: Any, problems: list[Problem]) -> list[tuple[list[int], list[int]]]:
    """Unguided and guided prompt of three problems, of different lengths."""
    some = [problems[0], problems[1], problems[10]]
    plain = encode_prompts(real_tokenizer, [student_messages(p.prompt) for p in some])
    guided = encode_prompts(real_tokenizer, [guided_messages(p.prompt, p.strategy or "") for p in some])
    return list(zip(plain, guided, strict=True))


@pytest.fixture(scope="module")
def answers(real_tokenizer: Any, problems: list[Problem]) -> list[list[int]]:
    """What a problem's solution is in tokens, to the end token."""
    return [
        [*real_tokenizer(p.response, add_special_tokens=False)["input_ids"], END]
        for p in (problems[0], problems[1], problems[10])
    ]


def plain_logprobs(model: Any, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    """[T] from full logits of one row without padding, in float64."""
    logits = full_logits(model, prompt, completion)
    return logits.double().log_softmax(-1).gather(-1, torch.tensor(completion)[:, None]).squeeze(-1)


def full_logits(model: Any, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    """[T, V] that predict the completion's tokens."""
    return model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]


# --- prompts ------------------------------------------------------------------------------------------------


def test_prompts_are_those_of_the_template(real_tokenizer: Any) -> None:
    messages = student_messages("What is 3 + 14?", "Think.")
    (ids,) = encode_prompts(real_tokenizer, [messages])
    assert real_tokenizer.decode(ids) == (
        "<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\nWhat is 3 + 14?<|im_end|>\n<|im_start|>assistant\n"
    )
    found = real_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == found
    assert ids.count(1) == 3
    assert ids.count(END) == 2


def test_an_empty_system_prompt_leaves_the_system_turn_to_the_template(real_tokenizer: Any) -> None:
    (ids,) = encode_prompts(real_tokenizer, [student_messages("Hello", "")])
    own = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    assert real_tokenizer.decode(ids) == f"{own}<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


def test_numbers_are_tokens_of_one_digit(real_tokenizer: Any) -> None:
    assert real_tokenizer.tokenize("12345 + 67") == ["1", "2", "3", "4", "5", "Ġ+", "Ġ", "6", "7"]


def test_special_tokens(model: Any, real_tokenizer: Any) -> None:
    """The token that pads is the one that ends: it must count where it ends, and nowhere else."""
    assert end_token_ids(model, real_tokenizer) == [END]
    assert pad_token_id(real_tokenizer) == END
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert real_tokenizer("".join(names), add_special_tokens=False)["input_ids"] == [0, 1, 2]
    assert real_tokenizer("plain", add_special_tokens=True)["input_ids"] == real_tokenizer.encode("plain")


def test_the_warm_up_learns_the_answer_and_its_end_and_nothing_else(
    real_model: Path, real_tokenizer: Any, problems: list[Problem], tmp_path: Path
) -> None:
    args = WarmupConfig(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none", max_steps=1)
    trainer = build_warmup_trainer(str(real_model), args, problems)
    batch = trainer.data_collator([trainer.train_dataset[n] for n in range(4)])
    assert (batch["input_ids"] == END).sum(1).min() >= 3
    answered = {p.prompt: p.response for p in problems}
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        learnt = real_tokenizer.decode(labels[labels != -100])
        question = real_tokenizer.decode(ids).split("user\n")[1].split("<|im_end|>")[0]
        assert learnt.rstrip("\n") == f"{answered[question]}<|im_end|>"


# --- log-probabilities --------------------------------------------------------------------------------------


def test_embedding_and_head_are_one_weight(model: Any) -> None:
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.shape == (49_152, 576)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008


def test_log_probabilities_of_sampler_and_trainer_are_those_of_the_plain_model(
    model: Any, real_tokenizer: Any, prompts: list[tuple[list[int], list[int]]]
) -> None:
    """Rows of several lengths are sampled and scored together, with padding; plainly each is computed alone."""
    requests = [SampleRequest(prompt, 2) for pair in prompts for prompt in pair]
    sampled = TransformersSampler.of(model, real_tokenizer).sample(requests, SAMPLING, seed=1)
    rows = [(r.prompt_ids, o) for r, group in zip(requests, sampled, strict=True) for o in group]
    scores = completion_scores(model, [(p, o.completion_ids) for p, o in rows], BatchLayout(1_000, END))
    with torch.no_grad():
        expected = torch.cat([plain_logprobs(model, p, o.completion_ids) for p, o in rows])
    own = torch.cat([o.sampler_logprobs for _, o in rows if o.sampler_logprobs is not None])
    assert len(expected) > 100
    assert -5 < expected.mean() < -0.1  # neither certain nor drawn at random
    for found in (own, torch.cat([score.logprobs for score in scores])):
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)


def test_greedy_answers_are_those_of_generate(
    model: Any, real_tokenizer: Any, prompts: list[tuple[list[int], list[int]]]
) -> None:
    requests = [SampleRequest(prompt, 1) for prompt, _ in prompts]
    greedy = SamplingConfig(20, temperature=0.0, top_p=1.0)
    found = TransformersSampler.of(model, real_tokenizer).sample(requests, greedy, seed=1)
    for (prompt, _), (rollout,) in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        plain = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=END
        )
        assert rollout.completion_ids == plain[0, len(prompt) :].tolist()


def test_bfloat16_changes_log_probabilities_by_its_rounding_alone(
    model: Any,
    real_model: Path,
    real_tokenizer: Any,
    prompts: list[tuple[list[int], list[int]]],
    answers: list[list[int]],
) -> None:
    """8 bits of weights and states: hundredths of a nat a token, without a bias."""
    short = load_weights(str(real_model), "bfloat16")
    add_head_task(short)
    rows = [(prompt, answer) for (prompt, _), answer in zip(prompts, answers, strict=True)]
    layout = BatchLayout(1_000, END)
    exact, rounded = (
        torch.cat([score.logprobs for score in completion_scores(each, rows, layout)]) for each in (model, short)
    )
    assert rounded.dtype == torch.float32
    assert 0.003 < (rounded - exact).abs().mean() < 0.06
    assert (rounded - exact).mean().abs() < 0.015
    requests = [SampleRequest(prompt, 1) for prompt, _ in rows]
    (sampled, *_), *_ = TransformersSampler.of(short, real_tokenizer).sample(requests, SAMPLING, seed=1)
    again = completion_scores(short, [(rows[0][0], sampled.completion_ids)], layout)[0].logprobs
    assert (again - sampled.sampler_logprobs).abs().mean() < 0.03


# --- divergences --------------------------------------------------------------------------------------------


def exact_norm(self: LlamaRMSNorm, hidden: Tensor) -> Tensor:
    """In the type of the states; transformers' own computes in float32, whatever the model's type."""
    return torch.nn.functional.rms_norm(hidden, self.weight.shape, self.weight, self.variance_epsilon)


def test_divergence_and_gradients_are_those_of_full_logits(
    real_model: Path,
    prompts: list[tuple[list[int], list[int]]],
    answers: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eq. 3, clipped, over the whole vocabulary; embedding and head, one weight, get the sum of both gradients."""
    monkeypatch.setattr(LlamaRMSNorm, "forward", exact_norm)
    model = load_weights(str(real_model)).double()
    add_head_task(model)
    delta, weights = 1.0, [0.5, 1.0, 0.25]
    cases = [(plain, guided, *rest) for (plain, guided), *rest in zip(prompts, answers, weights, strict=True)]
    rows = [TrainingSequence("distillation", p, a, w, teacher_prompt_ids=g) for p, g, a, w in cases]
    found = accumulate_gradients(model, rows, BatchLayout(1_000, END), Thresholds(delta=delta))
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    expected, masked, tokens = 0.0, 0, 0
    for plain, guided, answer, weight in cases:
        policy = full_logits(model, plain, answer).log_softmax(-1)
        with torch.no_grad():
            teacher = full_logits(model, guided, answer).log_softmax(-1)
        divergence = (teacher.exp() * (teacher - policy)).sum(-1)
        kept = divergence <= delta
        loss = weight * divergence.where(kept, 0.0).sum()
        loss.backward()
        expected, masked, tokens = expected + loss.item(), masked + int((~kept).sum()), tokens + len(answer)
    assert 0 < masked < tokens / 4
    assert found.means["divergence_masked_share"] == pytest.approx(masked / tokens)
    assert found.loss == pytest.approx(expected, rel=1e-11)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=0, atol=1e-10)
    assert model.lm_head.weight.grad.abs().max() > 1  # against absolute differences
