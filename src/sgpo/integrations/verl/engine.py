"""veRL's FSDP2 engine, with this package's loss and log-probabilities.

The model, its shards, optimizer, checkpoints and the way of its weights to vLLM are veRL's. Forward and backward passes
are `sgpo.engine.update`'s, which never hold logits of more than a slice of tokens.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from verl.models.transformers import monkey_patch
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from sgpo.engine.batching import BatchLayout
from sgpo.engine.update import accumulate_gradients, add_head_task, completion_scores
from sgpo.integrations.verl.heads import gather_head_in_forward
from sgpo.integrations.verl.rows import aligned, pairs_from, sequences_from
from sgpo.methods.terms import Thresholds

VENDOR = "sgpo"  # by which veRL finds the engine: VERL_ENGINE_VENDOR


@dataclass(frozen=True)
class Loss:
    """What the workers get in place of veRL's loss function. Example: ``Loss(Thresholds(0.2, 0.28, 1.0))``"""

    thresholds: Thresholds

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("veRL's own engine asks for a loss: the engine of sgpo is not registered in this process")


@EngineRegistry.register(model_type="language_model", backend="fsdp2", device=["cuda", "cpu"], vendor=VENDOR)
class SGPOEngine(FSDPEngineWithLMHead):
    def _build_module(self) -> Any:
        # Where TRL is installed, veRL changes its value head, which present versions no longer have.
        monkey_patch.is_trl_available = lambda: False
        module = super()._build_module()
        add_head_task(module)
        return module

    def _build_fsdp_module(self, module: Any) -> Any:
        module = super()._build_fsdp_module(module)
        gather_head_in_forward(module)
        return module

    def forward_backward_batch(self, data: Any, loss_function: Any, forward_only: bool = False) -> dict[str, Any]:
        layout = BatchLayout(
            max_tokens=int(tu.get(data, "max_token_len_per_gpu")),
            pad_token_id=self.model_config.tokenizer.pad_token_id,
            packed=bool(tu.get(data, "use_remove_padding", False)),
        )
        if forward_only:
            return self._logprobs(data, layout)
        if not isinstance(loss_function, Loss):
            raise RuntimeError(f"the loss is a {type(loss_function).__name__}: the trainer of sgpo is not in charge")
        rows, thresholds = sequences_from(data), loss_function.thresholds
        found = accumulate_gradients(self.module, rows, layout, thresholds, context=self._autocast)
        measured = {"loss": found.loss, "tokens": float(found.tokens), **found.means}
        return {
            "model_output": {},
            "loss": [found.loss],  # of all processes, of which veRL takes the mean
            "metrics": {f"sgpo/{name}": [value] for name, value in measured.items()},
        }

    def _logprobs(self, data: Any, layout: BatchLayout) -> dict[str, Any]:
        pairs = pairs_from(data)
        with self._autocast():
            scores = completion_scores(self.module, pairs, layout)
        lengths = [len(prompt) for prompt, _ in pairs]
        output = {
            "log_probs": aligned([each.logprobs for each in scores], lengths),
            "entropy": aligned([each.entropies for each in scores], lengths),
        }
        return {"model_output": output, "loss": [0.0], "metrics": {}}

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._autocast_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device_type=get_device_name(), dtype=self._autocast_dtype)
