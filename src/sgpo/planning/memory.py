"""Bytes that a process holds while it trains, each part a formula.

    weights      4 trained + 2 or 4 frozen                                       sgpo.models.precision
    gradients    4 trained
    moments      8 trained                                                       AdamW
    activations  what a layer keeps of a token for the backward pass, see `kept_of_a_layer`
    projection   two buffers of logits, and the gradient of the head             sgpo.engine.projection
    samples      keys and values of all rows that are sampled at once            sgpo.sampling.transformers

H is the hidden size, I that of the MLP, Q and K those of all query heads and all key heads together; c bytes are those
of a number that is computed with (2 under bf16), r those of the residual stream (4 where the embedding is trained).
"""

from __future__ import annotations

from dataclasses import dataclass

from sgpo.engine.projection import SLICE_BYTES
from sgpo.planning.shapes import LINEAR, ModelShape

FLOAT = 4


@dataclass(frozen=True)
class TrainedAs:
    """What of a model is trained, in which types. Example: ``TrainedAs(shape, bf16=True)``"""

    shape: ModelShape
    bf16: bool
    rank: int = 0  # of LoRA; 0: all weights are trained
    targets: tuple[str, ...] = ()

    @property
    def full(self) -> bool:
        return self.rank == 0

    @property
    def trained(self) -> int:
        """Parameters."""
        return self.shape.parameters if self.full else self.shape.adapter_parameters(self.rank, self.targets)

    @property
    def computed(self) -> int:
        """c, bytes."""
        return 2 if self.bf16 else FLOAT

    @property
    def residual(self) -> int:
        """r, bytes: the type of the embedding, which under bf16 is float32 if it is trained."""
        return FLOAT if self.full else self.computed


def weights(how: TrainedAs) -> int:
    """Trained in float32, frozen as they are computed with."""
    frozen = 0 if how.full else how.shape.parameters
    return FLOAT * how.trained + how.computed * frozen


def copied_weights(how: TrainedAs) -> int:
    """Of a frozen copy of the policy, which has the frozen weights in common with it (`sgpo.training.teacher`)."""
    return FLOAT * how.trained


def gradients(how: TrainedAs) -> int:
    return FLOAT * how.trained


def moments(how: TrainedAs) -> int:
    """Two numbers of AdamW's in float32."""
    return 2 * FLOAT * how.trained


def short_copies(how: TrainedAs) -> int:
    """Autocast keeps the bfloat16 copies of trained weights to the end of a forward pass."""
    return 2 * how.trained if how.bf16 else 0


def kept_of_a_layer(how: TrainedAs, width: int, *, masked: bool) -> int:
    """Bytes that the backward pass needs of a token in one layer, without checkpointing.

    norms      2 H float32 inputs, and 2 H normalised where the norms' weights are trained; 2 scales
    inputs     of linear layers whose weight or adapter is trained; under bf16 each makes a copy of its own
    attention  Q queries, K keys and K values (Q each where a mask keeps padding apart), Q outputs, a sum for each head;
               the mask is a number for each pair of tokens
    MLP        gate, its activation, up: 3 I

    Args:
        width: tokens of a row, padding included.
        masked: whether rows are padded, so that there is a mask.
    """
    s, c = how.shape, how.computed
    norms = 2 * FLOAT * (2 * s.hidden if how.full else s.hidden) + 2 * FLOAT
    keys = 2 * (s.query_size if masked else s.kv_size)
    attention = c * (2 * s.query_size + keys + (width if masked else 0)) + FLOAT * s.heads
    return norms + _inputs(how) + attention + 3 * c * s.intermediate


def _inputs(how: TrainedAs) -> int:
    """Inputs of attention and MLP, of o_proj beyond what attention keeps, of down_proj; and what adapters give out."""
    s, c = how.shape, how.computed
    if how.full:
        return c * ((5 if how.bf16 else 2) * s.hidden + s.intermediate)
    groups = {("q_proj", "k_proj", "v_proj"): s.hidden, ("gate_proj", "up_proj"): s.hidden}
    groups |= {("o_proj",): s.query_size if how.bf16 else 0, ("down_proj",): s.intermediate}
    numbers = 0
    for names, size in groups.items():
        adapted = sum(name in how.targets for name in names)
        numbers += size * (adapted if how.bf16 else min(adapted, 1))
    return c * (numbers + how.rank * len(how.targets))


def activations(how: TrainedAs, tokens: int, width: int, *, masked: bool, checkpointing: bool) -> int:
    """Of a micro-batch, at the end of its forward pass.

    With checkpointing a layer keeps its input alone, and one layer at a time is computed again.

    Args:
        tokens: of the micro-batch, padding included.
    """
    layer = kept_of_a_layer(how, width, masked=masked) * tokens
    if not checkpointing:
        return how.shape.layers * layer
    return how.shape.layers * how.residual * how.shape.hidden * tokens + layer


def backward_work(how: TrainedAs, tokens: int) -> int:
    """Gradients that the backward pass of one MLP holds beside what is kept: 2 I, and H of the residual stream."""
    return tokens * (2 * how.computed * how.shape.intermediate + how.residual * how.shape.hidden)


def projection(how: TrainedAs, completion_tokens: int, *, divergence: bool) -> int:
    """Of the head: buffers of logits, hidden states and their gradients, the gradient of a trained head.

    Args:
        completion_tokens: of a micro-batch.
        divergence: whether the logits of two distributions are compared, which holds the teacher's hidden states too.
    """
    s = how.shape
    row = FLOAT * s.vocabulary
    buffers = (2 if divergence else 1) * min(completion_tokens * row, max(SLICE_BYTES, row))
    hidden = completion_tokens * s.hidden * (how.residual * (2 if divergence else 1) + FLOAT)
    head = FLOAT * s.table if how.full else 0
    return buffers + hidden + head + (2 * s.table if how.bf16 else 0)


def cache_of_a_token(how: TrainedAs) -> int:
    """Keys and values; keys have the type of the residual stream, by the rotation."""
    return how.shape.layers * how.shape.kv_size * (how.residual + how.computed)


@dataclass(frozen=True)
class MicroBatchSize:
    """The largest micro-batch of an update. Example: ``MicroBatchSize(rows=4, prompt=100, completion=400)``"""

    rows: int
    prompt: int  # tokens
    completion: int  # tokens
    checkpointing: bool = False
    divergence: bool = False  # whether its rows have a teacher

    @property
    def width(self) -> int:
        return self.prompt + self.completion

    @property
    def tokens(self) -> int:
        """Padding included."""
        return self.rows * self.width


def largest_microbatch(
    budget: int, rows: int, prompt: int, completion: int, *, checkpointing: bool, divergence: bool = False
) -> MicroBatchSize:
    """As many rows of the longest prompt and completion as the budget of tokens and the update have.

    Args:
        budget: max_tokens_per_microbatch.
        rows: of that kind in the update of one process.
    """
    count = max(1, min(rows, budget // (prompt + completion)))
    return MicroBatchSize(count, prompt, completion, checkpointing, divergence)


def update_parts(how: TrainedAs, batch: MicroBatchSize) -> dict[str, int]:
    """Bytes by part at the peak of an update: in its second or a later micro-batch, where all gradients are there.

    That is the end of the forward pass, in the projection, or the beginning of the backward pass, in the last MLP.
    """
    kept = activations(how, batch.tokens, batch.width, masked=batch.rows > 1, checkpointing=batch.checkpointing)
    layer = kept_of_a_layer(how, batch.width, masked=batch.rows > 1) * batch.tokens
    of_end = batch.tokens * how.shape.hidden * (2 * FLOAT + how.residual)  # of the last norm
    head = projection(how, batch.rows * batch.completion, divergence=batch.divergence) + short_copies(how)
    # With checkpointing no layer is computed again before the projection is done.
    forward = kept + of_end + head - (layer if batch.checkpointing else 0)
    backward = kept + of_end + backward_work(how, batch.tokens)
    in_forward = forward > backward
    return {
        "weights": weights(how),
        "gradients": gradients(how),
        "Adam's moments": moments(how),
        "activations": forward - head if in_forward else kept + of_end,
        "projection" if in_forward else "work of the backward pass": head
        if in_forward
        else backward_work(how, batch.tokens),
    }


def sampling_parts(how: TrainedAs, tokens: int, rows: int) -> dict[str, int]:
    """Bytes by part while the `transformers` sampler runs: no gradients, but keys, values and logits.

    Args:
        tokens: rows x (prompt + completion) that are sampled at once.
        rows: of them.
    """
    return {
        "weights": weights(how),
        "Adam's moments": moments(how),
        "keys and values": tokens * cache_of_a_token(how),
        "logits": 3 * FLOAT * rows * how.shape.vocabulary,
        "bfloat16 copies of weights": short_copies(how),
    }


def adapted(targets: list[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """The linear layers of a layer that get an adapter."""
    if not targets:
        return default
    return LINEAR if list(targets) == ["all-linear"] else tuple(name for name in LINEAR if name in targets)
