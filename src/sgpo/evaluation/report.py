"""Evaluating a checkpoint, and its results as a table, a summary and a file of samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo import __version__
from sgpo.evaluation.evaluate import Evaluation, evaluate
from sgpo.problems import Problem
from sgpo.tokenizers import check_tokenizer, end_token_ids, pad_token_id
from sgpo.training.sampling import SamplingConfig, TransformersSampler


def evaluate_checkpoint(args: Any, problems: Sequence[Problem]) -> Evaluation:
    """Sample and score; `args` are those of `sgpo eval`. The length limit is capped at the model's context."""
    tokenizer: Any = AutoTokenizer.from_pretrained(args.model)
    check_tokenizer(tokenizer)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).to(device)
    sampler = TransformersSampler(model, end_token_ids(model, tokenizer), pad_token_id(tokenizer))
    longest = max(len(tokenizer(problem.prompt + (problem.strategy or ""))["input_ids"]) for problem in problems)
    # 128 tokens are left for the chat template, the system turn and the frame of a guided prompt.
    room = getattr(model.config, "max_position_embeddings", args.max_completion_length) - longest - 128
    sampling = SamplingConfig(min(args.max_completion_length, room), args.temperature, args.top_p)
    return evaluate(
        sampler,
        tokenizer,
        problems,
        sampling,
        k=args.k,
        seed=args.seed,
        guided=args.guided,
        system_prompt=args.system_prompt,
    )


def print_evaluation(evaluation: Evaluation, args: Any) -> None:
    table = Table(title=f"{args.model} on {args.problems}{' (guided)' if args.guided else ''}")
    table.add_column("problems")
    table.add_column(f"avg@{evaluation.k} %", justify="right")
    if args.group_by:
        for name, average in evaluation.by(args.group_by).items():
            table.add_row(name, f"{100 * average:.1f}")
        table.add_section()
    table.add_row("all", f"{100 * evaluation.average:.1f} ± {100 * evaluation.standard_error:.1f}")
    Console().print(table)
    metrics = evaluation.metrics()
    print(
        f"{int(metrics['problems'])} problems, truncated {100 * metrics['truncated']:.1f}%, "
        f"mean length {metrics['length']:.1f} tokens; ± is one standard error over problems."
    )


def save_evaluation(evaluation: Evaluation, args: Any) -> None:
    """summary.json and samples.jsonl in `args.output`."""
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    summary = {
        **evaluation.metrics(),
        "by": evaluation.by(args.group_by) if args.group_by else {},
        "configuration": vars(args),
        "versions": {
            "sgpo": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    with (output / "samples.jsonl").open("w") as file:
        for sample in evaluation.samples:
            row = {
                "id": sample.problem.id,
                "answer": sample.problem.answer,
                "completion": sample.completion,
                "reward": sample.reward,
                "truncated": sample.truncated,
                "length": sample.length,
            }
            file.write(json.dumps(row) + "\n")
