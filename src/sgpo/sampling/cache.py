"""Keys and values of the rows that are being decoded, in memory set aside beforehand.

    KeyValueBuffer      a row has its prompt's and its own
    SharedPrompts       rows of one prompt share the prompt's; `sgpo.sampling.decoding` attends to both parts
    PromptRows          which rows continue which prompt

Shapes: B live rows, Q prompts, S rows of the prompt that has most, H heads of keys, N queries that share a head of
keys, C capacity, W width of the prompts (padded on the left), L tokens drawn, D dimension of a head.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class KeyValueBuffer(DynamicLayer):
    """A cache layer; ``keys`` and ``values`` [B, H, length, D] are views of the part of [rows, H, C, D] in use."""

    def __init__(self, layer: DynamicLayer, sources: Tensor, capacity: int) -> None:
        """Row i starts as row ``sources[i]`` of layer."""
        length = layer.get_seq_length()
        self._set_aside(layer, len(sources), capacity, length)
        for part, states in zip((self.keys, self.values), (layer.keys, layer.values), strict=True):
            part[:] = states[sources]

    def _set_aside(self, layer: DynamicLayer, rows: int, capacity: int, length: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.length, self.live = length, rows
        self.buffers = [
            states.new_empty(rows, states.shape[1], capacity, states.shape[3]) for states in (layer.keys, layer.values)
        ]
        self._set_views()

    def _set_views(self) -> None:
        self.keys, self.values = (buffer[: self.live, :, : self.length] for buffer in self.buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start, self.length = self.length, self.length + key_states.shape[-2]
        self._set_views()
        self.keys[:, :, start:] = key_states
        self.values[:, :, start:] = value_states
        return self.keys, self.values

    def shrink(self, gaps: Tensor, movers: Tensor, live: int) -> None:
        """Move rows ``movers`` into ``gaps``, then keep the first ``live`` rows."""
        for buffer in self.buffers:
            used = buffer[:, :, : self.length]
            used[gaps] = used[movers]
        self.live = live
        self._set_views()


class SharedPrompts(KeyValueBuffer):
    """A cache layer whose buffer has the drawn tokens only; the keys that ``update`` returns name it as ``shared``.

    So a row needs no copy of its prompt, and a prompt is read once for all its rows. Those keys must go to `attend`.

    Raises RuntimeError if they did not: the next ``update`` notices.
    """

    def __init__(self, layer: DynamicLayer, rows: PromptRows, capacity: int) -> None:
        self.rows, self.attended = rows, 0
        self.prompt_width = layer.keys.shape[-2]
        self.prompt_keys = layer.keys.transpose(-1, -2).flatten(0, 1).contiguous()  # [Q * H, D, W]
        self.prompt_values = layer.values.flatten(0, 1).contiguous()  # [Q * H, W, D]
        self._set_aside(layer, len(rows.sources), capacity, 0)

    def get_seq_length(self) -> int:
        return self.prompt_width + self.length

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.attended != self.length:
            raise RuntimeError("the model does not attend to a drawn token as it does to its prompt; report its type")
        keys, values = super().update(key_states, value_states)
        # Weakly: the keys are this layer's own, and a cycle would keep the whole cache until garbage is collected.
        keys.shared = weakref.ref(self)  # type: ignore[attr-defined]
        return keys, values

    def attend(self, query: Tensor, scale: float) -> Tensor:
        """The attended values [B, heads, D] of one query a row [B, heads, 1, D]."""
        rows, (live, heads, _, dimension) = self.rows, query.shape
        pairs, dimension_of_values = live * rows.heads, self.prompt_values.shape[-1]
        query, width, places = query.reshape(pairs, -1), self.prompt_width, self.prompt_keys.shape[0]
        of_prompts = query.index_select(0, rows.to_prompts).view(places, -1, dimension)
        scores = torch.baddbmm(rows.mask, of_prompts, self.prompt_keys, alpha=scale)
        scores = scores.view(places * rows.most, -1).index_select(0, rows.to_rows).view(pairs, -1, width)
        own = torch.bmm(query.view(pairs, -1, dimension), self.keys.flatten(0, 1).transpose(1, 2))
        weights = torch.cat((scores, own.mul_(scale)), -1).softmax(-1)
        of_prompts = weights[..., :width].reshape(pairs, -1).index_select(0, rows.to_prompts)
        values = torch.bmm(of_prompts.view(places, -1, width), self.prompt_values)
        values = values.view(places * rows.most, -1).index_select(0, rows.to_rows)
        values = values.view(pairs, -1, dimension_of_values)
        self.attended = self.length
        return torch.baddbmm(values, weights[..., width:], self.values.flatten(0, 1)).view(live, heads, -1)

    def keep_prompts(self, kept: Tensor) -> None:
        """[Q * H] of the pairs of prompt and head."""
        self.prompt_keys, self.prompt_values = self.prompt_keys[kept], self.prompt_values[kept]


class PromptRows:
    """Which rows continue which prompt. Each pair of row and head has a place in a table [Q, H, S].

    Args:
        sources: [B] prompt of a row.
        padding: [Q, W] true for padding.
        heads: H.

    Attributes:
        to_rows: [B * H] place of each pair.
        to_prompts: [Q * H * S] the pair in each place; any where there is none.
        mask: [Q * H, 1, W] float32, 0 where to attend, else minus infinity.
    """

    def __init__(self, sources: Tensor, padding: Tensor, heads: int) -> None:
        self.heads, self.prompts = heads, len(padding)
        mask = torch.zeros(padding.shape, device=padding.device).masked_fill_(padding, float("-inf"))
        self.mask = mask.repeat_interleave(heads, 0)[:, None]
        self._set(sources, torch.bincount(sources, minlength=self.prompts))

    def select(self, order: Tensor) -> Tensor | None:
        """Keep rows ``order``. Returns the pairs of prompt and head that stay, once half have no row any more."""
        sources = self.sources[order]
        counts = torch.bincount(sources, minlength=self.prompts)
        kept = counts.nonzero().squeeze(-1)
        if 2 * len(kept) > self.prompts:
            self._set(sources, counts)
            return None
        self.prompts = len(kept)
        self._set(torch.searchsorted(kept, sources), counts[kept])
        pairs = self._with_heads(kept).flatten()
        self.mask = self.mask[pairs]
        return pairs

    def _set(self, sources: Tensor, counts: Tensor) -> None:
        rows = torch.arange(len(sources), device=sources.device)
        order = sources.argsort(stable=True)
        slots = torch.empty_like(sources)
        slots[order] = rows - (counts.cumsum(0) - counts)[sources[order]]
        self.sources, self.most = sources, int(counts.max())
        self.to_rows = (self._with_heads(sources) * self.most + slots[:, None]).flatten()
        self.to_prompts = sources.new_zeros(self.prompts * self.heads * self.most)
        self.to_prompts[self.to_rows] = self._with_heads(rows).flatten()

    def _with_heads(self, indices: Tensor) -> Tensor:
        """[any, H]: the pairs of each index and every head."""
        return indices[:, None] * self.heads + torch.arange(self.heads, device=indices.device)
