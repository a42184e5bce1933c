"""Pretraining of the mini-world's base model from nothing: `sgpo miniworld pretrain`.

A small Qwen2-architecture model reads the documents of `documents.py`; the loss is that of the responses, and every
token counts alike, however long its document: only so are the documents' frequencies learnt. Muon on the hidden
matrices and AdamW on the rest reach in minutes on two cores what AdamW alone does not.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from sgpo.miniworld.documents import Document, pretraining_documents
from sgpo.miniworld.tokenizer import build_tokenizer
from sgpo.miniworld.world import STRENGTHS
from sgpo.prompts import encode_prompts

STEPS, DOCUMENTS_PER_STEP, SORTED_BATCHES = 7_000, 32, 8
TEXTBOOK_SHARE = 0.4  # of the documents, at the beginning
TOKENS_A_DOCUMENT = 60  # of responses, about; the loss is divided by it
MUON_LEARNING_RATE, ADAMW_LEARNING_RATE = 4e-3, 4e-3
CHECKPOINT, STEPS_A_CHECKPOINT = "pretraining.pt", 100


def build_model(tokenizer: PreTrainedTokenizerFast, strength: str = "base") -> Qwen2ForCausalLM:
    """A base model with random weights (global torch seed)."""
    size = STRENGTHS[strength]
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=3 * size.hidden,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


class DocumentBatches(IterableDataset):
    """Batches of token ids and labels, made in a worker process beside the training; the first `skip` are left out."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, seed: int, documents: int, textbook: int = 0, skip: int = 0
    ) -> None:
        self.tokenizer, self.seed, self.documents, self.textbook, self.skip = tokenizer, seed, documents, textbook, skip

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        stream, rng = pretraining_documents(self.seed, self.textbook), random.Random(self.seed)
        skipped = 0
        while True:
            documents = list(islice(stream, self.documents * SORTED_BATCHES))
            needed = skipped + SORTED_BATCHES > self.skip
            pairs = self._encode(documents) if needed else [([], []) for _ in documents]
            pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))  # documents of like length share a batch
            batches = [pairs[i : i + self.documents] for i in range(0, len(pairs), self.documents)]
            rng.shuffle(batches)
            ahead = max(0, min(SORTED_BATCHES, self.skip - skipped))
            skipped += ahead
            yield from map(self._pad, batches[ahead:])

    def _encode(self, documents: list[Document]) -> list[tuple[list[int], list[int]]]:
        prompts = encode_prompts(self.tokenizer, [prompt for prompt, _ in documents])
        texts = [response[0]["content"] + self.tokenizer.eos_token for _, response in documents]
        return list(zip(prompts, self.tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True))

    def _pad(self, pairs: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
        length = max(len(prompt) + len(response) for prompt, response in pairs)
        ids = torch.full((len(pairs), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(pairs), length), -100)
        for row, (prompt, response) in enumerate(pairs):
            ids[row, : len(prompt) + len(response)] = torch.tensor(prompt + response)
            labels[row, len(prompt) : len(prompt) + len(response)] = torch.tensor(response)
        return {"input_ids": ids, "labels": labels}


def build_optimizers(model: Qwen2ForCausalLM) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=MUON_LEARNING_RATE, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=ADAMW_LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.95)),
    ]


def schedule(step: int, steps: int) -> float:
    """Linear warm-up over a twentieth of the steps, then cosine down to nothing."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


class Pretraining:
    """A model, its optimizers and the losses so far; written to and read from a checkpoint."""

    def __init__(self, seed: int, steps: int, documents_per_step: int, strength: str) -> None:
        torch.manual_seed(seed)
        self.steps = steps
        self.recipe = {"seed": seed, "steps": steps, "documents_per_step": documents_per_step, "strength": strength}
        self.tokenizer = build_tokenizer()
        self.model = build_model(self.tokenizer, strength)
        self.optimizers = build_optimizers(self.model)
        self.rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.losses: list[float] = []

    def update(self, batch: dict[str, torch.Tensor]) -> float:
        """One step on a batch; returns the loss in nats a token."""
        step, documents = len(self.losses), len(batch["labels"])
        for rate, optimizer in zip(self.rates, self.optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = rate * schedule(step, self.steps)
        # Padding stands on the right, where causal attention never sees it.
        logits = self.model(input_ids=batch["input_ids"]).logits[:, :-1]
        targets = batch["labels"][:, 1:]
        total = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        (total / (documents * TOKENS_A_DOCUMENT)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.losses.append(total.item() / max(1, int((targets != -100).sum())))
        return self.losses[-1]

    def save(self, path: Path) -> None:
        state = {
            "recipe": self.recipe,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "losses": self.losses,
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Raises ``ValueError`` for the checkpoint of another recipe."""
        state = torch.load(path, weights_only=True)
        if state["recipe"] != self.recipe:
            raise ValueError(
                f"{path} is of another pretraining ({state['recipe']}): give another --output, or delete it"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.losses = state["losses"]


def pretrain(
    output_dir: str | Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    documents_per_step: int = DOCUMENTS_PER_STEP,
    strength: str = "base",
    log: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Pretrain a base model and save it with its tokenizer in the Hugging Face format.

    Every hundred steps a checkpoint is written to the folder, from which the same call goes on. Returns the loss of
    each step (nats a response token). `log(step, loss)` is called after each step.

    Raises:
        ValueError: the folder holds a checkpoint of another recipe.
    """
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    run = Pretraining(seed, steps, documents_per_step, strength)
    if (output / CHECKPOINT).exists():
        run.load(output / CHECKPOINT)
    documents = DocumentBatches(
        run.tokenizer, seed, documents_per_step, int(TEXTBOOK_SHARE * steps * documents_per_step), len(run.losses)
    )
    batches = iter(DataLoader(documents, batch_size=None, num_workers=1))
    while len(run.losses) < steps:
        loss = run.update(next(batches))
        if log is not None:
            log(len(run.losses) - 1, loss)
        if len(run.losses) % STEPS_A_CHECKPOINT == 0:
            run.save(output / CHECKPOINT)
    save_base_model(run.model, run.tokenizer, output)
    halve(output / "model.safetensors")
    (output / CHECKPOINT).unlink(missing_ok=True)
    return run.losses


def save_base_model(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, output_dir: str | Path) -> None:
    model.generation_config.update(temperature=1.0, top_p=0.95, do_sample=True)
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)


def halve(weights: Path) -> None:
    """Round weights to bfloat16, half the size; config.json still says float32, so they are loaded so."""
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})


def pretrain_with_progress(output_dir: str | Path, *, seed: int, steps: int, strength: str = "base") -> None:
    """`pretrain` with a progress bar."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task("Pretraining", total=steps)

        def show(step: int, loss: float) -> None:
            progress.update(task, completed=step + 1, description=f"Pretraining (loss {loss:.3f})")

        pretrain(output_dir, seed=seed, steps=steps, strength=strength, log=show)
    print(f"Written to {output_dir}")
