"""Where a stage does not fit: which single settings would make it fit, and if none does, all of them together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sgpo.evaluation.arguments import TOKENS_AT_ONCE
from sgpo.planning.memory import weights
from sgpo.planning.plan import peak_of, phases_of, room_of
from sgpo.planning.scenario import PlannedFor

MOST_GPUS = 64
SAMPLED_AT_ONCE = TOKENS_AT_ONCE["transformers"]  # by sgpo eval, where nothing is said
LORA = {"use_peft": True, "lora_r": 32, "lora_target_modules": ["all-linear"]}


def fits(given: PlannedFor) -> bool:
    return _peak(given) <= room_of(given)


def _peak(given: PlannedFor) -> float:
    return peak_of(phases_of(given))


def remedies(given: PlannedFor) -> list[str]:
    """What to change, one text each; empty where the stage fits."""
    if fits(given):
        return []
    if single := [text for text, changed in _gentle(given) if fits(changed)]:
        return single
    together, named = given, dict[str, str]()
    for _ in range(2 * len([*_gentle(given)])):  # a change may ask for another value of one before
        step = next(((text, each) for text, each in _gentle(together) if _peak(each) < _peak(together)), None)
        if step is None:
            break
        named[step[0].partition(":")[0]], together = step
    texts = list(named.values())
    found = [" and ".join(texts)] if fits(together) else []
    found += [text for text, changed in _large(given) if fits(changed)]
    if not found:
        found = [" and ".join([*texts, text]) for text, changed in _large(together) if fits(changed)]
    return found or ["nothing that is known here makes it fit: take a smaller model, or GPUs with more memory"]


def _gentle(given: PlannedFor) -> Iterator[tuple[str, PlannedFor]]:
    """What changes time alone."""
    values = given.values
    if given.kind in ("sft", "train") and not given.checkpointing:
        yield "activation_checkpointing: true", given.changed(activation_checkpointing=True)
    if given.kind == "sft" and (batch := values["per_device_train_batch_size"]) > 1:
        steps = values["gradient_accumulation_steps"] * batch
        text = f"per_device_train_batch_size: 1 with gradient_accumulation_steps: {steps}"
        yield text, given.changed(per_device_train_batch_size=1, gradient_accumulation_steps=steps)
    if given.kind == "train" and values["max_tokens_per_microbatch"] > given.longest_row:
        yield (
            f"max_tokens_per_microbatch: {given.longest_row}",
            given.changed(max_tokens_per_microbatch=given.longest_row),
        )
    if given.kind != "sft" and values["sampler"] == "transformers":
        yield from _smaller_batches(given)
    if given.kind == "train" and values["sampler"] == "vllm":
        least = (2 * given.shape.parameters * 1.2) / given.machine.bytes
        share = round(max(least, 0.05), 2)
        if share < values["vllm_gpu_memory_utilization"]:
            yield f"vllm_gpu_memory_utilization: {share}", given.changed(vllm_gpu_memory_utilization=share)


def _smaller_batches(given: PlannedFor) -> Iterator[tuple[str, PlannedFor]]:
    """The most that can be sampled at once beside the rest, halved from what there is; the least there can be, else."""
    before = given.values["sampler_batch_tokens"] or SAMPLED_AT_ONCE
    other = max((sum(parts.values()) for name, parts in phases_of(given).items() if name != "sampling"), default=0.0)
    tokens, limit = before, max(other, room_of(given))
    while tokens // 2 >= given.longest_row and _peak(given.changed(sampler_batch_tokens=tokens)) > limit:
        tokens //= 2
    if tokens < before:
        yield f"sampler_batch_tokens: {tokens}", given.changed(sampler_batch_tokens=tokens)


def _large(given: PlannedFor) -> Iterator[tuple[str, PlannedFor]]:
    """Other machines, and what changes the training."""
    if given.kind == "eval":
        return
    gpus = given.machine.gpus
    if gpus > 1 and given.sharding != "fsdp2":
        yield "sharding: fsdp: full_shard", replace(given, sharding="fsdp2")
    for count in range(gpus + 1, MOST_GPUS + 1):
        more = replace(given, machine=replace(given.machine, gpus=count), sharding="fsdp2")
        if fits(more):
            yield f"{count} GPUs with fsdp: full_shard", more
            break
    if given.kind == "train":
        for length in _shorter(given):
            shorter = given.changed(
                max_completion_length=length, max_tokens_per_microbatch=given.assumed.longest_prompt + length
            )
            if fits(shorter):
                budget = shorter.values["max_tokens_per_microbatch"]
                yield f"max_completion_length: {length} with max_tokens_per_microbatch: {budget}", shorter
                break
    adapter = given.changed(**LORA)
    if given.how.full and weights(adapter.how) < weights(given.how):
        yield "use_peft: true with lora_r: 32 and lora_target_modules: [all-linear]", adapter


def _shorter(given: PlannedFor) -> Iterator[int]:
    length = given.values["max_completion_length"] // 2
    while length >= 512:
        yield length
        length //= 2
