"""Prefix sharing: what the rows of a micro-batch have in common at their beginnings goes through the model once.

The completions of a problem follow one prompt, and often begin alike. A token's hidden state depends on the tokens up
to it alone, so rows that begin alike have the same hidden states there. The rows are laid into a *prefix trie*, whose
nodes are the tokens of the model's input; there is no padding:

    rows   a b c d        trie   a b c d         input_ids      a b c d e f x
           a b c e f                   e f       position_ids   0 1 2 3 3 4 0
           x                     x

Everything in the model but the attention works on single tokens. For the attention (`sgpo.engine.prefix_attention`) the
input is cut into *segments*, stretches of a row that no row before it has: the queries of a segment are its own tokens,
the keys are those of its row up to its end. Segments of like size are computed as one padded batch. So no mask is
larger than that of the plain rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

SMALL = 128  # tokens: shorter segments are all of like size; of longer ones those within a factor of two


@dataclass(frozen=True)
class TrieSegment:
    """Tokens that one row has and none before it.

    Example: ``TrieSegment(start=3, path=[0, 1, 2, 4, 5])`` of the second row above
    """

    start: int  # the first place in the row that is the segment's own
    path: list[int]  # the row's places in the input, up to the segment's end


@dataclass(frozen=True)
class PrefixTrie:
    """Rows of tokens with their common beginnings once.

    Example: ``prefix_trie([[5, 6, 7], [5, 6, 8]], cuts=[2, 2])``
    """

    input_ids: list[int]
    position_ids: list[int]  # the depth of each
    paths: list[list[int]]  # of each row: the places of its tokens in the input
    segments: list[TrieSegment]


@dataclass(frozen=True)
class SegmentBatch:
    """Segments of like size, padded; numbers are places in the input.

    Example: ``attention(query[batch.queries], key[batch.keys], value[batch.keys], batch.mask)``
    """

    queries: Tensor  # [n, Q] their own tokens
    keys: Tensor  # [n, K] the tokens of their rows
    mask: Tensor  # [n, 1, Q, K] True where a query sees a key


@dataclass(frozen=True)
class SharedPrefixes:
    """What the attention has to know of a trie.

    Example: ``model(input_ids, position_ids=position_ids, shared_prefixes=segment_batches(trie, "cpu"))``
    """

    batches: list[SegmentBatch]
    places: Tensor  # [T] where the queries of all batches, one after the other, hold each token of the input


def prefix_trie(rows: Sequence[list[int]], cuts: Sequence[int]) -> PrefixTrie:
    """The trie of rows of tokens.

    Args:
        rows: the tokens of each.
        cuts: where each row is cut into two segments, unless that is shared: behind its prompt, so that the completions
            of a problem are of like size.
    """
    input_ids: list[int] = []
    position_ids: list[int] = []
    paths: list[list[int]] = [[] for _ in rows]
    segments: list[TrieSegment] = []
    before: int | None = None
    for number in sorted(range(len(rows)), key=rows.__getitem__):  # what begins alike stands together
        row, cut = rows[number], cuts[number]
        shared = 0 if before is None else common_length(rows[before], row)
        path = [] if before is None else paths[before][:shared]
        path.extend(range(len(input_ids), len(input_ids) + len(row) - shared))
        input_ids.extend(row[shared:])
        position_ids.extend(range(shared, len(row)))
        if shared < cut < len(row):
            segments += [TrieSegment(shared, path[:cut]), TrieSegment(cut, path)]
        elif shared < len(row):
            segments.append(TrieSegment(shared, path))
        paths[number], before = path, number
    return PrefixTrie(input_ids, position_ids, paths, segments)


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two rows have in common at their beginnings."""
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return place
    return min(len(left), len(right))


def segment_batches(trie: PrefixTrie, device: torch.device | str) -> SharedPrefixes:
    """The segments of a trie in batches of like size."""
    alike: dict[tuple[int, int], list[TrieSegment]] = {}
    for segment in trie.segments:
        sizes = (len(segment.path) - segment.start, len(segment.path))
        alike.setdefault((_size_class(sizes[0]), _size_class(sizes[1])), []).append(segment)
    batches, places, offset = [], torch.empty(len(trie.input_ids), dtype=torch.long), 0
    for segments in alike.values():
        keys = pad_sequence([torch.tensor(segment.path) for segment in segments], batch_first=True)
        own = [torch.tensor(segment.path[segment.start :]) for segment in segments]
        queries = pad_sequence(own, batch_first=True)
        starts = torch.tensor([segment.start for segment in segments])
        # Of a padded query the result is not used; of a padded key the depth is beyond every true query of its row.
        depths = starts[:, None] + torch.arange(queries.shape[1])
        mask = torch.arange(keys.shape[1]) <= depths[:, :, None]
        batches.append(SegmentBatch(queries.to(device), keys.to(device), mask[:, None].to(device)))
        for number, tokens in enumerate(own):
            places[tokens] = offset + number * queries.shape[1] + torch.arange(len(tokens))
        offset += queries.numel()
    return SharedPrefixes(batches, places.to(device))


def _size_class(tokens: int) -> int:
    return max(tokens, SMALL - 1).bit_length()
