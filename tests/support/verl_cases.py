"""One rollout batch with two updates on veRL's worker, and on our own engine: `python verl_cases.py MODEL FOLDER`.

Each process of several runs it, and takes its share. The script needs veRL; what a test compares is in FOLDER.
"""

from __future__ import annotations

import dataclasses
import os
import random
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sgpo import distributed
from sgpo.engine.batching import BatchLayout
from sgpo.engine.update import accumulate_gradients, add_head_task, completion_scores
from sgpo.integrations.verl.rows import Decided, Parcel, SampledRow, arranged, decided, to_fields
from sgpo.methods.registry import METHODS
from sgpo.methods.terms import Thresholds

METHOD = METHODS["sgpo"]
OPTIONS = METHOD.options(num_autonomous=4, num_guided=2, delta=1.05)
LEARNING_RATE = 2e-2  # large, so that the second update is clipped
EPSILON = 1e-2  # of AdamW; with a small one its first step would be the sign of each gradient, of rounding errors too
TOKENS = 120
PROBLEMS = 4
# Of each problem the autonomous and the guided completions: 1 correct, 0 wrong, t cut off. The second has no target;
# the third no strategy.
MARKS = (("1001", "11"), ("1100", "00"), ("100110", ""), ("t000", "1t"))


def write_untied(folder: Path, tokenizer_of: Path) -> None:
    """A Llama whose head is not tied to the embedding, with distributions far from uniform."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sampled_rows(vocabulary: int) -> list[SampledRow]:
    """Without log-probabilities of the old policy."""
    draw = random.Random(0)

    def tokens(least: int, most: int) -> list[int]:
        return [draw.randrange(5, vocabulary) for _ in range(draw.randint(least, most))]

    rows = []
    for number, (autonomous, guided) in enumerate(MARKS):
        prompt, guided_prompt = tokens(4, 9), tokens(12, 20)
        for session, mark in enumerate(autonomous + guided):
            rows.append(
                SampledRow(
                    key=f"p{number}_{session}_0",
                    problem=f"p{number}",
                    prompt_ids=prompt,
                    completion_ids=tokens(2, 9),
                    guided_prompt_ids=guided_prompt if session >= len(autonomous) else [],
                    reward=float(mark != "0"),
                    correct=mark != "0",
                    truncated=mark == "t",
                    old_logprobs=torch.zeros(0),
                    sampler_logprobs=None,
                )
            )
    return rows


def with_old(rows: list[SampledRow], logprobs: list[torch.Tensor]) -> list[SampledRow]:
    return [dataclasses.replace(row, old_logprobs=old.cpu()) for row, old in zip(rows, logprobs, strict=True)]


def ours(model_folder: Path, packed: bool) -> dict[str, Any]:
    """What `sgpo train` computes of the rows that are made up here."""
    rows = sampled_rows(AutoConfig.from_pretrained(model_folder).vocab_size)
    return two_updates(model_folder, rows, OPTIONS, packed=packed, rate=LEARNING_RATE)


def two_updates(
    model_folder: Path, rows: list[SampledRow], options: Any, *, packed: bool, rate: float
) -> dict[str, Any]:
    """Losses, means, norms of gradients, and the weights after two updates, by our own engine."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="sdpa")
    add_head_task(model)
    layout = BatchLayout(TOKENS, pad_token_id=0, packed=packed)
    scores = completion_scores(model, [(row.prompt_ids, row.completion_ids) for row in rows], layout)
    found = decided(with_old(rows, [each.logprobs for each in scores]), METHOD, options, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, eps=EPSILON)
    updates = []
    for update in found.updates:
        optimizer.zero_grad()
        part = accumulate_gradients(model, update.rows, layout, Thresholds.of(options))
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        updates.append({"loss": part.loss, "grad_norm": float(norm), **part.means})
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    return {"updates": updates, "weights": weights, "old": [each.logprobs for each in scores]}


def main(model_folder: Path, folder: Path) -> None:
    from sgpo.integrations.verl.engine import VENDOR

    os.environ["VERL_ENGINE_VENDOR"] = VENDOR
    results = {}
    for packed in (False, True):
        results["packed" if packed else "padded"] = theirs(model_folder, packed)
    torch.save(results, folder / f"{os.environ['RANK']}.pt")
    distributed.leave()


def theirs(model_folder: Path, packed: bool) -> dict[str, Any]:
    """The same through veRL's `TrainingWorker`."""
    from sgpo.integrations.verl.engine import Loss

    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    worker = make_worker(model_folder, packed)
    rows = sampled_rows(worker.model_config.hf_config.vocab_size)
    old = logprobs_of(worker, rows)
    worker.set_loss_fn(Loss(Thresholds.of(OPTIONS)))
    found = decided(with_old(rows, old), METHOD, OPTIONS, 2)
    order = arranged(found.parcels, spare(rows, found), processes)
    share = len(order) // processes
    data = batch_of(order[rank * share : (rank + 1) * share], rows)
    data.update(settings(mini_batch_size=len(order) // 2, epochs=1))
    metrics = worker.train_mini_batch(data)["metrics"]
    values = {
        name.removeprefix("sgpo/"): some[:: len(some) // 2]  # of each update that of the first process
        for name, some in metrics.items()
        if name.startswith("sgpo/") or name in ("loss", "grad_norm")
    }
    weights = {name: whole(value) for name, value in worker.engine.module.named_parameters()}
    return {"updates": values, "weights": weights, "old": old}


def whole(value: Any) -> torch.Tensor:
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()


def spare(rows: list[SampledRow], found: Decided) -> list[Parcel]:
    enter = {parcel.key for some in found.parcels for parcel in some}
    return [Parcel.nothing(row.key, len(row.completion_ids)) for row in rows if row.key not in enter]


def make_worker(model_folder: Path, packed: bool) -> Any:
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig, TrainingWorkerConfig
    from verl.workers.engine_workers import TrainingWorker

    full = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    engine = FSDPEngineConfig(
        strategy="fsdp2",
        use_torch_compile=False,
        mixed_precision=full,
        max_token_len_per_gpu=TOKENS,
        infer_max_token_len_per_gpu=TOKENS,
    )
    model = HFModelConfig(
        path=str(model_folder), use_remove_padding=packed, override_config={"attn_implementation": "sdpa"}
    )
    optimizer = FSDPOptimizerConfig(
        lr=LEARNING_RATE,
        weight_decay=0.0,
        clip_grad=1.0,
        total_training_steps=2,
        override_optimizer_config={"eps": EPSILON},
    )
    config = TrainingWorkerConfig(
        model_type="language_model",
        model_config=model,
        engine_config=engine,
        optimizer_config=optimizer,
        checkpoint_config=CheckpointConfig(),
    )
    worker = TrainingWorker(config=config)
    worker.reset()
    return worker


def nested(values: list[list[int]]) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.tensor(each) for each in values], layout=torch.jagged)


def settings(**values: Any) -> dict[str, Any]:
    from tensordict import NonTensorData

    return {name: NonTensorData(value) for name, value in values.items()}


def prompts_and_responses(rows: list[SampledRow]) -> dict[str, torch.Tensor]:
    prompts, completions = [row.prompt_ids for row in rows], [row.completion_ids for row in rows]
    return {"prompts": nested(prompts), "responses": nested(completions)}


def batch_of(parcels: list[Parcel], rows: list[SampledRow]) -> Any:
    from tensordict import TensorDict

    by_key = {row.key: row for row in rows}
    fields = {**prompts_and_responses([by_key[each.key] for each in parcels]), **to_fields(parcels)}
    return TensorDict(fields, batch_size=len(parcels))


def logprobs_of(worker: Any, rows: list[SampledRow]) -> list[torch.Tensor]:
    """From where veRL's trainer takes them. Every process computes them all."""
    from tensordict import TensorDict
    from verl.workers.utils.padding import response_from_nested

    data = TensorDict(prompts_and_responses(rows), batch_size=len(rows))
    data.update(settings(compute_loss=False))
    output = worker.infer_batch(data)
    return list(response_from_nested(output["log_probs"], data["responses"]).unbind())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
