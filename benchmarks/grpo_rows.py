"""The update of GRPO that several benchmarks measure: a random model, rows with a long tail, ours and a lean one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from tiny_model import VOCABULARY

from sgpo.engine.batching import BatchLayout
from sgpo.engine.update import accumulate_gradients, add_head_task
from sgpo.methods.records import TrainingSequence
from sgpo.methods.terms import Thresholds
from sgpo.methods.weights import group_advantages

GROUP = 12


def rollout_batch(rows: int, longest: int, equal_share: float) -> list[tuple[list[int], list[int], float]]:
    """(prompt, completion, advantage): lengths of an exponential tail; a share of the groups has equal rewards."""
    source = random.Random(0)
    lengths = [min(longest, 8 + int(source.expovariate(1 / (0.22 * longest)))) for _ in range(rows)]
    lengths[0] = longest
    batch = []
    for start in range(0, rows, GROUP):
        prompt = [source.randrange(2, VOCABULARY) for _ in range(source.randint(40, 60))]
        equal = start // GROUP < equal_share * rows / GROUP
        rewards = [0.0 if equal else float(source.random() < 0.4) for _ in range(GROUP)]
        if not equal:
            rewards[:2] = [0.0, 1.0]
        advantages = group_advantages(torch.tensor(rewards, dtype=torch.float64)).tolist()
        for length, advantage in zip(lengths[start : start + GROUP], advantages, strict=True):
            batch.append((prompt, [source.randrange(2, VOCABULARY) for _ in range(length)], advantage))
    return batch


def our_update(
    model: Any, batch: list[Any], budget: int, skip_equal: bool = True, packed: bool = False
) -> Callable[[], float]:
    add_head_task(model)
    sequences = [
        TrainingSequence(
            "surrogate",
            prompt,
            completion,
            # A small weight (not so small that arithmetic slows down) keeps a row of a group with equal rewards.
            (advantage or (0.0 if skip_equal else 1e-9)) / (len(batch) * len(completion)),
        )
        for prompt, completion, advantage in batch
    ]
    layout, thresholds = BatchLayout(budget, pad_token_id=0, packed=packed), Thresholds(0.2, 0.28, 1.0)
    model.train()
    return lambda: accumulate_gradients(model, sequences, layout, thresholds)[0]


def lean_update(model: Any, batch: list[Any], slice_rows: int) -> Callable[[], float]:
    """GRPO as one would write it by hand: rows of like length together, equal rewards left out, full logits."""
    device = next(model.parameters()).device
    rows = sorted((row for row in batch if row[2]), key=lambda row: len(row[0]) + len(row[1]))

    def loss_of(part: list[Any]) -> torch.Tensor:
        longest = max(len(completion) for _, completion, _ in part)
        width = max(len(prompt) for prompt, _, _ in part)
        ids = torch.tensor(
            [[0] * (width - len(p)) + p + c + [0] * (longest - len(c)) for p, c, _ in part], device=device
        )
        real = torch.tensor(
            [[0] * (width - len(p)) + [1] * (len(p) + len(c)) + [0] * (longest - len(c)) for p, c, _ in part],
            device=device,
        )
        positions = (real.cumsum(-1) - 1).clamp(min=0)
        logits = model(
            ids, attention_mask=real, position_ids=positions, use_cache=False, logits_to_keep=longest + 1
        ).logits
        logits, targets = logits[:, :-1], ids[:, width:]
        logprobs = (logits.gather(-1, targets[..., None]) - logits.logsumexp(-1, keepdim=True)).squeeze(-1)
        ratio = (logprobs - logprobs.detach()).exp()
        advantages = torch.tensor([advantage for _, _, advantage in part], device=device)[:, None]
        lengths = torch.tensor([len(completion) for _, completion, _ in part], device=device)[:, None]
        clipped = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.28) * advantages)
        return -(clipped * real[:, width:] / lengths).sum() / len(batch)

    def run() -> float:
        total = 0.0
        for start in range(0, len(rows), slice_rows):
            loss = loss_of(rows[start : start + slice_rows])
            loss.backward()
            total += loss.item()
        return total

    model.train()
    return run


def gradient(model: Any) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
