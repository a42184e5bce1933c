"""Time of one update: ours against TRL's GRPOTrainer, on the same model and the same completions.

    python benchmarks/update.py [--rows 96] [--longest 512] [--threads 1] [--repeats 3] [--output update.json]

A rollout batch of GRPO with long-tailed lengths: mean at most 0.3 of the longest. TRL's loss is that of its installed
version, called as its training step calls it (slices of per_device_train_batch_size rows, all padded to the longest
completion of the batch) of several sizes, of which the fastest counts; ours packs rows of like length under a token
budget of the same size. A lean implementation of our own is between them: full logits of the completions alone, rows
sorted by length, in slices of as many rows. All compute the same loss, which is checked, and the same gradient.
Contenders run in turns, after one turn that is not timed.
"""

from __future__ import annotations

import argparse
import functools
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import trl
from common import finish, write_report
from datasets import Dataset
from tiny_model import VOCABULARY, build_model

from sgpo.engine.batching import BatchLayout
from sgpo.engine.update import accumulate_gradients, add_head_task
from sgpo.methods.records import TrainingSequence
from sgpo.methods.terms import Thresholds
from sgpo.methods.weights import group_advantages
from sgpo.miniworld.tokenizer import build_tokenizer

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


def trl_update(model: Any, batch: list[Any], slice_rows: int, folder: str) -> Callable[[], float]:
    """Forward and backward passes over all slices, as GRPOTrainer's training step makes them."""
    args = trl.GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=slice_rows,
        gradient_accumulation_steps=len(batch) // slice_rows,
        num_generations=GROUP,
        loss_type="grpo",
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.28,
        report_to="none",
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=False,
    )
    trainer = trl.GRPOTrainer(
        model=model,
        args=args,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=Dataset.from_list([{"prompt": "x"}]),
        processing_class=build_tokenizer(documents=50),
    )
    trainer.current_gradient_accumulation_steps = args.gradient_accumulation_steps
    device = next(model.parameters()).device
    width = max(len(prompt) for prompt, _, _ in batch)
    longest = max(len(completion) for _, completion, _ in batch)
    inputs = {
        "prompt_ids": torch.tensor([[0] * (width - len(p)) + p for p, _, _ in batch], device=device),
        "prompt_mask": torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p, _, _ in batch], device=device),
        "completion_ids": torch.tensor([c + [0] * (longest - len(c)) for _, c, _ in batch], device=device),
        "completion_mask": torch.tensor([[1] * len(c) + [0] * (longest - len(c)) for _, c, _ in batch], device=device),
        "advantages": torch.tensor([a for _, _, a in batch], device=device, dtype=torch.float32),
    }

    def run() -> float:
        total = 0.0
        for start in range(0, len(batch), slice_rows):
            part = {name: tensor[start : start + slice_rows] for name, tensor in inputs.items()}
            loss = trainer.compute_loss(trainer.model, part)
            loss.backward()
            total += loss.item()
        return total

    trainer.model.train()
    return run


def our_update(model: Any, batch: list[Any], budget: int, skip_equal: bool = True) -> Callable[[], float]:
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
    layout, thresholds = BatchLayout(budget, pad_token_id=0), Thresholds(0.2, 0.28, 1.0)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--longest", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--slice-rows", type=int, nargs="+", default=[8, 16, 32], help="per_device_train_batch_size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = rollout_batch(options.rows, options.longest, equal_share=0.25)
    lengths = [len(completion) for _, completion, _ in batch]
    fewest = min(options.slice_rows)
    budget = fewest * (options.longest + 60)
    with tempfile.TemporaryDirectory() as folder:
        makers: dict[str, Callable[[Any], Callable[[], float]]] = {
            f"TRL {trl.__version__}, slices of {rows} rows": functools.partial(
                trl_update, batch=batch, slice_rows=rows, folder=folder
            )
            for rows in options.slice_rows
        }
        makers |= {
            f"lean, full logits, {fewest} rows": functools.partial(lean_update, batch=batch, slice_rows=fewest),
            f"sgpo, every row, {budget} tokens": functools.partial(
                our_update, batch=batch, budget=budget, skip_equal=False
            ),
            f"sgpo, {budget} tokens": functools.partial(our_update, batch=batch, budget=budget),
            f"sgpo, {budget // 2} tokens": functools.partial(our_update, batch=batch, budget=budget // 2),
        }
        models = [build_model(options.hidden, options.layers).to(device) for _ in makers]
        contenders = {name: make(model) for (name, make), model in zip(makers.items(), models, strict=True)}
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        losses: dict[str, float] = {}
        for repeat in range(options.repeats + 1):
            for (name, run), model in zip(contenders.items(), models, strict=True):
                model.zero_grad()
                start = time.perf_counter()
                losses[name] = run()
                finish()
                if repeat:
                    seconds[name].append(time.perf_counter() - start)
    parameters = sum(p.numel() for p in models[0].parameters())
    spread = statistics.mean(lengths) / max(lengths)
    print(f"{parameters / 1e6:.1f}M parameters, {len(batch)} completions, mean/longest {spread:.3f}")
    reference = min(
        (name for name in seconds if name.startswith("TRL")), key=lambda name: statistics.median(seconds[name])
    )
    expected = gradient(models[0])
    report: dict[str, Any] = {"parameters": parameters, "mean_over_longest": spread}
    for (name, times), model in zip(seconds.items(), models, strict=True):
        found = {
            "median_s": statistics.median(times),
            "all_s": times,
            "ratio": statistics.median(seconds[reference]) / statistics.median(times),
            "loss": losses[name],
            "gradient_difference": float((gradient(model) - expected).norm() / expected.norm()),
        }
        report[name] = found
        print(
            f"{name:36} {found['median_s']:7.2f} s  {found['ratio']:5.2f}x  loss {found['loss']:+.6f}  "
            f"gradient differs by {found['gradient_difference']:.1e}"
        )
    write_report(options.output, report)


if __name__ == "__main__":
    main()
