"""What two processes do in test_processes.py: `python gloo_cases.py CASE FOLDER`, once a process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from accelerate import FullyShardedDataParallelPlugin, PartialState
from accelerate.utils.fsdp_utils import (
    fsdp2_prepare_model,
    load_fsdp_model,
    load_fsdp_optimizer,
    save_fsdp_model,
    save_fsdp_optimizer,
)
from engine_cases import LAYOUT, THRESHOLDS, make_model, sequences_for
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM

from sgpo import distributed, sharding
from sgpo.engine.update import accumulate_gradients, add_head_task, completion_scores
from sgpo.integrations.verl.heads import gather_head_in_forward
from sgpo.methods.records import TrainingSequence
from sgpo.models.merged import full_parameters
from sgpo.sampling.engine_groups import completed_together
from sgpo.sampling.records import SampleRequest, SamplingConfig
from sgpo.sampling.transformers import TransformersSampler

Rows = list[TrainingSequence]
RANK = int(os.environ.get("RANK", 0))
SPLITS = (
    "alternating",
    "unequal",
    "target in one",
    "nothing to learn in one",
    "no rows in one",
    "no rows at all",
)


def start() -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))


def splits(rows: Rows) -> dict[str, tuple[Rows, Rows]]:
    """The rows of each process."""
    distilled = [row for row in rows if row.term == "distillation"]
    others = [row for row in rows if row.term != "distillation"]
    assert len(distilled) > 1
    assert len(others) > 4
    return {
        "alternating": (rows[::2], rows[1::2]),
        "unequal": ([*others[:1], *distilled], others[1:]),
        "target in one": ([*others[::2], *distilled], others[1::2]),
        "nothing to learn in one": (rows, [weightless(row) for row in rows]),
        "no rows in one": ([], rows),
        "no rows at all": ([], []),
    }


def weightless(row: TrainingSequence) -> TrainingSequence:
    return TrainingSequence("surrogate", row.prompt_ids, row.completion_ids, 0.0)


def replicate(model: Any) -> Any:
    return DistributedDataParallel(model, broadcast_buffers=False)


def shard_root(model: Any) -> Any:
    fully_shard(model)
    return model


def shard_layers(model: Any) -> Any:
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model


def shard_checkpointed(model: Any) -> Any:
    """With layers that run again in the backward pass, and dropout that must not."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    return shard_layers(model).train()


def as_accelerator() -> Any:
    """What accelerate's functions for sharding ask of an `Accelerator`, which does not shard on a CPU."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    return SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        device=torch.device("cpu"),
        mixed_precision="no",
        is_main_process=RANK == 0,
        process_index=RANK,
        num_processes=2,
        is_fsdp2=True,
        wait_for_everyone=dist.barrier,
    )


def shard_as_accelerate(model: Any) -> Any:
    model = fsdp2_prepare_model(as_accelerator(), model)
    assert all(isinstance(layer, FSDPModule) for layer in model.model.layers)
    assert isinstance(model.get_output_embeddings(), FSDPModule)
    return model


def shard_head_alone(model: Any) -> Any:
    """As veRL does it for a head that is not tied to the embedding, with what the plug-in adds."""
    for module in (model.model.embed_tokens, *model.model.layers, model.lm_head):
        fully_shard(module)
    fully_shard(model)
    gather_head_in_forward(model)
    before = model.lm_head.weight.placements
    completion_scores(model, [([1, 2], [3, 4])], LAYOUT)  # without gradients: the head is a shard again afterwards
    assert model.lm_head.weight.placements == before
    return model


WRAPPERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "replicated": ("qwen2", replicate),
    "sharded root, tied": ("qwen2", shard_root),
    "sharded layers": ("llama", shard_layers),
    "sharded layers, checkpointed": ("llama", shard_checkpointed),
    "accelerate, tied": ("qwen2", shard_as_accelerate),
    "accelerate": ("llama", shard_as_accelerate),
    "veRL": ("llama", shard_head_alone),
    "replicated, shared prefixes": ("qwen2", replicate),
    "checkpointed, shared prefixes": ("llama", shard_checkpointed),
    "accelerate, shared prefixes": ("llama", shard_as_accelerate),
}


def full_gradients(model: Any) -> dict[str, torch.Tensor]:
    """By name; every process has to call it."""
    found = {}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        if gradient is not None:
            whole = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
            found[name.removeprefix("module.")] = whole.clone()
    return found


def gradients(folder: Path) -> None:
    """For each wrapper and split the gradients of two processes, and those of one on all rows."""
    expected = {}
    for name in ("qwen2", "llama"):
        model = make_model(name)
        add_head_task(model)
        rows = sequences_for(model)
        found = accumulate_gradients(model, rows, LAYOUT, THRESHOLDS)
        expected[name] = (rows, found, full_gradients(model))
    start()
    results: dict[str, Any] = {}
    for wrapper, (name, wrap) in WRAPPERS.items():
        rows, alone, reference = expected[name]
        for split, parts in splits(rows).items():
            model = make_model(name)
            add_head_task(model)
            model = wrap(model)
            layout = replace(LAYOUT, share_prefixes="shared prefixes" in wrapper)
            found = accumulate_gradients(model, parts[RANK], layout, THRESHOLDS)
            results[f"{wrapper}: {split}"] = {
                "found": tuple(found),
                "alone": tuple(alone),
                "gradients": full_gradients(model),
                "expected": reference,
            }
    torch.save(results, folder / f"{RANK}.pt")


def resharding(model: Any) -> list[bool | None]:
    """For root and layers whether they reshard after a forward pass; None: into smaller groups of processes."""
    found: list[bool | None] = []
    for module in (model, *model.model.layers):
        (group,) = module._get_fsdp_state()._fsdp_param_groups
        after = group.post_forward_mesh_info
        found.append(False if after is None else True if after is group.mesh_info else None)
    return found


def gathering(folder: Path) -> None:
    """What each module does after a forward pass, before and after its parameters were gathered."""
    start()
    results = {}
    for name, root in {"not given": None, "true": True, "false": False}.items():
        for sampled in (True, False):
            model = make_model_with_task("llama")
            for layer, after in zip(model.model.layers, (True, False), strict=True):
                fully_shard(layer, reshard_after_forward=after)
            fully_shard(model, reshard_after_forward=root)
            with sharding.gathered(model):
                if sampled and RANK == 0:
                    TransformersSampler(model, [7], 0).sample([SampleRequest([1, 2], 1)], SamplingConfig(3), seed=0)
            accumulate_gradients(model, sequences_for(make_model_with_task("llama")), LAYOUT, THRESHOLDS)
            results[f"root {name}, {'sampled' if sampled else 'idle'}"] = resharding(model)
    # Some of the processes may be a group for it, if there are more than two: what was there comes back as it was.
    model = make_model_with_task("llama")
    fully_shard(model, reshard_after_forward=False)
    (group,) = model._get_fsdp_state()._fsdp_param_groups
    group.post_forward_mesh_info = marker = object()
    with sharding.gathered(model):
        assert group.post_forward_mesh_info is None
    results["smaller group"] = group.post_forward_mesh_info is marker
    torch.save(results, folder / f"{RANK}.pt")


def sharded(folder: Path) -> None:
    """Refusals, scoring and sampling with sharded models."""
    bare = make_model("llama").eval()
    add_head_task(bare)
    pairs = [([1, 2, 3], [4, 5]), ([1, 2, 3], [8, 9, 10, 11])]
    expected = completion_scores(bare, pairs, LAYOUT)
    requests = [SampleRequest([1, 2, 3], 2), SampleRequest([4, 5], 1)]
    config = SamplingConfig(12)
    samples = TransformersSampler(bare, [7, 8, 9], 0).sample(requests, config, seed=3)
    start()
    model = shard_as_accelerate(bare)
    layout = replace(LAYOUT, share_prefixes=True)
    found_scores = completion_scores(model, pairs if RANK else [], layout)  # the other process has none
    with sharding.gathered(model):
        own = requests if RANK else requests[:1]
        found = TransformersSampler(model, [7, 8, 9], 0).sample(own, config, seed=3)
    if RANK:
        for ours, theirs in zip(found_scores, expected, strict=True):
            assert (ours.logprobs - theirs.logprobs).abs().max() < 1e-5
        assert [[r.completion_ids for r in g] for g in found] == [[r.completion_ids for r in g] for g in samples]
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    rows = sequences_for(make_model_with_task("llama"))
    # After sampling, training goes on as before.
    accumulate_gradients(model, rows, LAYOUT, THRESHOLDS)
    said = {}
    for name in ("alone", "bare"):
        broken = make_model_with_task("llama")
        if name == "alone":
            fully_shard(broken.lm_head)
            fully_shard(broken)
        try:
            accumulate_gradients(broken, rows, LAYOUT, THRESHOLDS)
        except ValueError as error:
            said[name] = str(error)
    torch.save({"said": said, "gradients": full_gradients(model)}, folder / f"{RANK}.pt")


def saving(folder: Path) -> None:
    """Two steps of AdamW on a sharded model; and one, saved as accelerate does, and the other after it was loaded."""
    start()
    PartialState(cpu=True)  # which accelerate's log asks
    results = {}
    for name in ("qwen2", "llama"):
        rows = splits(sequences_for(make_model_with_task(name)))["unequal"][RANK]
        straight, optimizer = sharded_with_optimizer(name)
        saved_to, whole_to = str(folder / name / "checkpoint"), folder / name / "whole"
        accelerator = as_accelerator()
        plugin = accelerator.state.fsdp_plugin
        step(straight, optimizer, rows)
        save_fsdp_model(plugin, accelerator, straight, saved_to)
        save_fsdp_optimizer(plugin, accelerator, optimizer, straight, saved_to)
        state = sharding.whole_state(straight)
        if RANK == 0:
            make_model(name).save_pretrained(whole_to, state_dict=state)
        expected = {key: value.clone() for key, value in full_parameters(straight)}
        dist.barrier()
        loaded = dict(AutoModelForCausalLM.from_pretrained(whole_to, dtype=torch.float32).named_parameters())
        step(straight, optimizer, rows)
        resumed, optimizer = sharded_with_optimizer(name)
        load_fsdp_model(plugin, accelerator, resumed, saved_to)
        load_fsdp_optimizer(plugin, accelerator, optimizer, resumed, saved_to)
        step(resumed, optimizer, rows)
        results[name] = {
            "whole": (loaded, expected),
            "resumed": (dict(full_parameters(resumed)), dict(full_parameters(straight))),
            "alone": stepped_alone(name),
        }
    torch.save(results, folder / f"{RANK}.pt")


def sharded_with_optimizer(name: str) -> tuple[Any, torch.optim.Optimizer]:
    model = shard_as_accelerate(make_model_with_task(name))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def step(model: Any, optimizer: torch.optim.Optimizer, rows: Rows) -> None:
    accumulate_gradients(model, rows, LAYOUT, THRESHOLDS)
    optimizer.step()
    optimizer.zero_grad()


def stepped_alone(name: str) -> dict[str, torch.Tensor]:
    """The weights after the first step, of one process on all rows."""
    model = make_model_with_task(name)
    rows = sequences_for(model)
    with pretended_alone():
        step(model, torch.optim.AdamW(model.parameters(), lr=1e-3), rows)
    return dict(full_parameters(model))


@contextmanager
def pretended_alone() -> Iterator[None]:
    count, distributed.count = distributed.count, lambda: 1
    try:
        yield
    finally:
        distributed.count = count


def weights(folder: Path) -> None:
    """The whole weights of sharded models, with and without an adapter, and those of the same model in one piece."""
    from peft import LoraConfig, get_peft_model

    start()
    adapters = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    results = {}
    for name, wrap in dict.fromkeys(WRAPPERS.values()):
        for adapted in (False, True):
            torch.manual_seed(7)
            model = get_peft_model(make_model(name), adapters) if adapted else make_model(name)
            expected = {key: value.clone() for key, value in full_parameters(model)}
            inner = model.get_base_model() if adapted else model
            if wrap is replicate:
                continue
            add_head_task(inner)
            wrap(inner)
            assert any(isinstance(parameter, DTensor) for parameter in model.parameters())
            found = dict(full_parameters(model))
            results[f"{wrap.__name__} {name} {adapted}"] = (found, expected)
            assert any(isinstance(parameter, DTensor) for parameter in model.parameters())
    torch.save(results, folder / f"{RANK}.pt")


def sharing(folder: Path) -> None:
    """Four processes, of which two hold an engine together: what each is given, and what comes back."""
    start()
    group = distributed.neighbours(2, seconds=2.0)
    prompts = [[], ["b0", "b1", "b2"], ["c0", "c1"], ["d0"]][RANK]
    calls: list[Any] = []

    def complete(prompts: Any, options: Any) -> list[str]:
        calls.append((prompts, options))
        return [f"{prompt} with {option['seed']}" for prompt, option in zip(prompts, options, strict=True)]

    options = [{"seed": 10 * RANK + place} for place in range(len(prompts))]
    found = completed_together(group, prompts, options, complete)
    alone = completed_together(None, prompts, options, complete)
    failure = ""
    if RANK != 2:  # which fails before
        try:
            completed_together(group, prompts, options, complete)
        except RuntimeError as error:
            failure = type(error).__name__
    torch.save({"found": found, "alone": alone, "calls": calls, "failure": failure}, folder / f"{RANK}.pt")


def make_model_with_task(name: str) -> Any:
    model = make_model(name)
    add_head_task(model)
    return model


CASES = {case.__name__: case for case in (gradients, gathering, sharded, saving, weights, sharing)}

if __name__ == "__main__":
    CASES[sys.argv[1]](Path(sys.argv[2]))
    distributed.leave()
