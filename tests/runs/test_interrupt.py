"""Ctrl-C during training: where it stops, what stands in the folder, and that the resumed run is the straight one."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.errors import StopHere
from sgpo.problems import Problem, save_problems
from sgpo.runs.interrupt import Interrupt, TrainingInterrupted
from sgpo.training.sft import WarmupConfig, build_warmup_trainer

PROBLEMS = [
    Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), f"It is \\boxed{{{n}}}", f"Steps: (a) add {n}")
    for n in range(12)
]


class CtrlC:
    """Sends SIGINT to this process at given calls of each phase; counts from 1."""

    def __init__(self, **calls: Sequence[int]) -> None:
        self.calls = calls
        self.counts: dict[str, int] = {}

    def __call__(self, phase: str) -> None:
        self.counts[phase] = self.counts.get(phase, 0) + 1
        for call in self.calls.get(phase, ()):
            if call == self.counts[phase]:
                signal.raise_signal(signal.SIGINT)


class Sampling:
    """The trainer's sampler, and Ctrl-C while it works."""

    def __init__(self, sampler: Any, ctrl_c: CtrlC) -> None:
        self.sampler, self.ctrl_c = sampler, ctrl_c

    def sample(self, *arguments: Any, **keywords: Any) -> Any:
        self.ctrl_c("sample")
        return self.sampler.sample(*arguments, **keywords)


class Steps(TrainerCallback):
    def __init__(self, ctrl_c: CtrlC) -> None:
        self.ctrl_c = ctrl_c

    def on_pre_optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
        self.ctrl_c("optimise")

    def on_evaluate(self, *arguments: Any, **keywords: Any) -> None:
        self.ctrl_c("evaluate")


Train = Callable[..., SGPOTrainer]


@pytest.fixture(scope="module")
def make_trainer(checkpoint: Path) -> Train:
    """12 problems, 4 a rollout batch of 2 updates; in all 4 rollout batches, over the end of an epoch."""

    def make(folder: Path, ctrl_c: CtrlC, **changes: Any) -> SGPOTrainer:
        def parity(completions: Sequence[str], **columns: Any) -> list[float]:
            ctrl_c("verify")
            return [float(len(completion) % 2) for completion in completions]

        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        # Every fourth token ends a completion, or a model with random weights would hardly ever end one.
        model.generation_config.eos_token_id = list(range(1, model.config.vocab_size, 4))
        values: dict[str, Any] = {"max_steps": 8, "learning_rate": 1e-3, "save_strategy": "no", **changes}
        small = {"problems_per_rollout": 4, "num_autonomous": 2, "num_guided": 1, "max_completion_length": 9}
        config = SGPOConfig(
            output_dir=str(folder), use_cpu=True, report_to="none", disable_tqdm=True, **small, **values
        )
        trainer = SGPOTrainer(model, config, train_dataset=PROBLEMS, eval_dataset=PROBLEMS[:2], reward_funcs=parity)
        trainer.sampler = Sampling(trainer.sampler, ctrl_c)
        trainer.add_callback(Steps(ctrl_c))
        return trainer

    return make


FILES = ("completions", "config.yaml", "data.json", "metrics.jsonl", "report.html")


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def updates(folder: Path) -> list[dict[str, float]]:
    """The lines of updates, without what no two runs share."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if not name.startswith(("seconds/", "tokens_per_second/"))}
        for line in lines
        if "loss" in line
    ]


@pytest.fixture(scope="module")
def straight(make_trainer: Train, tmp_path_factory: pytest.TempPathFactory) -> SGPOTrainer:
    trainer = make_trainer(tmp_path_factory.mktemp("straight"), CtrlC())
    trainer.train()
    return trainer


@pytest.mark.parametrize(("phase", "call", "step"), [("sample", 2, 2), ("verify", 4, 6), ("optimise", 3, 4)])
def test_a_stopped_and_resumed_run_is_the_straight_one(
    make_trainer: Train, straight: SGPOTrainer, tmp_path: Path, phase: str, call: int, step: int
) -> None:
    """Between rollout batches: what is sampled or verified is given up, what is optimised is finished."""
    run = tmp_path / "run"
    with pytest.raises(TrainingInterrupted) as caught:
        make_trainer(tmp_path / "run", CtrlC(**{phase: [call]})).train()
    assert (
        str(caught.value) == f"stopped by Ctrl-C after {step} of 8 updates; the checkpoint is {run}/checkpoint-{step}"
    )
    assert caught.value.checkpoint == run / f"checkpoint-{step}"
    assert names_in(run) == {*FILES, f"checkpoint-{step}"}
    assert len(updates(run)) == step
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = make_trainer(tmp_path / "run", CtrlC())
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 8
    assert updates(run) == updates(Path(straight.args.output_dir))
    for (name, one), other in zip(resumed.model.named_parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("phase", ["sample", "verify"])
def test_between_the_two_calls_of_a_rollout_batch(make_trainer: Train, tmp_path: Path, phase: str) -> None:
    """In the second call of the third rollout batch, which is given up as a whole."""
    straight = make_trainer(tmp_path / "straight", CtrlC(), guidance="after_failure")
    straight.train()
    with pytest.raises(TrainingInterrupted, match="after 4 of 8 updates"):
        make_trainer(tmp_path / "run", CtrlC(**{phase: [6]}), guidance="after_failure").train()
    make_trainer(tmp_path / "run", CtrlC(), guidance="after_failure").train(resume_from_checkpoint=True)
    assert updates(tmp_path / "run") == updates(tmp_path / "straight")


def test_what_was_not_logged_yet_is_logged_before_the_checkpoint(make_trainer: Train, tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        make_trainer(tmp_path / "run", CtrlC(optimise=[5]), logging_steps=4).train()
    make_trainer(tmp_path / "run", CtrlC(), logging_steps=4).train(resume_from_checkpoint=True)
    found = {line["step"]: line for line in updates(tmp_path / "run")}
    make_trainer(tmp_path / "each", CtrlC()).train()
    each = updates(tmp_path / "each")
    assert list(found) == [4, 6, 8]
    for step, part in ((4, each[:4]), (6, each[4:6]), (8, each[6:])):
        for name in ("loss", "reward/autonomous", "length/guided"):
            assert found[step][name] == pytest.approx(sum(line[name] for line in part) / len(part), rel=1e-6)


def test_a_stop_while_evaluating_comes_after_it(make_trainer: Train, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "run", CtrlC(evaluate=[1]), eval_strategy="steps", eval_steps=2, eval_samples=1)
    with pytest.raises(TrainingInterrupted) as caught:
        trainer.train()
    assert caught.value.checkpoint == tmp_path / "run" / "checkpoint-2"


def test_before_the_first_update_there_is_nothing_to_save(make_trainer: Train, tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted) as caught:
        make_trainer(tmp_path / "run", CtrlC(sample=[1])).train()
    assert str(caught.value) == "stopped by Ctrl-C after 0 of 8 updates; there is nothing to save"
    assert names_in(tmp_path / "run") == {"config.yaml", "data.json"}
    make_trainer(tmp_path / "run", CtrlC(), max_steps=2).train()  # the folder holds no other run


def test_after_the_last_update_the_run_just_ends(make_trainer: Train, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "run", CtrlC(optimise=[8]))
    trainer.train()
    assert trainer.state.global_step == 8
    assert "checkpoint-8" not in names_in(tmp_path / "run")


def test_a_checkpoint_that_stands_there_already_is_taken(make_trainer: Train, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "run", CtrlC(sample=[2]), save_strategy="steps", save_steps=2)
    saved: list[Any] = []
    save = trainer._save_checkpoint
    trainer._save_checkpoint = lambda *a, **k: (saved.append(1), save(*a, **k))  # type: ignore[method-assign]
    with pytest.raises(TrainingInterrupted) as caught:
        trainer.train()
    assert caught.value.checkpoint == tmp_path / "run" / "checkpoint-2"
    assert len(saved) == 1


def test_the_second_ctrl_c_stops_at_once(make_trainer: Train, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        make_trainer(tmp_path / "run", CtrlC(optimise=[3, 4])).train()
    assert type(caught.value) is KeyboardInterrupt
    assert str(caught.value) == "stopped at once by a second Ctrl-C"
    assert names_in(tmp_path / "run") == {*FILES}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_someone_else_stays(make_trainer: Train, tmp_path: Path) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        trainer = make_trainer(tmp_path / "run", CtrlC(sample=[1]), max_steps=2)
        trainer.train()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]
    assert trainer.state.global_step == 2


# --- the warm-up --------------------------------------------------------------------------------------------


def test_the_warm_up_stops_and_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    def make(ctrl_c: CtrlC) -> Any:
        args = WarmupConfig(
            output_dir=str(tmp_path / "sft"),
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            per_device_train_batch_size=2,
            num_train_epochs=2,
            max_length=64,
            validation_share=0.2,
        )
        trainer = build_warmup_trainer(str(checkpoint), args, PROBLEMS)
        trainer.add_callback(Steps(ctrl_c))
        return trainer

    # 9 rows, so 5 updates an epoch; the second epoch has begun, and an epoch's best checkpoint is there.
    with pytest.raises(TrainingInterrupted) as caught:
        make(CtrlC(optimise=[7])).train()
    assert str(caught.value).startswith("stopped by Ctrl-C after 7 of 10 updates; the checkpoint is ")
    assert {"checkpoint-5", "checkpoint-7"} <= names_in(tmp_path / "sft")
    resumed = make(CtrlC())
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 10


# --- the command --------------------------------------------------------------------------------------------


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )


@pytest.mark.integration
def test_ctrl_c_of_the_command_says_how_to_go_on(checkpoint: Path, tmp_path: Path) -> None:
    run, metrics = tmp_path / "a run", tmp_path / "a run" / "metrics.jsonl"
    save_problems(PROBLEMS, tmp_path / "problems.jsonl")
    arguments = ["sgpo", "train", "--model", str(checkpoint), "--problems", str(tmp_path / "problems.jsonl")]
    arguments += ["--output_dir", str(run), "--use_cpu", "true", "--disable_tqdm", "true", "--report_to", "none"]
    small = [
        "--problems_per_rollout",
        "4",
        "--num_autonomous",
        "2",
        "--num_guided",
        "1",
        "--max_completion_length",
        "9",
    ]
    process = start([*arguments, *small, "--save_strategy", "no", "--max_steps", "100000"])
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    said, command = errors.strip().splitlines()[-2:]
    (checkpoint_folder,) = run.glob("checkpoint-*")
    step = int(checkpoint_folder.name.removeprefix("checkpoint-"))
    assert step % 2 == 0
    assert said == (
        f"sgpo train: stopped by Ctrl-C after {step} of 100000 updates; the checkpoint is {checkpoint_folder}. Go on "
        "with"
    )
    assert shlex.split(command) == ["sgpo", "train", "--config", str(run / "config.yaml"), "--resume"]
    again = start([*shlex.split(command), "--max_steps", str(step + 2)])
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert [line["step"] for line in updates(run)] == list(range(1, step + 3))


def test_what_processes_do_in_step_is_not_left_in_the_middle() -> None:
    interrupt = Interrupt(updates=1)
    with interrupt.watching(), pytest.raises(StopHere), interrupt.may_leave():
        signal.raise_signal(signal.SIGINT)
    with interrupt.watching():
        with interrupt.may_leave(at_once=False):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(StopHere):
            interrupt.stop_if_requested()
