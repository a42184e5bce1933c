"""The faster passes over single tokens: where they are used, that nothing stays behind, and what is refused."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sgpo.sampling import decoding
from sgpo.sampling.cache import KeyValueBuffer, PromptRows, SharedPrompts
from sgpo.sampling.decoding import attention_of_one_query, fast_decoding, may_share_prompts
from sgpo.sampling.records import Rollout, SampleRequest, SamplingConfig
from sgpo.sampling.transformers import TransformersSampler

REQUESTS = [SampleRequest([5, 9, 4], 9), SampleRequest([7, 3, 8, 6, 11, 30, 2], 12), SampleRequest([20], 6)]


def tiny_model(attention: str = "sdpa", heads: int = 2, **options: Any) -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=heads,
        intermediate_size=48,
        initializer_range=0.5,
        bos_token_id=None,
        attn_implementation=attention,
        **options,
    )
    return Qwen2ForCausalLM(config).eval()


def sample(model: Any, new: int = 20, temperature: float = 1.0) -> list[Rollout]:
    ends = list(range(30, 40))  # rows end at different steps, whole prompts too
    found = TransformersSampler(model, ends, 0).sample(REQUESTS, SamplingConfig(new, temperature), seed=5)
    return [rollout for group in found for rollout in group]


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each call of `SharedPrompts.attend`."""
    calls: list[int] = []
    attend = SharedPrompts.attend

    def counted(self: SharedPrompts, query: torch.Tensor, scale: float) -> torch.Tensor:
        calls.append(len(query))
        return attend(self, query, scale)

    monkeypatch.setattr(SharedPrompts, "attend", counted)
    return calls


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_shared_prompts_sample_what_copies_do(heads: int, attended: list[int]) -> None:
    shared = sample(tiny_model(heads=heads))
    assert max(attended) > 12 > 5 > min(attended), "rows and prompts leave"
    calls = len(attended)
    copied = sample(tiny_model("eager", heads))
    assert len(attended) == calls, "only sdpa is replaced"
    assert [rollout.completion_ids for rollout in shared] == [rollout.completion_ids for rollout in copied]
    assert len({len(rollout.completion_ids) for rollout in shared}) > 3
    for one, other in zip(shared, copied, strict=True):
        torch.testing.assert_close(one.sampler_logprobs, other.sampler_logprobs, atol=2e-5, rtol=0)


def test_nothing_stays_behind() -> None:
    model = tiny_model()
    sample(model)
    assert not any("forward" in vars(module) for module in model.modules())
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward
    with pytest.raises(KeyError), fast_decoding(model):
        raise KeyError
    assert not any("forward" in vars(module) for module in model.modules())
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward


def test_keys_and_values_are_freed_at_the_end() -> None:
    """Not when garbage is collected: until then an update would have to do with the memory that is left."""
    model, made, set_aside = tiny_model(), list[weakref.ref[Any]](), KeyValueBuffer._set_aside

    def watched(self: KeyValueBuffer, *arguments: Any) -> None:
        made.append(weakref.ref(self))
        set_aside(self, *arguments)

    gc.collect()
    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(KeyValueBuffer, "_set_aside", watched)
            sample(model)
        assert len(made) == 2  # a layer each
        assert all(layer() is None for layer in made)
    finally:
        gc.enable()


def test_frequencies_made_while_sampling_serve_training() -> None:
    """Those of a longer text are made anew by this kind of rotary embedding, inside the decoding loop."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    model = tiny_model(max_position_embeddings=64, rope_parameters=rope)
    model.model.rotary_emb.max_seq_len_cached = model.model.rotary_emb.original_max_seq_len = 9
    before = model.model.rotary_emb.inv_freq
    sample(model)
    assert model.model.rotary_emb.inv_freq is not before
    assert not any(buffer.is_inference() for buffer in model.buffers())
    model(input_ids=torch.arange(12)[None]).logits.logsumexp(-1).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("rows", [3, 40])  # fewer and more than oneDNN is called for
@pytest.mark.parametrize("bias", [False, True])
def test_linear_layers(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 96, bias=bias), nn.Linear(96, 32, bias=bias))
    inputs = torch.randn(rows, 1, 48)
    with torch.no_grad():
        expected = model.double()(inputs.double()).float()
        with fast_decoding(model.float()):
            torch.testing.assert_close(model(inputs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["none", "bool", "added"])
def test_attention_of_one_query_equals_that_of_transformers(form: str) -> None:
    source = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(5, h, t, 8, generator=source) for h, t in ((6, 1), (2, 9), (2, 9)))
    mask = torch.rand(5, 1, 1, 9, generator=source) < 0.6
    mask[..., 0] = True
    given = {"none": None, "bool": mask, "added": torch.zeros(5, 1, 1, 9).masked_fill(~mask, -1e9)}[form]
    module = nn.Module()
    module.num_key_value_groups = 3  # type: ignore[assignment]
    found, _ = attention_of_one_query(module, query, key, value, given, scaling=0.3)
    expected, _ = sdpa_attention_forward(module, query, key, value, given, scaling=0.3)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("kind", "allowed"), [("causal", True), ("window", False), ("added", False), ("other", False)])
def test_prompts_are_shared_only_where_padding_alone_is_masked(kind: str, allowed: bool) -> None:
    cache = DynamicCache()
    keys, _ = cache.update(torch.randn(2, 2, 4, 8), torch.randn(2, 2, 4, 8), 0)
    padding = torch.tensor([[True, True, False, False], [False] * 4])
    mask = (torch.ones(4, 4, dtype=torch.bool).tril() & ~padding[:, None])[:, None]
    if kind == "window":
        mask = mask & torch.ones(4, 4, dtype=torch.bool).triu(-1)
    given = torch.zeros(mask.shape).masked_fill(~mask, -1e9) if kind == "added" else mask
    keys = keys + 0 if kind == "other" else keys  # what the model attends to is not what the cache has
    attention_of_one_query(nn.Module(), torch.randn(2, 2, 4, 8), keys, cache.layers[0].values, given)
    assert may_share_prompts(cache.layers[0], padding) is allowed


def test_a_layer_that_attends_otherwise_to_drawn_tokens_is_reported() -> None:
    cache = DynamicCache()
    cache.update(torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8), 0)
    rows = PromptRows(torch.tensor([0, 0]), torch.zeros(1, 4, dtype=torch.bool), heads=2)
    layer = SharedPrompts(cache.layers[0], rows, 3)
    drawn = torch.randn(2, 2, 1, 8)
    layer.update(drawn, drawn)
    with pytest.raises(RuntimeError, match="report its type"):
        layer.update(drawn, drawn)


def test_other_floating_types_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch, attended: list[int]) -> None:
    model = tiny_model().bfloat16()
    monkeypatch.setattr(decoding, "_attend", None)  # a call would fail
    assert len(sample(model)) == 27
    assert not attended
