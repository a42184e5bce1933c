"""The shape of a decoder-only model with gated MLP and grouped attention (Qwen2, Llama), and its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgpo.configuration import nearest

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DEFAULT_TARGETS = ("q_proj", "v_proj")  # PEFT's for Qwen2 and Llama


@dataclass(frozen=True)
class ModelShape:
    """Example: ``KNOWN["Qwen/Qwen2.5-7B-Instruct"]``"""

    layers: int
    hidden: int  # H
    heads: int
    kv_heads: int
    intermediate: int  # I
    vocabulary: int  # V
    tied: bool  # whether embedding and head are one matrix
    qkv_bias: bool  # Qwen2 has biases there, Llama has none
    context: int = 32_768
    head_size: int = 0  # 0: hidden / heads

    @property
    def query_size(self) -> int:
        """All heads together."""
        return self.heads * (self.head_size or self.hidden // self.heads)

    @property
    def kv_size(self) -> int:
        """All heads of the keys, or of the values, together."""
        return self.kv_heads * (self.head_size or self.hidden // self.heads)

    def linear(self, name: str) -> tuple[int, int]:
        """Inputs and outputs of a linear layer."""
        h, q, kv, i = self.hidden, self.query_size, self.kv_size, self.intermediate
        sizes = [(h, q), (h, kv), (h, kv), (q, h), (h, i), (h, i), (i, h)]
        return dict(zip(LINEAR, sizes, strict=True))[name]

    @property
    def layer_parameters(self) -> int:
        """Of one layer: seven matrices, biases, two norms."""
        matrices = sum(inputs * outputs for inputs, outputs in map(self.linear, LINEAR))
        biases = self.query_size + 2 * self.kv_size if self.qkv_bias else 0
        return matrices + biases + 2 * self.hidden

    @property
    def table(self) -> int:
        """Of the embedding, and of the head."""
        return self.vocabulary * self.hidden

    @property
    def outer_parameters(self) -> int:
        """Of embedding, head and last norm."""
        return self.table * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        return self.layers * self.layer_parameters + self.outer_parameters

    @property
    def multiplying(self) -> int:
        """Parameters that a token is multiplied by: all but the embedding, with the head."""
        return self.layers * self.layer_parameters + self.table

    def adapter_parameters(self, rank: int, targets: tuple[str, ...]) -> int:
        """Of LoRA: two matrices, rank x inputs and outputs x rank, beside each target."""
        return self.layers * sum(rank * sum(self.linear(name)) for name in targets)


def _qwen(layers: int, hidden: int, heads: int, kv: int, inner: int, vocabulary: int, tied: bool) -> ModelShape:
    return ModelShape(layers, hidden, heads, kv, inner, vocabulary, tied, qkv_bias=True)


# From config.json of each on the Hub.
KNOWN = {
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen(24, 896, 14, 2, 4864, 151_936, True),
    "Qwen/Qwen2.5-1.5B-Instruct": _qwen(28, 1536, 12, 2, 8960, 151_936, True),
    "Qwen/Qwen2.5-7B-Instruct": _qwen(28, 3584, 28, 4, 18_944, 152_064, False),
    "meta-llama/Llama-3.1-8B-Instruct": ModelShape(32, 4096, 32, 8, 14_336, 128_256, False, False, 131_072),
}


def shape_of(model: str) -> ModelShape:
    """Of a known model, or of a folder's configuration; the Hub is not asked.

    Raises:
        ValueError: neither of both, or another architecture.
    """
    if model in KNOWN:
        return KNOWN[model]
    if not (Path(model) / "config.json").is_file():
        raise ValueError(
            f"the shape of {model} is not known{nearest(model, KNOWN)}; give --model with a folder that holds its "
            f"config.json, or one of {', '.join(KNOWN)}"
        )
    from transformers import AutoConfig

    return shape_from(AutoConfig.from_pretrained(model))


def shape_from(config: Any) -> ModelShape:
    """Raises ValueError for another architecture than Qwen2's and Llama's."""
    if config.model_type not in ("qwen2", "llama"):
        raise ValueError(f"plans are for the architectures qwen2 and llama, not for {config.model_type}")
    return ModelShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        tied=config.tie_word_embeddings,
        qkv_bias=config.model_type == "qwen2",
        context=config.max_position_embeddings,
        head_size=getattr(config, "head_dim", None) or 0,
    )
