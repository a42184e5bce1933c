"""Sampling completions from the policy.

    TransformersSampler   a decoding loop of our own on any decoder-only transformers model

A token is drawn as transformers' ``generate`` draws it: logits over temperature, then top-p, then one sample
of what is left. The log-probability recorded with it is that of the full vocabulary at temperature 1,
whatever it was drawn with: that is the policy whose ratio and divergences the losses are about.

Why not ``generate``: with completions of very different lengths most of its time goes into rows that have
ended, into concatenating the whole cache for every token, and into sorting the vocabulary. Here

- each distinct prompt is run once, and its rows share its keys and values where the model allows it;
- keys and values are written into a buffer that already has room for all tokens (`sgpo.sampling.cache`);
- on a CPU the passes over single tokens use faster products of matrices (`sgpo.sampling.decoding`);
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
from sgpo.sampling.cache import KeyValueBuffer, PromptRows, SharedPrompts
from sgpo.sampling.decoding import fast_decoding, inference, may_share_prompts
from sgpo.sampling.records import Rollout, SampleRequest, SamplingConfig, Watch
from sgpo.tokenizers import end_token_ids, pad_token_id

DRAW_BYTES = 256 * 1024**2  # of the float32 logits that are drawn from at once; a few copies of them live at a time
FIRST_CANDIDATES = 8  # most probable tokens looked at first; 16 times more where they do not reach top-p


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

    @torch.no_grad()
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
        with evaluation_mode(self.model), fast_decoding(self.model):
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
        with inference(self.model):
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
        return drawn.squeeze(-1), _logprobs(logits, drawn)
    probs = tempered_probs(logits, sampling.temperature)
    kept, token_ids = nucleus(probs, sampling.top_p)
    cumulative = kept.cumsum(-1)
    total = cumulative[:, -1:]
    # below the total even after rounding: what is beyond it has probability 0
    target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    # the clamp is for NaN only, which is reported at the end, without a check at every step
    choice = torch.searchsorted(cumulative, target, right=True).clamp_(max=kept.shape[-1] - 1)
    drawn = choice if token_ids is None else token_ids.gather(-1, choice)
    if sampling.temperature == 1:
        return drawn.squeeze(-1), probs.gather(-1, drawn).log_().squeeze(-1)
    return drawn.squeeze(-1), _logprobs(logits, drawn)


def _logprobs(logits: Tensor, drawn: Tensor) -> Tensor:
    return (logits.gather(-1, drawn) - logits.logsumexp(-1, keepdim=True)).squeeze(-1)


def tempered_probs(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities [rows, vocabulary] of float32 logits over a temperature above 0."""
    if temperature != 1:
        logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # never above 0, so it cannot overflow
    return logits.softmax(-1)


def nucleus(probs: Tensor, top_p: float) -> tuple[Tensor, Tensor | None]:
    """Of each row the smallest set of tokens that reaches top-p, the most probable first.

    Like transformers' ``TopPLogitsWarper`` (a token stays while the mass of the more probable ones is below top-p, the
    first always), without sorting a vocabulary whose head suffices: a row that needs more candidates is looked at
    again. Which of several equally probable tokens at the edge stay depends on torch's order of equals, there as here.

    Args:
        probs: [rows, vocabulary], float32.
        top_p: in (0, 1].

    Returns:
        Probabilities [rows, candidates], 0 for those outside, and the candidates' token ids, same shape; or all
        probabilities and None if every token is a candidate in its own place.
    """
    if top_p == 1:
        return probs, None
    rows, width = None, FIRST_CANDIDATES
    kept, token_ids, short = _among_the_most_probable(probs, top_p, width)
    while bool(short.any()):
        rows = short.nonzero().squeeze(-1) if rows is None else rows[short]
        width *= 16
        more, more_ids, short = _among_the_most_probable(probs[rows], top_p, width)
        room = (0, more.shape[-1] - kept.shape[-1])
        kept, token_ids = nn.functional.pad(kept, room), nn.functional.pad(token_ids, room)
        kept[rows], token_ids[rows] = more, more_ids
    return kept, token_ids


def _among_the_most_probable(probs: Tensor, top_p: float, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The nucleus among `width` tokens: probabilities, token ids, and whether a row does not reach top-p with them."""
    width = min(width, probs.shape[-1])
    top, token_ids = probs.topk(width)
    cumulative = top.cumsum(-1)
    short = cumulative[:, -1] < top_p if width < probs.shape[-1] else cumulative.new_zeros(len(probs), dtype=torch.bool)
    return top.masked_fill(cumulative - top >= top_p, 0.0), token_ids, short


@dataclass
class _Batch:
    """The rows that are being decoded; the first dimension of every tensor is the live rows."""

    cache: DynamicCache
    rows: Tensor  # [live] index of the output row
    positions: Tensor  # [live] position of the next token, not counting padding
    mask: Tensor  # [live, capacity] true for tokens that may be attended to
    length: int  # columns run so far, padding too
    prompt_rows: PromptRows | None  # if all layers share prompts; they know the padding themselves

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
        kept = self.prompt_rows.select(order) if self.prompt_rows else None
        for layer in self.cache.layers:
            if kept is not None:
                layer.keep_prompts(kept)
            if isinstance(layer, KeyValueBuffer):
                layer.shrink(gaps, movers, live)
            else:
                layer.batch_select_indices(order)
        return drawn[order]

    def forward(self, model: Any, drawn: Tensor) -> Tensor:
        """Append drawn [live] to the sequences; returns the logits [live, vocabulary] of what follows."""
        self.length += 1
        logits = model(
            input_ids=drawn[:, None],
            attention_mask=self.mask[:, : self.length] if self.prompt_rows is None else None,
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
    sharing = _sharing(cache, sources, ~mask[:, :width]) if 2 * len(index) <= len(prompts) else None
    for i, layer in enumerate(cache.layers):
        # the last token drawn is never run, hence the - 1
        if sharing is not None:
            cache.layers[i] = SharedPrompts(layer, sharing, steps - 1)
        elif type(layer) is DynamicLayer and layer.is_initialized:
            cache.layers[i] = KeyValueBuffer(layer, sources, width + steps - 1)
        else:
            layer.batch_select_indices(sources)  # sliding windows, and other layers with rules of their own
    rows = torch.arange(len(prompts), device=device)
    return _Batch(cache, rows, lengths[sources], mask[sources], width, sharing), logits[sources]


def _sharing(cache: DynamicCache, sources: Tensor, padding: Tensor) -> PromptRows | None:
    """For rows that share prompts, if all layers of the model allow it; sources [rows], padding [prompts, width]."""
    heads = {layer.keys.shape[1] for layer in cache.layers if type(layer) is DynamicLayer and layer.is_initialized}
    if len(heads) != 1 or not all(type(layer) is DynamicLayer and layer.is_initialized for layer in cache.layers):
        return None
    if not all(may_share_prompts(layer, padding) for layer in cache.layers):
        return None
    return PromptRows(sources, padding, *heads)


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
