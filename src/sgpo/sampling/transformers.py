"""Sampling completions from the policy.

    TransformersSampler   a decoding loop of our own on any decoder-only transformers model

A token is drawn as transformers' ``generate`` draws it: logits over temperature, then top-p, then one sample
of what is left. The log-probability recorded with it is that of the full vocabulary at temperature 1,
whatever it was drawn with: that is the policy whose ratio and divergences the losses are about.

Why not ``generate``: with completions of very different lengths most of its time goes into rows that have
ended, into concatenating the whole cache for every token, and into sorting the vocabulary. Here

- each distinct prompt is run once and its keys and values are copied to its rows;
- keys and values are written into a buffer that already has room for all tokens;
- a row that ends leaves the batch at once: the last live rows move into the gaps, nothing else is copied;
- the nucleus is looked for among a few of the most probable tokens before anything is sorted;
- a token is the inverse of the cumulative distribution at a number drawn beforehand for that row and step. So
  a draw does not depend on which other rows are still in the batch, nor on how requests are cut into batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from sgpo.models.modes import evaluation_mode
from sgpo.sampling.records import Rollout, SampleRequest, SamplingConfig, Watch
from sgpo.tokenizers import end_token_ids, pad_token_id

DRAW_BYTES = 256 * 1024**2  # of the float32 logits that are drawn from at once; a few copies of them live at a time
FIRST_CANDIDATES = 32  # most probable tokens looked at first; 16 times more where they do not reach top-p


class TransformersSampler:
    """Samples with the forward pass of a decoder-only transformers model.

    The model may be on any device and in any floating type; probabilities are float32. Settings of its
    ``generation_config`` are not used. Random numbers come from a CPU generator of the sampler's own, so the
    global state is neither read nor changed. The model runs without gradients in evaluation mode; afterwards
    each module is put back into the mode it was in.

    Every process decodes until its own rows have ended. A model whose forward pass needs all processes (FSDP,
    ZeRO-3) must be gathered first.

    Args:
        model: a transformers causal language model with a ``DynamicCache``; not a DDP wrapper of one.
        eos_token_ids: the tokens that end a completion.
        pad_token_id: any token of the vocabulary; stands left of shorter prompts, and nothing attends to it.
        max_batch_tokens: bound on rows x (longest prompt + max_new_tokens) of a batch, hence on the memory of
            its keys and values; what is beyond it is sampled in further batches.

    Raises ValueError if there is no end-of-sequence token.
    """

    def __init__(
        self,
        model: nn.Module,
        eos_token_ids: Sequence[int],
        pad_token_id: int,
        max_batch_tokens: int = 65_536,
    ) -> None:
        if not eos_token_ids:
            raise ValueError("eos_token_ids is empty; give the tokenizer's eos_token_id, or nothing ever ends")
        self.model: Any = model
        self.eos_token_ids = list(eos_token_ids)
        self.pad_token_id = pad_token_id
        self.max_batch_tokens = max_batch_tokens

    @classmethod
    def of(cls, model: Any, tokenizer: Any, max_batch_tokens: int = 65_536) -> TransformersSampler:
        """The sampler of a model and its tokenizer: which tokens end a completion, and which one pads."""
        return cls(model, end_token_ids(model, tokenizer), pad_token_id(tokenizer), max_batch_tokens)

    @torch.no_grad()  # not inference_mode: buffers that the model makes here must stay usable in training
    def sample(
        self, requests: Sequence[SampleRequest], sampling: SamplingConfig, *, seed: int, watch: Watch | None = None
    ) -> list[list[Rollout]]:
        """Sample all requests, as many rows at once as ``max_batch_tokens`` allows; watched after every token.

        Raises:
            ValueError: a prompt with max_new_tokens exceeds the model's positions or ``max_batch_tokens``.
            FloatingPointError: the model returned logits that are not finite.
        """
        self._check(requests, sampling)
        rows = [(i, copy) for i, request in enumerate(requests) for copy in range(request.count)]
        uniforms = _uniforms(requests, sampling.max_new_tokens, seed)
        widths = [len(requests[i].prompt_ids) + sampling.max_new_tokens for i, _ in rows]
        rollouts: list[list[Rollout]] = [[Rollout([], None, truncated=True)] * r.count for r in requests]
        with evaluation_mode(self.model):
            for batch in _batches(widths, self.max_batch_tokens):
                prompts = [requests[rows[row][0]].prompt_ids for row in batch]
                sampled = self._sample_batch(prompts, uniforms[batch], sampling, watch or _unwatched)
                for row, rollout in zip(batch, sampled, strict=True):
                    request, copy = rows[row]
                    rollouts[request][copy] = rollout
        return rollouts

    def _check(self, requests: Sequence[SampleRequest], sampling: SamplingConfig) -> None:
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        for i, request in enumerate(requests):
            length = len(request.prompt_ids) + sampling.max_new_tokens
            asked = f"request {i}: {len(request.prompt_ids)} prompt tokens + {sampling.max_new_tokens} new ones"
            if positions is not None and length > positions:
                raise ValueError(
                    f"{asked} exceed the model's {positions} positions (max_position_embeddings); "
                    "lower max_new_tokens or leave out prompts that are so long"
                )
            if length > self.max_batch_tokens:
                raise ValueError(
                    f"{asked} exceed max_batch_tokens = {self.max_batch_tokens}; set it to {length} or more"
                )

    def _sample_batch(
        self, prompts: list[list[int]], uniforms: Tensor, sampling: SamplingConfig, watch: Watch
    ) -> list[Rollout]:
        """One rollout a row; prompts: rows x token ids, uniforms: [rows, max_new_tokens] in [0, 1)."""
        device = self.model.device
        uniforms = uniforms.to(device)
        rows, steps = uniforms.shape
        eos = torch.tensor(self.eos_token_ids, device=device)
        tokens = torch.zeros(rows, steps, dtype=torch.long, device=device)
        logprobs = torch.zeros(rows, steps, device=device)
        batch, logits = _prefill(self.model, prompts, self.pad_token_id, steps)
        for step in range(steps):
            drawn, drawn_logprobs = draw_tokens(logits, uniforms[batch.rows, step], sampling)
            tokens[batch.rows, step] = drawn
            logprobs[batch.rows, step] = drawn_logprobs
            live = len(drawn)
            drawn = batch.drop(torch.isin(drawn, eos), drawn)
            last = step + 1 == steps or not len(drawn)
            watch(live if last else live - len(drawn), live)
            if last:
                break
            logits = batch.forward(self.model, drawn)
        return _rollouts(tokens, logprobs, torch.isin(tokens, eos))


def _unwatched(ended: int, tokens: int) -> None:
    """Nobody wants to know."""


def _uniforms(requests: Sequence[SampleRequest], steps: int, seed: int) -> Tensor:
    """[completions, steps] numbers in [0, 1).

    Those of a request with a seed of its own depend on nothing else: neither on other requests, nor on how many
    completions or tokens are asked for.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.empty(0, steps)]
    for request in requests:
        if request.seed is None:
            parts.append(torch.rand(request.count, steps, generator=generator))
        else:
            own = [(request.seed + 1_000_003 * copy) % 2**63 for copy in range(request.count)]
            parts.append(torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(s)) for s in own]))
    return torch.cat(parts)


def draw_tokens(logits: Tensor, uniforms: Tensor, sampling: SamplingConfig) -> tuple[Tensor, Tensor]:
    """Draw one token per row.

    Args:
        logits: [rows, vocabulary], any floating type.
        uniforms: [rows], in [0, 1); not used when greedy.
        sampling: temperature and top-p.

    Returns:
        Tokens [rows] and their log-probabilities [rows], in nats, of the full vocabulary at temperature 1.
    """
    at_once = max(1, DRAW_BYTES // (logits.shape[-1] * torch.float32.itemsize))
    parts = zip(logits.split(at_once), uniforms.split(at_once), strict=True)
    drawn, logprobs = zip(*(_draw(some, of_rows, sampling) for some, of_rows in parts), strict=True)
    return torch.cat(drawn), torch.cat(logprobs)


def _draw(logits: Tensor, uniforms: Tensor, sampling: SamplingConfig) -> tuple[Tensor, Tensor]:
    """`draw_tokens` of so few rows that copies of their logits are small."""
    logits = logits.float()
    if sampling.temperature == 0:
        drawn = logits.argmax(-1, keepdim=True)
    else:
        probs, token_ids = filtered_probs(logits, sampling.temperature, sampling.top_p)
        cumulative = probs.cumsum(-1)
        total = cumulative[:, -1:]
        # below the total even after rounding: what is beyond it has probability 0
        target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
        # the clamp is for NaN only, which is reported at the end, without a check at every step
        choice = torch.searchsorted(cumulative, target, right=True).clamp_(max=probs.shape[-1] - 1)
        drawn = choice if token_ids is None else token_ids.gather(-1, choice)
    logprobs = logits.gather(-1, drawn) - logits.logsumexp(-1, keepdim=True)
    return drawn.squeeze(-1), logprobs.squeeze(-1)


def filtered_probs(logits: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor | None]:
    """The distribution that is sampled: temperature, then the smallest set of tokens that reaches top-p.

    Like transformers' ``TemperatureLogitsWarper`` and ``TopPLogitsWarper`` (a token stays while the mass of
    the more probable ones is below top-p, the first always), without sorting a vocabulary whose head
    suffices. Which of several equally probable tokens at the edge stay depends on torch's order of equals,
    there as here.

    Args:
        logits: [rows, vocabulary], float32.
        temperature: above 0.
        top_p: in (0, 1].

    Returns:
        Probabilities [rows, candidates], each row of sum 1, and the candidates' token ids, same shape; or
        [rows, vocabulary] and None if every token is a candidate in its own place.
    """
    if temperature != 1:
        logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # never above 0, so it cannot overflow
    probs = logits.softmax(-1)
    if top_p == 1:
        return probs, None
    width = min(FIRST_CANDIDATES, probs.shape[-1])
    while True:
        top, token_ids = probs.topk(width)
        cumulative = top.cumsum(-1)
        if width == probs.shape[-1] or bool((cumulative[:, -1] >= top_p).all()):
            break
        width = min(16 * width, probs.shape[-1])
    kept = top.masked_fill(cumulative - top >= top_p, 0.0)
    return kept / kept.sum(-1, keepdim=True), token_ids


class _KeyValueBuffer(DynamicLayer):
    """A cache layer in memory set aside beforehand; ``keys`` and ``values`` are views of the part in use.

    Of the buffers [rows, heads, capacity, dimension], ``live`` rows and ``length`` columns are in use.
    """

    def __init__(self, layer: DynamicLayer, sources: Tensor, capacity: int) -> None:
        """Row i starts as row ``sources[i]`` of layer."""
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.length, self.live = layer.get_seq_length(), len(sources)
        self.buffers: list[Tensor] = []
        for states in (layer.keys, layer.values):
            buffer = states.new_empty(self.live, states.shape[1], capacity, states.shape[3])
            buffer[:, :, : self.length] = states[sources]
            self.buffers.append(buffer)
        self._set_views()

    def _set_views(self) -> None:
        self.keys, self.values = (buffer[: self.live, :, : self.length] for buffer in self.buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        end = self.length + key_states.shape[-2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[: self.live, :, self.length : end] = states
        self.length = end
        self._set_views()
        return self.keys, self.values

    def shrink(self, gaps: Tensor, movers: Tensor, live: int) -> None:
        """Move rows ``movers`` into ``gaps``, then keep the first ``live`` rows."""
        for buffer in self.buffers:
            used = buffer[:, :, : self.length]
            used[gaps] = used[movers]
        self.live = live
        self._set_views()


@dataclass
class _Batch:
    """The rows that are being decoded; the first dimension of every tensor is the live rows."""

    cache: DynamicCache
    rows: Tensor  # [live] index of the output row
    positions: Tensor  # [live] position of the next token, not counting padding
    mask: Tensor  # [live, capacity] true for tokens that may be attended to
    length: int  # columns run so far, padding too

    def drop(self, ended: Tensor, drawn: Tensor) -> Tensor:
        """Take the rows that ended out of the batch; returns what is left of drawn [live]."""
        live = len(ended) - int(ended.sum())
        if live in (0, len(ended)):
            return drawn[:live]
        gaps = ended[:live].nonzero().squeeze(-1)
        movers = (~ended[live:]).nonzero().squeeze(-1) + live
        order = torch.arange(live, device=ended.device)
        order[gaps] = movers
        self.rows, self.positions, self.mask = self.rows[order], self.positions[order], self.mask[order]
        for layer in self.cache.layers:
            if isinstance(layer, _KeyValueBuffer):
                layer.shrink(gaps, movers, live)
            else:
                layer.batch_select_indices(order)
        return drawn[order]

    def forward(self, model: Any, drawn: Tensor) -> Tensor:
        """Append drawn [live] to the sequences; returns the logits [live, vocabulary] of what follows."""
        self.length += 1
        logits = model(
            input_ids=drawn[:, None],
            attention_mask=self.mask[:, : self.length],
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        self.positions = self.positions + 1
        return logits[:, -1]


def _prefill(model: Any, prompts: list[list[int]], pad_token_id: int, steps: int) -> tuple[_Batch, Tensor]:
    """Run each distinct prompt once; returns a batch of a row per prompt and logits [rows, vocabulary]."""
    device = model.device
    index: dict[tuple[int, ...], int] = {}
    sources = torch.tensor([index.setdefault(tuple(ids), len(index)) for ids in prompts], device=device)
    width = max(map(len, index))
    input_ids = torch.tensor([[pad_token_id] * (width - len(ids)) + list(ids) for ids in index], device=device)
    lengths = torch.tensor([len(ids) for ids in index], device=device)
    positions = torch.arange(width + steps, device=device) - (width - lengths)[:, None]
    mask, cache = positions >= 0, DynamicCache(config=model.config)
    logits = model(
        input_ids=input_ids,
        attention_mask=mask[:, :width],
        position_ids=positions[:, :width].clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            # the last token drawn is never run, hence the - 1
            cache.layers[i] = _KeyValueBuffer(layer, sources, width + steps - 1)
        else:
            layer.batch_select_indices(sources)  # sliding windows, and other layers with rules of their own
    rows = torch.arange(len(prompts), device=device)
    return _Batch(cache, rows, lengths[sources], mask[sources], width), logits[sources]


def _rollouts(tokens: Tensor, logprobs: Tensor, is_end: Tensor) -> list[Rollout]:
    """Cut each row of [rows, steps] after its first end-of-sequence token; a row without one is truncated."""
    if not bool(logprobs.isfinite().all()):
        raise FloatingPointError("the model's logits are not finite; look for NaN or infinities in its weights")
    ended = is_end.any(-1)
    lengths = torch.where(ended, is_end.int().argmax(-1) + 1, tokens.shape[1])
    columns = (tokens.tolist(), logprobs.cpu(), lengths.tolist(), ended.tolist())
    return [
        Rollout(completion_ids=ids[:length], sampler_logprobs=values[:length].clone(), truncated=not has_end)
        for ids, values, length, has_end in zip(*columns, strict=True)
    ]


def _batches(widths: list[int], limit: int) -> Iterator[list[int]]:
    """Cut rows of the given widths into batches of rows x widest <= limit, narrow rows first.

    In that order the row that joins is the widest so far, and rows of similar widths share a batch.
    """
    batch: list[int] = []
    for row in sorted(range(len(widths)), key=widths.__getitem__):
        if batch and (len(batch) + 1) * widths[row] > limit:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
