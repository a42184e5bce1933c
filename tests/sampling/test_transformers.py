from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from sgpo.sampling import transformers as sampling_module
from sgpo.sampling import transformers as transformers_sampler
from sgpo.sampling.records import Rollout, SampleRequest, SamplingConfig
from sgpo.sampling.transformers import TransformersSampler, draw_tokens, nucleus, tempered_probs

EOS, PAD = 1, 0
ARCHITECTURES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    # its cache layers forget tokens beyond the window, so they cannot be replaced by a buffer
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 6}),
}


def tiny_model(name: str = "qwen2", vocabulary: int = 40, eos_bias: float = 0.0) -> Any:
    """A random model with large weights, so that its distributions are peaked and depend on every token."""
    config_class, model_class, extra = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = config_class(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
        **extra,
    )
    model = model_class(config).eval()
    model.lm_head.weight.data *= 0.5
    model.lm_head.bias = nn.Parameter(torch.zeros(vocabulary))
    model.lm_head.bias.data[EOS] = eos_bias
    return model


def prompts(lengths: tuple[int, ...] = (3, 9, 5, 1, 14)) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(2, 40, (length,), generator=generator).tolist() for length in lengths]


def requests(counts: tuple[int, ...] = (2, 1, 3, 2, 1)) -> list[SampleRequest]:
    return [SampleRequest(ids, count) for ids, count in zip(prompts(), counts, strict=True)]


def flat(rollouts: list[list[Rollout]]) -> list[Rollout]:
    return [rollout for group in rollouts for rollout in group]


def token_ids(rollouts: list[list[Rollout]]) -> list[list[int]]:
    return [rollout.completion_ids for rollout in flat(rollouts)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_equals_generate(name: str) -> None:
    model = tiny_model(name)
    ends = [EOS, *range(30, 40)]  # a quarter of the vocabulary, so that rows end at different steps
    new = 20
    width = max(map(len, prompts()))
    output = model.generate(
        input_ids=torch.tensor([[PAD] * (width - len(ids)) + ids for ids in prompts()]),
        attention_mask=torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts()]),
        do_sample=False,
        max_new_tokens=new,
        eos_token_id=ends,
    )
    expected = []
    for row in output[:, width:].tolist():
        stop = next((i + 1 for i, token in enumerate(row) if token in ends), new)
        expected.append(row[:stop])
    assert len({len(ids) for ids in expected}) > 2, "rows should end at different steps"
    greedy = SamplingConfig(max_new_tokens=new, temperature=0)
    rollouts = TransformersSampler(model, ends, PAD).sample(requests(), greedy, seed=0)
    assert [[r.completion_ids for r in group] for group in rollouts] == [
        [ids] * request.count for ids, request in zip(expected, requests(), strict=True)
    ]


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 1.6])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.95, 0.999, 1.0])
@pytest.mark.parametrize("vocabulary", [3, 33, 700])
def test_filtered_distribution_equals_transformers(temperature: float, top_p: float, vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    scales = torch.tensor([0.01, 0.5, 2.0, 8.0]).repeat(25)[:, None]
    logits = torch.randn(100, vocabulary, generator=generator) * scales
    scores = TemperatureLogitsWarper(temperature)(None, logits) if temperature != 1 else logits
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    for part in (slice(0, 100), slice(3, 100, 4)):  # all, and the peaked rows alone: the head suffices
        probs, ids = nucleus(tempered_probs(logits[part], temperature), top_p)
        if ids is not None:
            probs = torch.zeros_like(logits[part]).scatter_add(-1, ids, probs)
        torch.testing.assert_close(probs / probs.sum(-1, keepdim=True), scores[part].softmax(-1), atol=1e-6, rtol=0)


def test_top_p_edge_by_hand() -> None:
    # .5 + .25 reach .75 exactly: the third token is out; at .76 it is in; a tiny top-p keeps the first alone
    logits = torch.tensor([[0.125, 0.5, 0.125, 0.25]]).log()
    for top_p, expected in (
        (0.75, [0, 2 / 3, 0, 1 / 3]),
        (0.4, [0, 1.0, 0, 0]),
        (1e-9, [0, 1.0, 0, 0]),
    ):
        probs, ids = nucleus(logits.softmax(-1), top_p)
        assert ids is not None
        probs = probs / probs.sum(-1, keepdim=True)
        torch.testing.assert_close(
            torch.zeros(1, 4).scatter(-1, ids, probs), torch.tensor([expected]), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("top_p", [0.6, 1.0])
def test_draw_never_leaves_the_nucleus(top_p: float) -> None:
    logits = torch.tensor([-200.0, 2.0, -200.0, 1.5, 0.0, -200.0]).expand(4, 6)
    uniforms = torch.tensor([0.0, 1e-12, 0.5, 1 - 2**-24])
    tokens, _ = draw_tokens(logits, uniforms, SamplingConfig(max_new_tokens=1, top_p=top_p))
    assert set(tokens.tolist()) <= ({1, 3} if top_p < 1 else {1, 3, 4})
    assert tokens[0] == 1
    assert tokens[-1] == (3 if top_p < 1 else 4)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_rows_are_drawn_in_parts_where_the_vocabulary_is_large(
    monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 5_000, generator=source) * torch.tensor([0.1, 1, 2, 3, 4, 6, 9])[:, None]
    uniforms, sampling = torch.rand(7, generator=source), SamplingConfig(1, temperature, 0.95)
    whole = draw_tokens(logits, uniforms, sampling)
    assert len(set(whole[0].tolist())) == 7
    sizes: list[int] = []
    draw = transformers_sampler._draw

    def recorded(some: torch.Tensor, *rest: Any) -> Any:
        sizes.append(len(some))
        return draw(some, *rest)

    monkeypatch.setattr(transformers_sampler, "_draw", recorded)
    monkeypatch.setattr(transformers_sampler, "DRAW_BYTES", 3 * 5_000 * 4 + 1)
    for one, other in zip(draw_tokens(logits, uniforms, sampling), whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert sizes == [3, 3, 1]


def exact_sequences(model: Any, prompt: list[int], sampling: SamplingConfig) -> dict[tuple[int, ...], float]:
    """Probability of every completion of up to two tokens, by transformers' processors on separate passes."""

    def next_probs(ids: list[int]) -> list[float]:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[:, -1]
        scores = TopPLogitsWarper(sampling.top_p)(None, TemperatureLogitsWarper(sampling.temperature)(None, logits))
        return scores.softmax(-1)[0].tolist()

    exact: dict[tuple[int, ...], float] = {}
    for first, probability in enumerate(next_probs(prompt)):
        if first == EOS:
            exact[(first,)] = probability
        elif probability > 0:
            for second, conditional in enumerate(next_probs([*prompt, first])):
                exact[(first, second)] = probability * conditional
    return {sequence: probability for sequence, probability in exact.items() if probability > 0}


def test_frequencies_match_enumeration() -> None:
    model = tiny_model(vocabulary=7)
    sampling = SamplingConfig(max_new_tokens=2, temperature=1.4, top_p=0.9)
    asked = [SampleRequest([3, 2, 5], 6000), SampleRequest([4], 6000)]  # in one batch, one of them padded
    rollouts = TransformersSampler(model, [EOS], PAD).sample(asked, sampling, seed=11)
    for request, group in zip(asked, rollouts, strict=True):
        exact = exact_sequences(model, request.prompt_ids, sampling)
        counts = dict.fromkeys(exact, 0)
        for rollout in group:
            counts[tuple(rollout.completion_ids)] += 1  # KeyError for a sequence that top-p excludes
        assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
        # rare cells together, since the chi-square distribution needs expected counts of 5 or so
        cells = [(counts[s], p * request.count) for s, p in exact.items() if p * request.count >= 5]
        rest = [(counts[s], p * request.count) for s, p in exact.items() if p * request.count < 5]
        if sum(expected for _, expected in rest) >= 5:
            cells.append((sum(n for n, _ in rest), sum(expected for _, expected in rest)))
        chi_square = sum((n - expected) ** 2 / expected for n, expected in cells)
        freedom = len(cells) - 1
        assert freedom >= 5
        # the chance that right frequencies deviate so much; the seed is fixed, so it never fails by chance.
        # Measured: 0.53 and 0.84; 4e-14 with temperature 1.3 in place of 1.4, 2e-199 with top-p 0.8 for 0.9
        p_value = torch.special.gammaincc(torch.tensor(freedom / 2), torch.tensor(chi_square / 2))
        assert p_value > 1e-3


# few rows of a prompt, each with a copy of its keys; many, which share them
@pytest.mark.parametrize("counts", [(2, 1, 3, 2, 1), (7, 4, 9, 12, 5)])
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 0.95), (0.6, 0.8), (1.0, 1.0), (1.5, 0.95)])
def test_logprobs_equal_teacher_forcing_at_temperature_one(
    name: str, temperature: float, top_p: float, counts: tuple[int, ...]
) -> None:
    model = tiny_model(name, eos_bias=2.0)
    sampling = SamplingConfig(max_new_tokens=12, temperature=temperature, top_p=top_p)
    rollouts = TransformersSampler(model, [EOS], PAD).sample(requests(counts), sampling, seed=3)
    for request, group in zip(requests(counts), rollouts, strict=True):
        for rollout in group:
            ids = torch.tensor([request.prompt_ids + rollout.completion_ids])
            with torch.no_grad():
                logprobs = model(input_ids=ids).logits[0, len(request.prompt_ids) - 1 : -1].log_softmax(-1)
            expected = logprobs.gather(-1, torch.tensor(rollout.completion_ids)[:, None]).squeeze(-1)
            torch.testing.assert_close(rollout.sampler_logprobs, expected, atol=1e-5, rtol=1e-5)
            assert rollout.reward == 0


def test_left_padding_and_company_have_no_effect() -> None:
    model = tiny_model(eos_bias=2.0)
    sampling = SamplingConfig(max_new_tokens=10)
    alone, other = prompts()[0], prompts()[4]
    sampler = TransformersSampler(model, [EOS], PAD)
    (by_itself,) = sampler.sample([SampleRequest(alone, 4)], sampling, seed=2)
    padded, _ = sampler.sample([SampleRequest(alone, 4), SampleRequest(other, 3)], sampling, seed=2)
    other_pad = TransformersSampler(model, [EOS], pad_token_id=17)
    repadded, _ = other_pad.sample([SampleRequest(alone, 4), SampleRequest(other, 3)], sampling, seed=2)
    assert token_ids([by_itself]) == token_ids([padded]) == token_ids([repadded])
    for a, b, c in zip(by_itself, padded, repadded, strict=True):
        torch.testing.assert_close(a.sampler_logprobs, b.sampler_logprobs, atol=1e-5, rtol=0)
        assert torch.equal(b.sampler_logprobs, c.sampler_logprobs)


def test_seed_decides_and_global_state_is_untouched() -> None:
    sampler = TransformersSampler(tiny_model(), [EOS], PAD)
    sampling = SamplingConfig(max_new_tokens=10)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = sampler.sample(requests(), sampling, seed=7)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert sampler.sample(requests(), sampling, seed=7) == first
    assert token_ids(sampler.sample(requests(), sampling, seed=8)) != token_ids(first)
    assert len({tuple(r.completion_ids) for r in first[2]}) > 1, "rows of one prompt are drawn independently"


def test_truncation_and_end_of_sequence() -> None:
    model = tiny_model(eos_bias=2.0)
    ends = [EOS, 7]
    sampling = SamplingConfig(max_new_tokens=8, top_p=1.0)
    rollouts = flat(TransformersSampler(model, ends, PAD).sample(requests((9, 9, 9, 9, 9)), sampling, seed=0))
    for rollout in rollouts:
        *body, last = rollout.completion_ids
        assert len(rollout.completion_ids) == len(rollout.sampler_logprobs) <= 8
        assert not set(body) & set(ends)
        assert rollout.truncated == (last not in ends)
        if rollout.truncated:
            assert len(rollout.completion_ids) == 8
    assert {r.completion_ids[-1] for r in rollouts} >= set(ends)
    assert any(r.truncated for r in rollouts)
    assert any(len(r.completion_ids) == 8 and not r.truncated for r in rollouts), "ends exactly at the limit"


def test_pad_may_be_the_end_of_sequence() -> None:
    model = tiny_model(eos_bias=2.0)
    sampling = SamplingConfig(max_new_tokens=8)
    expected = TransformersSampler(model, [EOS], PAD).sample(requests(), sampling, seed=0)
    assert TransformersSampler(model, [EOS], EOS).sample(requests(), sampling, seed=0) == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_cutting_into_batches_has_no_effect(temperature: float) -> None:
    model = tiny_model(eos_bias=2.0)
    sampling = SamplingConfig(max_new_tokens=10, temperature=temperature)
    whole = TransformersSampler(model, [EOS], PAD).sample(requests(), sampling, seed=4)
    for limit in (24, 50, 100):
        cut = TransformersSampler(model, [EOS], PAD, max_batch_tokens=limit).sample(requests(), sampling, seed=4)
        assert token_ids(cut) == token_ids(whole)


def test_batches_stay_under_the_limit_and_cover_every_row_once() -> None:
    widths = [30, 12, 30, 18, 12, 12, 25]
    for limit in (30, 47, 60, 1000):
        batches = list(sampling_module._batches(widths, limit))
        assert sorted(itertools.chain(*batches)) == list(range(len(widths)))
        assert all(len(batch) * max(widths[row] for row in batch) <= limit for batch in batches)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_dropping_rows_has_no_effect(monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    model = tiny_model(eos_bias=3.0)
    sampling = SamplingConfig(max_new_tokens=16, temperature=temperature)
    asked = requests((5, 5, 5, 5, 5))
    dropped = TransformersSampler(model, [EOS], PAD).sample(asked, sampling, seed=6)
    assert len({len(ids) for ids in token_ids(dropped)}) >= 3
    monkeypatch.setattr(sampling_module._Batch, "drop", lambda self, ended, drawn: drawn)
    kept = TransformersSampler(model, [EOS], PAD).sample(asked, sampling, seed=6)
    assert token_ids(kept) == token_ids(dropped)
    for a, b in zip(flat(kept), flat(dropped), strict=True):
        torch.testing.assert_close(a.sampler_logprobs, b.sampler_logprobs, atol=1e-5, rtol=0)


def test_work_done_each_prompt_once_and_live_rows_only() -> None:
    model = tiny_model(eos_bias=3.0)
    shapes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    asked = [*requests(), SampleRequest(prompts()[1], 2)]  # a prompt that is asked for twice
    rollouts = TransformersSampler(model, [EOS], PAD).sample(asked, SamplingConfig(16), seed=6)
    lengths = [len(ids) for ids in token_ids(rollouts)]
    expected = [(5, 14)] + [(sum(n > step for n in lengths), 1) for step in range(1, max(lengths))]
    assert shapes == expected


def test_modes_and_gradients_are_restored() -> None:
    model = tiny_model()
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    rollouts = TransformersSampler(model, [EOS], PAD).sample(requests(), SamplingConfig(4), seed=0)
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()
    model.eval()
    assert rollouts == TransformersSampler(model, [EOS], PAD).sample(requests(), SamplingConfig(4), seed=0)


def test_bad_input_is_refused_with_the_remedy() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="prompt_ids is empty; give one token"):
        SampleRequest([], 1)
    with pytest.raises(ValueError, match="count is 0; ask for 1"):
        SampleRequest([3], 0)
    with pytest.raises(ValueError, match="max_new_tokens is 0; set it to 1"):
        SamplingConfig(max_new_tokens=0)
    with pytest.raises(ValueError, match="temperature is -1"):
        SamplingConfig(1, temperature=-1)
    with pytest.raises(ValueError, match="top_p is 0"):
        SamplingConfig(1, top_p=0)
    with pytest.raises(ValueError, match="eos_token_ids is empty; give"):
        TransformersSampler(model, [], PAD)
    sampler = TransformersSampler(model, [EOS], PAD)
    with pytest.raises(ValueError, match=r"request 1: 5 prompt tokens \+ 60 new ones .* lower max_new_tokens"):
        sampler.sample([SampleRequest([2], 1), SampleRequest([3] * 5, 1)], SamplingConfig(60), seed=0)
    small = TransformersSampler(model, [EOS], PAD, max_batch_tokens=40)
    with pytest.raises(ValueError, match="max_batch_tokens = 40; set it to 45 or more"):
        small.sample([SampleRequest([3] * 5, 1)], SamplingConfig(40), seed=0)
    assert sampler.sample([], SamplingConfig(4), seed=0) == []


def test_logits_that_are_not_finite_are_reported() -> None:
    model = tiny_model()
    model.lm_head.weight.data[3] = float("nan")
    for temperature in (0.0, 1.0):
        sampling = SamplingConfig(3, temperature=temperature)
        sampler = TransformersSampler(model, [EOS], PAD)
        with pytest.raises(FloatingPointError, match="not finite"):
            sampler.sample(requests(), sampling, seed=0)


def test_who_watches_sees_every_completion_and_token() -> None:
    """While it goes on, not at the end: completions end at different steps, some never, and in several batches."""
    sampler = TransformersSampler(tiny_model(), [EOS, *range(30, 40)], PAD, max_batch_tokens=120)
    seen: list[tuple[int, int]] = []
    rollouts = flat(sampler.sample(requests(), SamplingConfig(8), seed=3, watch=lambda *more: seen.append(more)))
    assert sum(ended for ended, _ in seen) == len(rollouts) == 9
    assert sum(tokens for _, tokens in seen) == sum(len(rollout.completion_ids) for rollout in rollouts)
    assert sum(ended > 0 for ended, _ in seen) > 3
    assert {rollout.truncated for rollout in rollouts} == {True, False}
