"""`sgpo sft`, `sgpo train` and `sgpo eval`: a YAML file through --config, and --key value over it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers.trainer_utils import get_last_checkpoint
from trl import TrlParser

from sgpo.errors import usage_errors
from sgpo.problems import Problem, columns_from_pairs, load_problems
from sgpo.prompts import SYSTEM_PROMPT
from sgpo.rewards import load_reward, math_reward


@dataclass
class DataArguments:
    """Which model is taken, and which problems."""

    model: str = field(metadata={"help": "Folder or Hub name of a checkpoint."})
    problems: str = field(metadata={"help": "Parquet or JSONL file, or Hub data set."})
    columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Where a column has another name: prompt=question answer=solution ..."},
    )
    limit: int | None = field(default=None, metadata={"help": "Take the first so many problems."})


@dataclass
class TrainArguments(DataArguments):
    eval_problems: str | None = field(default=None, metadata={"help": "Problems for avg@k during training."})
    rewards: list[str] = field(
        default_factory=list,
        metadata={"help": "package.module:function or file.py:function; default: Math-Verify on the answer."},
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the newest checkpoint in output_dir."})


@dataclass
class EvalArguments(DataArguments):
    output: str | None = field(default=None, metadata={"help": "Write summary and samples into this folder."})
    k: int = field(default=4, metadata={"help": "Samples a problem; 1 with temperature 0."})
    temperature: float = field(default=0.6, metadata={"help": "0 is greedy."})
    top_p: float = field(default=0.95, metadata={"help": "Nucleus."})
    greedy: bool = field(default=False, metadata={"help": "Also one answer a problem at temperature 0."})
    max_completion_length: int = field(default=32_768, metadata={"help": "Tokens, capped at the model's context."})
    guided: bool = field(default=False, metadata={"help": "With the strategy in the prompt, for reference."})
    group_by: str | None = field(default=None, metadata={"help": "Also average over each value of this column."})
    system_prompt: str = field(default=SYSTEM_PROMPT, metadata={"help": "System turn; empty for none."})
    seed: int = field(default=0, metadata={"help": "Seed of the sampling."})


def parse(prog: str, kinds: Sequence[Any], argv: list[str]) -> tuple[Any, ...]:
    """The command's arguments: those of --config, and over them those of the command line."""
    with usage_errors():
        return TrlParser(list(kinds), prog=f"sgpo {prog}", allow_abbrev=False).parse_args_and_config(argv)


def read_problems(data: DataArguments, source: str) -> list[Problem]:
    return load_problems(source, columns=columns_from_pairs(data.columns), limit=data.limit)


def sft(argv: list[str]) -> None:
    from sgpo.training.sft import WarmupConfig, build_warmup_trainer

    data, args = parse("sft", (DataArguments, WarmupConfig), argv)
    with usage_errors():
        trainer = build_warmup_trainer(data.model, args, read_problems(data, data.problems))
    save_configuration(args.output_dir, data, args)
    trainer.train()
    trainer.save_model()


def train(argv: list[str]) -> None:
    from sgpo.training.config import SGPOConfig
    from sgpo.training.trainer import SGPOTrainer

    data, args = parse("train", (TrainArguments, SGPOConfig), argv)
    with usage_errors():
        trainer = SGPOTrainer(
            data.model,
            args,
            train_dataset=read_problems(data, data.problems),
            eval_dataset=read_problems(data, data.eval_problems) if data.eval_problems else None,
            reward_funcs=[load_reward(name) for name in data.rewards] or [math_reward],
        )
        if data.resume and (not Path(args.output_dir).is_dir() or get_last_checkpoint(args.output_dir) is None):
            raise ValueError(f"there is no checkpoint in {args.output_dir} to resume from; leave out --resume")
    save_configuration(args.output_dir, data, args)
    trainer.train(resume_from_checkpoint=data.resume or None)
    trainer.save_model()


def evaluate(argv: list[str]) -> None:
    from sgpo.evaluation.report import evaluate_checkpoint, print_evaluation, save_evaluation

    (args,) = parse("eval", (EvalArguments,), argv)
    with usage_errors():
        problems = read_problems(args, args.problems)
        evaluation, greedy = evaluate_checkpoint(args, problems)
    print_evaluation(evaluation, greedy, args)
    if args.output:
        save_evaluation(evaluation, greedy, args)


def save_configuration(output_dir: str, *parts: Any) -> None:
    """The resolved configuration beside the results, as a file that --config takes again."""
    values: dict[str, Any] = {}
    for part in parts:
        values |= part.to_dict() if hasattr(part, "to_dict") else vars(part)
    path = Path(output_dir) / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(json.loads(json.dumps(values, default=str)), sort_keys=True))
