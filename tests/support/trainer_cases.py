"""What each process does in test_trainer_processes.py: `python trainer_cases.py CASE CHECKPOINT FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from sgpo import SGPOConfig, SGPOTrainer, distributed
from sgpo.distributed import ProcessError
from sgpo.engine import update
from sgpo.problems import Problem
from sgpo.runs.interrupt import TrainingInterrupted
from sgpo.sampling.records import Rollout, SampleRequest, SamplingConfig

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def strategy_of(number: int) -> str:
    return f"Problem type: sum {number}\nStrategy: add\nSteps: (a) add {number}"


# Ten problems, five an update: three in one process, two in the other.
PROBLEMS = [
    Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), "-", strategy_of(n) if n % 4 else None) for n in range(10)
]


class FromPrompts:
    """Completions that follow from the prompt alone, so that it does not matter which process asks."""

    def sample(
        self, requests: Sequence[SampleRequest], sampling: SamplingConfig, *, seed: int, watch: Any = None
    ) -> list[list[Rollout]]:
        return [[self.rollout(request.prompt_ids, n) for n in range(request.count)] for request in requests]

    def rollout(self, prompt_ids: list[int], number: int) -> Rollout:
        source = torch.Generator().manual_seed(sum(prompt_ids) * 10 + number)
        ids = torch.randint(5, 60, (int(torch.randint(1, 9, (1,), generator=source)),), generator=source).tolist()
        return Rollout(ids, torch.full((len(ids),), -3.0), truncated=False)


def parity(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float(len(completion) % 2) for completion in completions]


class Recorder(TrainerCallback):
    """The gradient of each update."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        self.gradients.append(torch.cat([part.flatten() for part in parts]).clone())


def make(
    checkpoint: str, folder: Path, *, scripted: bool = False, reward: Any = parity, adapter: Any = None, **changes: Any
) -> SGPOTrainer:
    """Args: scripted: completions that follow from the prompt, and the trainer loads the model."""
    model = checkpoint if scripted else AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    if not isinstance(model, str):
        # Every fourth token ends a completion, or a model with random weights would hardly ever end one.
        model.generation_config.eos_token_id = list(range(1, model.config.vocab_size, 4))
    values: dict[str, Any] = {
        "problems_per_rollout": 10,
        "num_autonomous": 3,
        "num_guided": 2,
        "max_completion_length": 9,
        "learning_rate": 1e-3,
        "max_grad_norm": 0.0,
        "delta": 5.0,
        "max_steps": 8,
        "save_strategy": "no",
        **changes,
    }
    config = SGPOConfig(output_dir=str(folder), report_to="none", disable_tqdm=True, **{"use_cpu": True, **values})
    sampler = FromPrompts() if scripted else None
    return SGPOTrainer(
        model,
        config,
        train_dataset=PROBLEMS,
        eval_dataset=PROBLEMS[:3],
        reward_funcs=reward,
        sampler=sampler,
        peft_config=adapter,
    )


def save(value: Any, folder: Path) -> None:
    torch.save(value, folder / f"{WORLD}-{RANK}.pt")


def union(checkpoint: str, folder: Path) -> None:
    """Two updates of given completions; the gradients. With one problem an update the second process has none."""
    results = {}
    for problems, guidance in ((10, "always"), (2, "always"), (10, "after_failure"), (2, "after_failure")):
        run = folder / f"run-{problems}-{guidance}-{WORLD}"
        changes = {"problems_per_rollout": problems, "guidance": guidance}
        trainer, recorder = make(checkpoint, run, scripted=True, max_steps=2, **changes), Recorder()
        trainer.add_callback(recorder)
        trainer.train()
        evaluated = trainer.evaluate()
        results[problems, guidance] = (recorder.gradients, trainer.state.log_history, evaluated)
    save(results, folder)


def related(checkpoint: str, folder: Path) -> None:
    """Two updates of given completions by each of the methods of other papers; the gradients."""
    results = {}
    for method in ("srft", "ampo", "opsd", "sdpo", "scaf_grpo"):
        run, recorder = folder / f"run-{method}-{WORLD}", Recorder()
        sizes = {"num_guided": 4} if method == "scaf_grpo" else {}
        trainer = make(
            checkpoint, run, scripted=True, max_steps=2, method=method, delta=1.0, eval_strategy="no", **sizes
        )
        trainer.add_callback(recorder)
        trainer.train()
        results[method] = recorder.gradients
        if method == "scaf_grpo":
            results["hinted"] = [line["hinted_share"] for line in trainer.state.log_history if "hinted_share" in line]
    save(results, folder)


def adapter(checkpoint: str, folder: Path) -> None:
    """Two updates of an adapter on given completions; the gradients."""
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights="gaussian")
    run, recorder = folder / f"run-{WORLD}", Recorder()
    trainer = make(checkpoint, run, scripted=True, max_steps=2, adapter=config)
    trainer.add_callback(recorder)
    trainer.train()
    save(recorder.gradients, folder)


class Raise(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step and RANK == 0:
            signal.raise_signal(signal.SIGINT)


def resumed(checkpoint: str, folder: Path) -> None:
    """A straight run; and one that Ctrl-C in one of the processes stopped, and that was resumed."""
    straight = make(checkpoint, folder / "straight")
    straight.train()
    stopped = make(checkpoint, folder / "halves")
    stopped.add_callback(Raise(3))
    try:
        stopped.train()
        raise AssertionError("not stopped")
    except TrainingInterrupted as error:
        said = str(error)
    again = make(checkpoint, folder / "halves")
    again.train(resume_from_checkpoint=True)
    for one, other in zip(straight.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    states = [list(trainer.optimizer.state_dict()["state"].values()) for trainer in (straight, again)]
    for one, other in zip(*states, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    save(said, folder)


def failing_reward(checkpoint: str, folder: Path) -> None:
    def reward(completions: Sequence[str], **columns: Any) -> list[float]:
        if RANK == 1:
            raise KeyError("level")
        return parity(completions)

    make(checkpoint, folder / "run", reward=reward).train()


def killed(checkpoint: str, folder: Path) -> None:
    """Without a word, as by a kernel that is short of memory."""

    def reward(completions: Sequence[str], **columns: Any) -> list[float]:
        if RANK == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return parity(completions)

    make(checkpoint, folder / "run", reward=reward).train()


def failing_update(checkpoint: str, folder: Path) -> None:
    """Within the update, where the other process waits for gradients."""
    compute = update.microbatch_loss

    def broken(*arguments: Any) -> Any:
        if RANK == 1:
            raise MemoryError("no room for the update")
        return compute(*arguments)

    update.microbatch_loss = broken
    make(checkpoint, folder / "run").train()


def sharding(checkpoint: str, folder: Path) -> None:
    make(checkpoint, folder / "run", fsdp="full_shard", fsdp_config={"fsdp_version": 2}).train()


CASES = {
    case.__name__: case for case in (union, related, adapter, resumed, failing_reward, failing_update, killed, sharding)
}

if __name__ == "__main__":
    try:
        CASES[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
    except ProcessError as error:
        print(f"ProcessError: {error}")
        sys.exit(3)
    assert distributed.count() == WORLD
    distributed.leave()
