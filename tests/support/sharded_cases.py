"""What each process does in test_sharded_training.py: `python sharded_cases.py CASE KIND CHECKPOINT FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from cpu_accelerators import take_cpus_for_accelerators
from trainer_cases import RANK, WORLD, Raise, make

from sgpo import SGPOTrainer, distributed, sharding
from sgpo.engine import update
from sgpo.models.merged import full_parameters
from sgpo.runs.interrupt import TrainingInterrupted

KINDS: dict[str, dict[str, Any]] = {
    "alone": {"use_cpu": True},
    "fsdp2": {"use_cpu": False, "fsdp": "full_shard", "fsdp_config": {"fsdp_version": 2}},
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


CASES = {case.__name__: case for case in (trained, resumed, adapted, not_finite)}

if __name__ == "__main__":
    case, kind, checkpoint, folder = sys.argv[1:]
    if kind != "alone":
        take_cpus_for_accelerators()
    torch.save(CASES[case](kind, checkpoint, Path(folder)), Path(folder) / f"{case}-{kind}-{RANK}.pt")
    assert distributed.count() == WORLD
