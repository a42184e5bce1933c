"""The options of `sgpo train` and `sgpo sft`, one dataclass for each group of their help.

Nothing here imports torch or transformers, so that a typo is refused and `--help` answered at once.
`sgpo.options.groups` says which groups a command has. Fields that `transformers.TrainingArguments` has too stand here
for another default.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sgpo.models.arguments import AdapterArguments
from sgpo.problems import Problem, columns_from_pairs, load_problems
from sgpo.problems.inspection import check_bad_rows_option
from sgpo.prompts import SYSTEM_PROMPT
from sgpo.rewards import RewardFunction, load_reward, math_reward
from sgpo.sizes import Default


@dataclass
class ScreenArguments:
    """What is shown."""

    verbose: bool = field(
        default=False, metadata={"help": "Also the progress bars and deprecation warnings of the libraries beneath."}
    )


@dataclass
class DataArguments:
    """Which model is taken, and which problems."""

    model: str = field(metadata={"help": "Folder or Hub name of a checkpoint."})
    problems: str = field(metadata={"help": "Parquet, JSONL or JSON file, or Hub data set."})
    columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Where a column has another name: prompt=question answer=reward_model.ground_truth ..."},
    )
    limit: int | None = field(default=None, metadata={"help": "Take the first so many problems."})
    split: str = field(default="train", metadata={"help": "Split of a Hub data set."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub data set."})


@dataclass
class ResumeArguments:
    """How a run that was interrupted goes on."""

    resume: bool = field(default=False, metadata={"help": "Go on from the newest checkpoint in output_dir."})


@dataclass
class EvaluationDataArguments:
    """The problems of the evaluation during training."""

    eval_problems: str | None = field(default=None, metadata={"help": "Problems for avg@k during training."})
    eval_split: str = field(default="test", metadata={"help": "Split of eval_problems on the Hub."})
    eval_revision: str | None = field(default=None, metadata={"help": "Revision of eval_problems on the Hub."})


@dataclass
class RewardArguments:
    """Which functions give the reward."""

    rewards: list[str] = field(
        default_factory=list,
        metadata={"help": "package.module:function or file.py:function; default: Math-Verify on the answer."},
    )
    reward_weights: list[float] = field(default_factory=list, metadata={"help": "One for each reward; default: 1."})


@dataclass
class SFTArguments(ScreenArguments, AdapterArguments, ResumeArguments, DataArguments):
    """What `sgpo sft` takes beside `WarmupConfig`."""


@dataclass
class TrainArguments(
    ScreenArguments, RewardArguments, AdapterArguments, EvaluationDataArguments, ResumeArguments, DataArguments
):
    """What `sgpo train` takes beside `SGPOConfig`."""


# ---------------------------------------------------------------------- of both configurations


@dataclass
class RunArguments:
    """Options of every training run, beside those of `TrainingArguments`."""

    bad_rows: str = field(
        default="refuse",
        metadata={"help": "Rows that cannot be used (empty, repeated, too long, ...): 'refuse', or leave out: 'drop'."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Delete the run that output_dir holds."})

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled, such as training_args.bin, which is pushed to the Hub: without the token."""
        return {**self.__dict__, "hub_token": None}

    def __copy__(self) -> Any:
        """Not by way of what is pickled."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        new = object.__new__(type(self))
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new

    def check_run_arguments(self) -> None:
        """Raises ValueError for a value that is no choice."""
        check_bad_rows_option(self.bad_rows)


# ---------------------------------------------------------------------- of SGPOConfig


@dataclass
class MethodArguments:
    """Which method; the options of each are in the method's own file, `sgpo.methods`."""

    method: str = field(
        default="sgpo",
        metadata={
            "help": "sgpo, grpo, luffy, hpt, srft, ampo, opsd, sdpo, scaf_grpo, or your own: path/to/file.py:METHOD."
        },
    )


@dataclass
class PythonArguments:
    """What only Python has."""

    method_options: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "The options that only a method of your own has; on a command line they are flags."},
    )


@dataclass
class SeenArguments:
    """Problems that the model has learnt already."""

    seen_problems: str = field(
        default="refuse", metadata={"help": "Problems of the model's warm-up: 'refuse', or 'allow' them."}
    )


@dataclass
class SamplingArguments:
    """What is sampled, and how much of it at once."""

    problems_per_rollout: int = field(
        default=Default(128),
        metadata={"help": "Problems in a rollout batch; unset: all, where there are fewer."},
    )
    updates_per_rollout: int = field(default=2, metadata={"help": "Updates for each rollout batch, each on its part."})
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature."})
    top_p: float = field(default=0.95, metadata={"help": "Nucleus of the sampling."})
    sampler_batch_tokens: int = field(
        default=262_144,
        metadata={"help": "Bound on rows x (prompt + completion length) that are sampled at once."},
    )
    system_prompt: str = field(default=SYSTEM_PROMPT, metadata={"help": "System turn; empty for none."})
    chat_template_kwargs: dict[str, Any] = field(
        default_factory=dict, metadata={"help": 'Arguments of the chat template, such as {"enable_thinking": false}.'}
    )
    pad_token: str | None = field(default=None, metadata={"help": "The token that pads, if the tokenizer has none."})


@dataclass
class CorrectnessArguments:
    """Which completions are correct."""

    correctness: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Of several reward functions the names of those whose 1 means correct, the first that applies "
            "deciding; default: math_reward if it is among them, or the only one."
        },
    )


@dataclass
class UpdateArguments:
    """One optimizer update: its micro-batches and its rate."""

    max_tokens_per_microbatch: int = field(
        default=20_480, metadata={"help": "Tokens of a forward and backward pass, padding included."}
    )
    padding_free: bool | None = field(
        default=None,
        metadata={"help": "Pack rows without padding; default: where the attention is FlashAttention or flex."},
    )
    share_prefixes: bool = field(
        default=True,
        metadata={
            "help": "Compute what rows have in common at their beginnings once, where the model allows it and it pays; "
            "not with deepspeed."
        },
    )
    bf16: bool | None = field(
        default=None,
        metadata={"help": "bfloat16 mixed precision; unset: on a GPU, for a checkpoint in 16 bits."},
    )
    activation_checkpointing: bool | None = field(
        default=None,
        metadata={"help": "Less memory, more time; default: false.", "nargs": "?", "const": True},
    )
    skip_grad_norm: float | None = field(
        default=None, metadata={"help": "Leave out an update whose gradient has a norm above this (hpt's authors: 80)."}
    )
    learning_rate: float = field(default=1e-6, metadata={"help": "Of the optimizer."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Course of the learning rate."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the problems; or give max_steps."})


@dataclass
class EvaluationArguments:
    """The evaluation during training, and what is shown of a run."""

    eval_strategy: str | None = field(default=None, metadata={"help": "When: steps, epoch or no; unset: at the end."})
    eval_at_end: bool | None = field(
        default=None,
        metadata={"help": "Also after the last update."},
    )
    eval_samples: int = field(default=4, metadata={"help": "k of avg@k on the evaluation problems."})
    eval_temperature: float = field(default=0.6, metadata={"help": "Sampling temperature of the evaluation."})
    eval_top_p: float = field(default=0.95, metadata={"help": "Nucleus of the evaluation."})
    metric_for_best_model: str | None = field(
        default=None, metadata={"help": "What the best checkpoint is best in; default, where one is kept: avg@k."}
    )
    greater_is_better: bool | None = field(default=None, metadata={"help": "Follows for avg@k."})
    completions_steps: int = field(
        default=50, metadata={"help": "Updates between two tables of completions, also kept as Parquet; 0: none."}
    )
    live_report: bool = field(
        default=True,
        metadata={"help": "Keep report.html in output_dir current, which shows the run at a glance."},
    )
    logging_steps: float = field(default=1, metadata={"help": "Updates between two lines of metrics."})


@dataclass
class FixedArguments:
    """What `TrainingArguments` has and this training decides; not for users."""

    per_device_train_batch_size: int = field(
        default=0, metadata={"help": "Follows: problems_per_rollout / updates_per_rollout."}
    )
    remove_unused_columns: bool | None = field(
        default=False, metadata={"help": "All columns travel to reward functions."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Would hide losses that are no numbers, which must be seen."}
    )
    # Processes make different numbers of forward passes; what a pass does must wait for no other process.
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Must be false."})
    ddp_broadcast_buffers: bool | None = field(default=False, metadata={"help": "Must be false."})


# ---------------------------------------------------------------------- of WarmupConfig


@dataclass
class WarmupArguments:
    """The warm-up: the paper's defaults (Appendix E)."""

    validation_share: float = field(default=0.1, metadata={"help": "Share of the problems that choose the checkpoint."})
    system_prompt: str = field(default=SYSTEM_PROMPT, metadata={"help": "System turn; empty for none."})
    chat_template_kwargs: dict[str, Any] = field(
        default_factory=dict, metadata={"help": 'Arguments of the chat template, such as {"enable_thinking": false}.'}
    )
    learning_rate: float = field(default=1e-5, metadata={"help": "Of the optimizer."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Course of the learning rate."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Updates of rising rate; below 1: a share of all."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the problems; or give max_steps."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Problems in a pass on one device."})
    max_length: int | None = field(default=16_384, metadata={"help": "Tokens of prompt and response together."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When the loss is measured: epoch, steps or no."})
    save_strategy: str = field(default="epoch", metadata={"help": "When checkpoints are written: epoch, steps or no."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints that are kept, beside the best."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best checkpoint."})
    metric_for_best_model: str | None = field(
        default="eval_loss", metadata={"help": "What the best checkpoint is best in."}
    )
    greater_is_better: bool | None = field(default=False, metadata={"help": "Whether more of that is better."})
    logging_steps: float = field(default=5, metadata={"help": "Updates between two lines of metrics."})
    bf16: bool | None = field(
        default=None, metadata={"help": "bfloat16 mixed precision; default: where there is a GPU."}
    )
    dataloader_pin_memory: bool | None = field(
        default=None, metadata={"help": "Copy batches through pinned memory; default: where there is a GPU."}
    )
    activation_checkpointing: bool | None = field(
        default=None, metadata={"help": "Recompute activations in the backward pass; default: true."}
    )
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "The older name of activation_checkpointing."}
    )


def follow_checkpointing(args: Any) -> None:
    """Lets both names of checkpointing say the same, as newer versions of transformers do; 5.10 reads the older alone.

    Args:
        args: a configuration after the ``__post_init__`` of `TrainingArguments`.
    """
    if args.activation_checkpointing is None:
        args.activation_checkpointing = args.gradient_checkpointing
    args.gradient_checkpointing = args.activation_checkpointing


def refusals_of_choices(args: Any, choices: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Values of `args` that are none of the choices; the first takes their place, so that the rest can be checked."""
    for name, known in choices.items():
        value = getattr(args, name)
        if value not in known:
            setattr(args, name, known[0])
            shown = ", ".join(str(getattr(each, "value", each)) for each in known)
            yield f"{name} is {value!r}; choose one of {shown}"


def read_problems(data: DataArguments) -> list[Problem]:
    """All rows; which of them cannot be used is decided together with the model."""
    return _read(data, data.problems, data.split, data.revision, data.limit)


def read_eval_problems(data: TrainArguments) -> list[Problem] | None:
    if not data.eval_problems:
        return None
    return _read(data, data.eval_problems, data.eval_split, data.eval_revision, data.limit)


def _read(data: DataArguments, source: str, split: str, revision: str | None, limit: int | None) -> list[Problem]:
    columns = columns_from_pairs(data.columns) or None
    return load_problems(source, split=split, revision=revision, columns=columns, limit=limit, bad_rows="keep")


def read_rewards(data: RewardArguments) -> list[RewardFunction]:
    """The functions that are named; none stand for the verifier's."""
    return [load_reward(name) for name in data.rewards] or [math_reward]
