"""`sgpo train` and `sgpo sft`: a YAML file through --config, and --key value over it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgpo import distributed
from sgpo.errors import Refusals, usage_errors
from sgpo.models.adapters import adapter_from, chain_of
from sgpo.rewards import RewardFunction
from sgpo.runs.checkpoints import newest_checkpoint
from sgpo.runs.folder import check_output_dir, explained_lack_of_space
from sgpo.screen import no_progress_bars
from sgpo.training.arguments import SFTArguments, TrainArguments, read_eval_problems, read_problems, read_rewards

if TYPE_CHECKING:
    from sgpo.training.config import SGPOConfig
    from sgpo.training.sft import WarmupConfig


def sft(data: SFTArguments, args: WarmupConfig) -> None:
    from sgpo.training.sft import build_warmup_trainer

    with no_progress_bars(everything=data.verbose):
        with usage_errors():
            refusals, problems, peft_config = Refusals(), None, None
            with refusals.collected():
                peft_config = adapter_from(data)
            with refusals.collected():
                _check_run(data, args)
            with refusals.collected():
                problems = read_problems(data)
            trainer = build_warmup_trainer(data.model, args, problems, peft_config, refusals)
            trainer.data["train"]["source"] = data.problems
        _run("sft", trainer, data, args)


def train(data: TrainArguments, args: SGPOConfig) -> None:
    from sgpo.training.trainer import SGPOTrainer

    with no_progress_bars(everything=data.verbose):
        with usage_errors():
            problems, eval_problems, rewards, peft_config = _read_all(data, args)
            trainer = SGPOTrainer(
                data.model,
                args,
                train_dataset=problems,
                eval_dataset=eval_problems,
                reward_funcs=rewards,
                reward_weights=data.reward_weights or None,
                peft_config=peft_config,
            )
            trainer.data["train"]["source"] = data.problems
            if data.eval_problems:
                trainer.data["eval"]["source"] = data.eval_problems
        _run("train", trainer, data, args)


def _read_all(data: TrainArguments, args: Any) -> tuple[Any, Any, list[RewardFunction], Any]:
    """The problems, those of the evaluation, the reward functions, and the adapter that is to be trained.

    Raises:
        ValueError: what cannot be read; in the same message what of the rest cannot be trained with.
    """
    from sgpo.training.preflight import UNREADABLE, prepare_training, said_once

    refusals, peft_config = Refusals(), None
    with refusals.collected():
        peft_config = adapter_from(data)
    with refusals.collected():
        _check_run(data, args)
    problems = eval_problems = rewards = UNREADABLE
    with refusals.collected():
        problems = read_problems(data)
    with refusals.collected():
        eval_problems = read_eval_problems(data)
    with refusals.collected():
        rewards = read_rewards(data)
    if refusals:
        weights = data.reward_weights or None
        with said_once(args.process_index == 0):
            prepare_training(args, data.model, problems, eval_problems, rewards, weights, None, peft_config, refusals)
    return problems, eval_problems, rewards, peft_config


def _check_run(data: Any, args: Any) -> None:
    from sgpo.training.preflight import said_once

    for model in chain_of(data.model):
        check_output_dir(args.output_dir, overwrite=args.overwrite, resume=data.resume, model=model)
    with said_once(args.process_index == 0):
        args.resume_from_checkpoint = str(newest_checkpoint(args.output_dir)) if data.resume else None


def _run(command: str, trainer: Any, data: Any, args: Any) -> None:
    """Train and save; Ctrl-C says how to go on."""
    from sgpo.runs.interrupt import TrainingInterrupted

    path = Path(args.output_dir) / "config.yaml"
    trainer.command_line = data
    try:
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    except TrainingInterrupted as stopped:
        distributed.leave()
        again = ["sgpo", command, "--config", str(path)]
        if stopped.checkpoint is None:
            raise KeyboardInterrupt(f"{stopped}. Start again with\n  {shlex.join(again)}") from None
        raise KeyboardInterrupt(f"{stopped}. Go on with\n  {shlex.join([*again, '--resume'])}") from None
    with explained_lack_of_space(args.output_dir), distributed.failing_together(args.output_dir):
        trainer.save_model()
        distributed.leave()
    if args.process_index == 0:
        print(f"The model is in {args.output_dir}")
