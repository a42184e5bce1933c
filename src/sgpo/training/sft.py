"""The supervised warm-up on strong-model responses: TRL's SFTTrainer with the paper's defaults (Appendix E).

The prompt is the student's unguided one, the target the response; only the response is learnt. The checkpoint of lowest
loss on a random tenth of the problems is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from sgpo.problems import Problem
from sgpo.prompts import SYSTEM_PROMPT, response_messages, student_messages
from sgpo.tokenizers import check_tokenizer


@dataclass
class WarmupConfig(SFTConfig):
    """TRL's SFTConfig with the paper's defaults; ``validation_share`` of the problems choose the checkpoint."""

    validation_share: float = field(default=0.1, metadata={"help": "Share of the problems that choose the checkpoint."})
    system_prompt: str = field(default=SYSTEM_PROMPT, metadata={"help": "System turn; empty for none."})

    learning_rate: float = 1e-5
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.1  # below 1 it is a share of all steps
    num_train_epochs: float = 10.0
    per_device_train_batch_size: int = 64
    max_length: int | None = 16_384
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 1
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = "eval_loss"
    greater_is_better: bool | None = False
    logging_steps: float = 5

    bf16: bool | None = field(
        default=None, metadata={"help": "bfloat16 mixed precision; default: where there is a GPU."}
    )

    def __post_init__(self) -> None:
        # TRL would turn it on everywhere, which transformers then refuses on a machine without a GPU.
        if self.bf16 is None:
            self.bf16 = torch.cuda.is_available() and not self.use_cpu and not self.fp16
        super().__post_init__()


def warmup_rows(problems: Sequence[Problem], system_prompt: str) -> Dataset:
    """Problems in TRL's conversational prompt-completion format.

    Raises:
        ValueError: a problem without a response.
    """
    missing = [problem.id for problem in problems if not problem.response]
    if missing:
        raise ValueError(
            f"SFT learns strong-model responses; {len(missing)} of {len(problems)} problems have none, for example "
            f"{missing[0]!r}: fill the column 'response', or name the column that holds it"
        )
    rows = [
        {
            "prompt": student_messages(p.prompt, system_prompt),
            "completion": response_messages(p.response or ""),
        }
        for p in problems
    ]
    return Dataset.from_list(rows)


def build_warmup_trainer(model: str, args: WarmupConfig, problems: Sequence[Problem]) -> SFTTrainer:
    """A trainer over all but a random share of the problems, which choose the checkpoint."""
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    check_tokenizer(tokenizer)
    rows = warmup_rows(problems, args.system_prompt)
    split = rows.train_test_split(test_size=args.validation_share, seed=args.seed)
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=args,
        train_dataset=split["train"],
        eval_dataset=split["test"],
        processing_class=tokenizer,
    )
