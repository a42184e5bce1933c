"""The supervised warm-up on strong-model responses: TRL's SFTTrainer with the paper's defaults (Appendix E).

The prompt is the student's unguided one, the target the response; only the response is learnt. The checkpoint of lowest
loss on a random tenth of the problems is kept. The loss is one of `sgpo.training.sft_losses`; validation measures the
negative log-likelihood whatever it is, since that of DFT falls where the policy forgets, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, ClassVar

import torch
from datasets import Dataset, DatasetDict
from transformers import SchedulerType
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from trl import SFTConfig, SFTTrainer

from sgpo.errors import Refusals
from sgpo.layouts import asks_for_deepspeed, refusals_of_deepspeed, refusals_of_parallelism
from sgpo.models.checkpoint import Opened, say_loading
from sgpo.models.modes import evaluation_mode
from sgpo.models.precision import refusals_of_precision, weight_rows
from sgpo.models.weights import load_policy
from sgpo.problems import Problem
from sgpo.problems.inspection import RowCheck, duplicate_responses, empty_fields, inspect, missing_responses, too_long
from sgpo.problems.texts import text_key
from sgpo.prompts import response_messages, student_messages
from sgpo.training.arguments import RunArguments, WarmupArguments, follow_checkpointing, refusals_of_choices
from sgpo.training.preflight import TRAINING, check_resumed, check_room, open_model, said_data, trained_part
from sgpo.training.push import check_push
from sgpo.training.run import RunTrainer
from sgpo.training.seen import seen_by
from sgpo.training.sft_losses import LOSSES, SFTLossArguments
from sgpo.training.teacher import frozen_copy
from sgpo.training.trackers import check_trackers

CHOICES = {
    "eval_strategy": [*IntervalStrategy],
    "save_strategy": [*SaveStrategy],
    "lr_scheduler_type": [*SchedulerType],
}


REFERENCE, OLD = "reference", "old"
OTHER_LOGPROBS = "other_logprobs"  # of a batch: log-probabilities that its loss compares with
NLL = LOSSES["nll"]


@dataclass
class WarmupConfig(WarmupArguments, SFTLossArguments, RunArguments, SFTConfig):
    """TRL's SFTConfig with the paper's defaults; ``validation_share`` of the problems choose the checkpoint."""

    def __post_init__(self) -> None:
        # TRL would turn it on everywhere, which transformers then refuses on a machine without a GPU.
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        if self.bf16 is None:
            self.bf16 = on_gpu and not self.fp16
        if self.dataloader_pin_memory is None:
            self.dataloader_pin_memory = on_gpu
        # TRL's default, under the name that transformers has for it now.
        if self.activation_checkpointing is None and self.gradient_checkpointing is None:
            self.activation_checkpointing = True
        refusals = Refusals()
        with refusals.collected():
            self.check_run_arguments()
        if not 0 < self.validation_share < 1:
            refusals.add([f"validation_share is {self.validation_share}; it must be between 0 and 1"])
        refusals.add(refusals_of_precision(self))
        refusals.add(refusals_of_choices(self, CHOICES))
        refusals.add(self.refusals_of_loss())
        refusals.add(self._refusals_beside_loss())
        parallel = [*refusals_of_parallelism(self), *refusals_of_deepspeed(self)]
        refusals.add(parallel)
        if parallel:
            refusals.refuse()  # before transformers starts what is refused
        with refusals.collected():
            super().__post_init__()
        refusals.refuse()
        follow_checkpointing(self)

    def _refusals_beside_loss(self) -> Iterator[str]:
        """What does not go together with the loss."""
        if self.loss_type not in ("nll", "chunked_nll"):
            yield f"loss_type is {self.loss_type!r}; choose the loss by its one name here: loss: {self.loss_type}"
        found = LOSSES.get(self.loss, NLL)
        if found is NLL:
            return
        if asks_for_deepspeed(self):
            yield f"loss {self.loss} is not supported with deepspeed: divide the model with fsdp: full_shard"
        if self.label_smoothing_factor:
            yield f"label_smoothing_factor is of loss nll alone; with loss {self.loss} leave it out"
        if found.compares_with == REFERENCE:
            if self.fsdp:
                yield f"loss {self.loss} keeps a copy of the model of before, which is not sharded: leave fsdp out"
            if self.packing or self.padding_free:
                yield f"loss {self.loss} weighs whole responses: leave packing and padding_free out"
        if found.compares_with == OLD:
            every = {"steps": ("save_steps", self.save_steps), "best": ("eval_steps", self.eval_steps)}
            name, steps = every.get(SaveStrategy(self.save_strategy).value, ("", 0))
            if steps is None or steps % max(1, self.psft_updates):
                yield (
                    f"{name} ({steps}) must be a multiple of psft_updates ({self.psft_updates}): a checkpoint stands "
                    "where the old policy is the present one"
                )


class WarmupTrainer(RunTrainer, SFTTrainer):
    """TRL's trainer, with the folder, the data's fingerprint and Ctrl-C of every training run here, and more losses."""

    shown: ClassVar = {"loss": "loss", "mean_token_accuracy": "accuracy"}
    reference: Any = None  # the model before training, of a loss that compares with it

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """TRL's: the mean over the tokens of all batches and processes of an update."""
        other = inputs.pop(OTHER_LOGPROBS, None)
        loss = LOSSES[self.args.loss]
        if loss is NLL or not self.model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        if loss.compares_with == REFERENCE:
            other = self._logprobs(self.reference, inputs)

        def with_loss(**given: Any) -> Any:
            """What TRL calls the negative log-probability of a token is what it adds to the loss."""
            found = model(**given)
            tokens = found.label_mask
            losses, measures = loss.of_tokens(found.log_probs, other, tokens, self.args)
            for name, values in measures.items():
                self._metrics["train"][name].append(values[tokens].mean().item() if tokens.any() else 0.0)
            found.log_probs = -losses.where(tokens, 0.0)
            return found

        return super().compute_loss(with_loss, inputs, *args, **kwargs)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Trainer's; a batch of a loss that compares with the old policy brings that policy's log-probabilities."""
        if LOSSES[self.args.loss].compares_with == OLD:
            if self._of_epoch is None or self._of_epoch[0] is not epoch_iterator:
                self._of_epoch = epoch_iterator, self._scored(epoch_iterator)
            epoch_iterator = self._of_epoch[1]
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    _of_epoch: tuple[Any, Iterator[Any]] | None = None

    def _scored(self, batches: Iterator[Any]) -> Iterator[dict[str, Any]]:
        """The batches of ``psft_updates`` updates together get the log-probabilities of the policy before them.

        A new old policy begins with an epoch and at each multiple of the updates: a run that is resumed there has the
        same ones.
        """
        args = self.args
        while True:
            updates = args.psft_updates - self.state.global_step % args.psft_updates
            some = [*islice(batches, updates * args.gradient_accumulation_steps)]
            if not some:
                return
            yield from [{**each, OTHER_LOGPROBS: self._logprobs(self.model_wrapped, each)} for each in some]

    @torch.no_grad()
    def _logprobs(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Of each token [N, L], 0 outside of responses; without dropout."""
        with self.compute_loss_context_manager(), evaluation_mode(model):
            return model(**{**self._prepare_inputs(inputs), "use_cache": False}, fused_lm_head=True).log_probs


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


def build_warmup_trainer(
    model: str,
    args: WarmupConfig,
    problems: Sequence[Problem] | None,
    peft_config: Any = None,
    refusals: Refusals | None = None,
) -> WarmupTrainer:
    """A trainer over all but a random share of the problems, which choose the checkpoint.

    Args:
        model: folder or Hub name; an adapter's goes on being trained, unless `peft_config` describes a new one.
        problems: None if their reading was refused already.
        peft_config: a `peft.LoraConfig` or another adapter of weights: the model is frozen, and the adapter trained.
        refusals: what was refused before, to be said in one message with what is refused here.

    Raises:
        ValueError: problems, tokenizer or configuration that cannot be trained with, all that is independent in one,
            before the weights are loaded.
    """
    refusals = Refusals() if refusals is None else refusals
    tokenizer, found, data, adapter = _prepare(model, args, problems, peft_config, refusals)
    split = split_by_problem(warmup_rows(found, args.system_prompt), found, args.validation_share, args.seed)
    trainer = WarmupTrainer(
        model=load_policy(model, peft_config, args),
        args=args,
        train_dataset=split["train"],
        eval_dataset=split["test"],
        processing_class=tokenizer,
    )
    compares_with = LOSSES[args.loss].compares_with
    trainer.begin_run(data, model, adapter, args.psft_updates if compares_with == OLD else 1)
    if compares_with == REFERENCE:  # now that the policy has the types that it is trained in
        trainer.reference, trainer.has_copies = frozen_copy(trainer.model), True
    trainer.seen = seen_by(model) | {text_key(problem.prompt) for problem in found}
    if trainer.is_world_process_zero():
        for name, text in weight_rows(trainer.model, args):
            print(f"{name}: {text}")
    return trainer


def split_by_problem(rows: Dataset, problems: Sequence[Problem], share: float, seed: int) -> DatasetDict:
    """Rows to train on and a random share to validate with; all solutions of one problem are on one side."""
    of_problem: dict[tuple[str, str], list[int]] = {}
    for row, problem in enumerate(problems):
        of_problem.setdefault((problem.prompt, problem.answer), []).append(row)
    parts = Dataset.from_dict({"rows": list(of_problem.values())}).train_test_split(test_size=share, seed=seed)
    return DatasetDict({name: rows.select([*chain.from_iterable(part["rows"])]) for name, part in parts.items()})


def _prepare(
    model: str, args: WarmupConfig, problems: Sequence[Problem] | None, peft_config: Any, refusals: Refusals
) -> tuple[Any, list[Problem], dict[str, Any], Any]:
    """The tokenizer, the problems to learn from, what data.json will hold, and the adapter that is trained."""
    with refusals.collected():
        check_trackers(args.report_to)
    with refusals.collected():
        check_push(args)
    opened, found, data = open_model(model, None, args, refusals), [], {}
    adapter, saved = trained_part(model, peft_config, opened, refusals)
    if problems is not None:
        with refusals.collected():
            found = warmup_problems(args, opened, problems)
            data = {"train": said_data(TRAINING, found)}
            if args.resume_from_checkpoint:
                check_resumed(args.resume_from_checkpoint, args, data, adapter)
            if saved is not None:
                batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
                updates = math.ceil(len(found) * (1 - args.validation_share) / batch)
                check_room(args, saved, updates)
    refusals.refuse()
    if args.process_index == 0:
        say_loading(model, opened.config)
    return opened.tokenizer, found, data, adapter


def one_response_each(problems: Sequence[Problem]) -> list[Problem]:
    """A problem with several responses as several, each with one."""
    return [
        replace(problem, response=response, more_responses=())
        for problem in problems
        for response in problem.responses or (None,)
    ]


def warmup_problems(args: WarmupConfig, opened: Opened, problems: Sequence[Problem]) -> list[Problem]:
    """The problems to learn from.

    Raises:
        ValueError: rows that cannot be used, fewer than two that can, or none with a response.
    """
    if not any(problem.response for problem in problems):
        warmup_rows(problems, args.system_prompt)
    problems = one_response_each(problems)
    limits = {"max_length": args.max_length, "the model's context": opened.context}
    name, room = min(
        ((name, limit) for name, limit in limits.items() if limit is not None),
        key=lambda pair: pair[1],
        default=("", None),
    )
    checks: dict[str, RowCheck] = {
        "empty field": empty_fields,
        "no response": missing_responses,
        "duplicate": duplicate_responses,
    }
    if room is not None and opened.makes_prompts:
        checks["prompt and response too long"] = too_long(_row_lengths(args, opened.tokenizer), room, name)
    found = inspect(problems, TRAINING, args.bad_rows, checks)
    if (count := len({(problem.prompt, problem.answer) for problem in found})) < 2:
        raise ValueError(f"{count} problem is too few for SFT: one at least is kept to choose the checkpoint")
    return found


def _row_lengths(args: WarmupConfig, tokenizer: Any) -> Any:
    """Tokens of prompt and response together, which beyond max_length would be cut off."""

    def lengths(problems: Sequence[Problem]) -> list[int]:
        if not problems:
            return []
        conversations = [
            student_messages(p.prompt, args.system_prompt) + response_messages(p.response or "") for p in problems
        ]
        texts = tokenizer.apply_chat_template(conversations, tokenize=False)
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    return lengths
