"""What each process does in test_sharded_training.py: `python sharded_cases.py CASE KIND CHECKPOINT FOLDER`."""

from __future__ import annotations

import json
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from cpu_accelerators import take_cpus_for_accelerators, without_shared_memory
from trainer_cases import RANK, WORLD, Raise, make

from sgpo import SGPOTrainer, distributed, sharding
from sgpo.cli import main
from sgpo.engine import update
from sgpo.models.merged import full_parameters
from sgpo.runs.checkpoints import newest_checkpoint
from sgpo.runs.interrupt import TrainingInterrupted

ZERO_3 = {
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},  # small parameters are divided too
    "bf16": {"enabled": "auto"},
    "gradient_clipping": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
}
KINDS: dict[str, dict[str, Any]] = {
    "alone": {"use_cpu": True},
    "ddp": {"use_cpu": True},
    "fsdp2": {"use_cpu": False, "fsdp": "full_shard", "fsdp_config": {"fsdp_version": 2}},
    "zero3": {"use_cpu": False, "deepspeed": ZERO_3},
}


def trainer_of(kind: str, checkpoint: str, folder: Path, **changes: Any) -> SGPOTrainer:
    return make(checkpoint, folder, **{**KINDS[kind], **changes})


def weights(trainer: SGPOTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in full_parameters(trainer.model)}


def trained(kind: str, checkpoint: str, folder: Path) -> dict[str, Any]:
    """Two updates on given completions. By plain descent, so that the weights tell of the gradients."""
    found = {}
    for problems in (10, 2):
        run = folder / f"{kind}-{problems}"
        trainer = trainer_of(
            kind,
            checkpoint,
            run,
            scripted=True,
            optim="sgd",
            learning_rate=0.01,
            max_grad_norm=0.0 if problems == 10 else 0.5,
            max_steps=2,
            problems_per_rollout=problems,
        )
        assert sharding.is_sharded(trainer.model) == (kind == "zero3")  # from the start
        trainer.train()
        assert sharding.is_sharded(trainer.model) == (kind != "alone")
        trainer.save_model()
        found[problems] = (weights(trainer), trainer.state.log_history)
    return found


def resumed(kind: str, checkpoint: str, folder: Path) -> dict[str, Any]:
    """A straight run, and one that Ctrl-C stopped and that was resumed."""
    straight = trainer_of(kind, checkpoint, folder / f"{kind}-straight")
    straight.train()
    stopped = trainer_of(kind, checkpoint, folder / f"{kind}-halves")
    stopped.add_callback(Raise(3))
    try:
        stopped.train()
        raise AssertionError("not stopped")
    except TrainingInterrupted:
        pass
    again = trainer_of(kind, checkpoint, folder / f"{kind}-halves")
    again.train(resume_from_checkpoint=True)
    return {"straight": weights(straight), "resumed": weights(again)}


def adapted(kind: str, checkpoint: str, folder: Path) -> dict[str, Any]:
    """Two updates of an adapter: base and adapter together, and the adapter that was saved."""
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights="gaussian")
    run = folder / f"{kind}-adapted"
    options = {"optim": "sgd", "learning_rate": 0.01, "max_grad_norm": 0.0, "max_steps": 2}
    trainer = trainer_of(kind, checkpoint, run, scripted=True, adapter=config, **options)
    trainer.train()
    trainer.save_model()
    return weights(trainer)


def not_finite(kind: str, checkpoint: str, folder: Path) -> str:
    """A gradient that is not a number reaches no weight."""
    compute = update.microbatch_loss

    def broken(*arguments: Any) -> torch.Tensor:
        loss = compute(*arguments)
        return loss + (loss - loss.detach()).abs().sqrt()  # adds 0, of which the derivative is NaN

    update.microbatch_loss = broken
    trainer = trainer_of(kind, checkpoint, folder / f"{kind}-broken", scripted=True)
    try:
        trainer.train()
    except FloatingPointError as error:
        assert all(value.isfinite().all() for value in weights(trainer).values())
        return str(error)
    raise AssertionError("not stopped")


def warmed_up(kind: str, checkpoint: str, folder: Path) -> tuple[list[dict[str, float]], bool]:
    """`sgpo sft` on 16 responses, four an update; four others choose the checkpoint. Its log, and if it divided."""
    gathered: list[Any] = []
    whole_state = sharding.whole_state
    sharding.whole_state = lambda model: whole_state(gathered.append(model) or model)
    problems = [{"prompt": f"Compute {n}+1", "answer": str(n + 1), "response": f"{n}+1={n + 1}"} for n in range(20)]
    source, run = folder / f"problems-{RANK}.jsonl", folder / f"{kind}-warm"
    source.write_text("\n".join(map(json.dumps, problems)))
    options = {
        "model": checkpoint,
        "problems": source,
        "output_dir": run,
        "validation_share": 0.2,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2 // WORLD,
        "per_device_eval_batch_size": 4 // WORLD,
        "gradient_accumulation_steps": 2,
        "optim": "sgd",
        "learning_rate": 0.05,
        "logging_steps": 1,
        "report_to": "none",
        **KINDS[kind],
    }
    texts = {
        name: json.dumps(value) if isinstance(value, dict | bool) else str(value) for name, value in options.items()
    }
    assert main(["sft", *chain.from_iterable((f"--{name}", text) for name, text in texts.items())]) == 0
    state = json.loads((newest_checkpoint(run) / "trainer_state.json").read_text())
    return state["log_history"], bool(gathered)


CASES = {case.__name__: case for case in (trained, resumed, adapted, not_finite, warmed_up)}

if __name__ == "__main__":
    case, kind, checkpoint, folder = sys.argv[1:]
    if kind not in ("alone", "ddp"):
        take_cpus_for_accelerators()
    if kind == "zero3":
        without_shared_memory()
    torch.save(CASES[case](kind, checkpoint, Path(folder)), Path(folder) / f"{case}-{kind}-{RANK}.pt")
    assert distributed.count() == (1 if case == "warmed_up" else WORLD)  # a command has left its group
    distributed.leave()
