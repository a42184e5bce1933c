"""A language model head that is sharded on its own, as veRL does it where the head is not tied to the embedding.

The loss multiplies by the head's weight without calling the head, so none of FSDP2's hooks gathers it. The root's
forward pass does here; where it was with gradient, FSDP2 reduces the head's gradient and shards the head again at the
end of the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule


def gather_head_in_forward(model: Any) -> None:
    """Of a model sharded with ``fully_shard``; nothing to do for a head that belongs to the root."""
    head = model.get_output_embeddings()
    if not isinstance(head, FSDPModule):
        return

    def gather(*_: Any) -> None:
        head.unshard()

    def shard(*_: Any) -> None:
        if not torch.is_grad_enabled():
            head.reshard()

    # After FSDP2's own hook, which is before all others and makes the root's state.
    model.register_forward_pre_hook(gather)
    model.register_forward_hook(shard)
