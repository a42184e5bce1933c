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
from grpo_rows import GROUP, gradient, lean_update, our_update, rollout_batch
from tiny_model import build_model

from sgpo.miniworld.tokenizer import build_tokenizer


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
