"""`SGPOTrainer`: transformers' Trainer with a training step of its own.

    problems -> sample -> verify -> decide -> rows -> micro-batches -> weighted sum over tokens -> backward

Optimizer, schedule, checkpoints, resuming and callbacks are Trainer's. A rollout batch is sampled when its first update
begins and kept for the updates after it; each update optimises its own part of the problems.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from sgpo import distributed, sharding
from sgpo.engine import not_finite
from sgpo.engine.batching import BatchLayout, rows_are_packed
from sgpo.engine.prefix_attention import can_share_prefixes
from sgpo.engine.update import accumulate_gradients, add_head_task, completion_scores
from sgpo.evaluation.evaluate import Evaluation, evaluate
from sgpo.layouts import asks_for_deepspeed
from sgpo.means import Means
from sgpo.methods.method import check_state
from sgpo.methods.records import ProblemRollouts, TokenScores, UpdateContext
from sgpo.methods.registry import find_method, options_from
from sgpo.methods.terms import Thresholds
from sgpo.models.weights import load_policy
from sgpo.problems import Problem, problems_from
from sgpo.rewards import RewardFunction, column_names, math_reward
from sgpo.sampling.engines import check_engine, make_sampler
from sgpo.sampling.records import Sampler, SamplingConfig
from sgpo.sampling.weights import current_weights
from sgpo.tokenizers import pad_token_id
from sgpo.training import completions_table, step
from sgpo.training.alarms import Alarms
from sgpo.training.config import SGPOConfig
from sgpo.training.live_report import LiveReport
from sgpo.training.metrics import Logbook, append_line, group_metrics, sampler_mismatch
from sgpo.training.model_card import versions_of_training
from sgpo.training.preflight import METHOD_STATE, batch_sampler, check_kept_state, prepare_training, said_once
from sgpo.training.progress import EvaluateAtEnd
from sgpo.training.run import RunTrainer
from sgpo.training.seen import seen_by
from sgpo.training.start_table import print_start
from sgpo.training.teacher import FollowPolicy, frozen_copy, teacher_of
from sgpo.training.token_views import keep_views


class SGPOTrainer(RunTrainer):
    """Train a causal language model on problems with checkable answers, with strategies (arXiv:2606.24064).

    Args:
        model: a model, or the name or folder of a checkpoint.
        args: the configuration; its ``method`` decides what is sampled and optimised. It is left as it is: `self.args`
            has the sizes that fit the problems and the model, see `sgpo.sizes`. Default: ``SGPOConfig`` with
            the output folder ``MODEL-SGPO``.
        train_dataset: problems: a list of `Problem`, or a data set with the columns prompt, answer and strategy.
        eval_dataset: problems for avg@k without strategies, at the end unless ``args.eval_strategy`` is written.
        reward_funcs: functions of TRL's reward signature. Default: `math_reward`. Which of several says what is correct
            is ``args.correctness``.
        reward_weights: one for each reward function; default 1.
        processing_class: the tokenizer, if it is not that of the checkpoint. It needs a chat template.
        sampler: an engine that samples from the model being trained; default: that of ``args.sampler``.
        peft_config: a `peft.LoraConfig` or another adapter of weights: the model is frozen, and the adapter trained.
        **kwargs: further arguments of `transformers.Trainer` (callbacks, optimizers).

    Raises:
        ValueError: problems, tokenizer or configuration that cannot be trained with, all that is independent in one
            message, before the weights are loaded.
    """

    args: SGPOConfig
    shown: ClassVar = {"reward/autonomous": "reward", "reward/guided": "guided", "alpha": "alpha", "entropy": "entropy"}

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: SGPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        reward_funcs: RewardFunction | Sequence[RewardFunction] = math_reward,
        reward_weights: Sequence[float] | None = None,
        processing_class: Any = None,
        sampler: Sampler | None = None,
        peft_config: Any = None,
        **kwargs: Any,
    ) -> None:
        base_model = model if isinstance(model, str) else model.config._name_or_path
        args = args or SGPOConfig(output_dir=f"{Path(base_model).name}-SGPO")
        with said_once(args.process_index == 0):
            found = prepare_training(
                args,
                model,
                train_dataset,
                eval_dataset,
                reward_funcs,
                reward_weights,
                tokenizer=processing_class,
                peft_config=peft_config,
            )
        args = found.args
        if sampler is None:
            check_engine(args)
        super().__init__(
            load_policy(model, peft_config, args),
            args,
            data_collator=list,
            train_dataset=found.problems,
            eval_dataset=found.eval_problems,
            processing_class=found.tokenizer,
            **kwargs,
        )
        self._add_callbacks()
        add_head_task(self.model)
        self.layout = self._layout()
        self.method = find_method(args.method)
        self.options = options_from(self.method, args)
        self.method_state = {} if self.method.state is None else self.method.state(self.options)
        self.rewards = found.rewards
        self._reward_columns = column_names(found.problems or [])
        self.sampler = sampler or make_sampler(args, self.model, found.tokenizer, self.accelerator)
        self.thresholds = Thresholds.of(self.options)
        self.logbook = Logbook()
        self._longest_prompt = found.longest_prompt
        self._updates: list[step.Update] = []  # of the present rollout batch
        self._engine_norm = 0.0  # of the gradient with which DeepSpeed's engine took a step
        self.peft_config = peft_config
        self.seen = seen_by(base_model)
        self.begin_run(found.data, base_model, found.adapter, args.updates_per_rollout)
        # Now that the policy has the types that it is trained in: copies of it compute in the same.
        self.has_copies = self.method.copies(self.options) > 0
        self.reference = frozen_copy(self.model) if "reference" in self.method.uses else None
        self.teacher = teacher_of(self.model, self.method.teacher_rate(self.options))
        if self.teacher is not None:
            self.add_callback(FollowPolicy(self.teacher, args.updates_per_rollout))

    def _add_callbacks(self) -> None:
        """Alarms, an evaluation at the end, and the page of the run."""
        args = self.args
        self.add_callback(Alarms(args.max_completion_length, args.delta))
        if args.eval_at_end and args.eval_strategy == "no" and self.eval_dataset is not None:
            self.add_callback(EvaluateAtEnd())
        self.live_report = None
        if args.live_report and self.is_world_process_zero():
            self.live_report = LiveReport(args.output_dir, versions_of_training(self.model))
            self.add_callback(self.live_report)

    def _layout(self) -> BatchLayout:
        """How the rows of an update become micro-batches of this model."""
        args = self.args
        return BatchLayout(
            args.max_tokens_per_microbatch,
            pad_token_id(self.processing_class),
            packed=rows_are_packed(self.model, args.padding_free),
            # DeepSpeed divides a model that is given as a module only later, so that it has to be asked for here.
            share_prefixes=args.share_prefixes and not asks_for_deepspeed(args) and can_share_prefixes(self.model),
        )

    # One step

    def training_step(self, model: nn.Module, inputs: list[Problem], num_items_in_batch: Any = None) -> Tensor:
        """One update: the first of a rollout batch samples, verifies and decides for those after it too."""
        number = self.state.global_step % self.args.updates_per_rollout
        if number == 0:
            synchronised = self.logbook.timed("sample")
            with current_weights(self.sampler, model, synchronised):
                groups = self._answered(partial(self._sample, step.own_share(inputs, self.args.updates_per_rollout)))
                if self.method.waiting(self.options):
                    later = self._answered(partial(self._sample_after_verdict, groups), goes_on=True)
                    groups = step.joined(groups, later)
            with self.logbook.timed("assemble"):
                self._updates = self._decide(groups)
        update = self._updates[number]
        with self.logbook.timed("optimise"):
            loss = self._optimise(model, update)
        self.logbook.record(group_metrics(update.groups, update.decisions))
        return loss

    def _answered(self, sample: Callable[[], list[ProblemRollouts]], *, goes_on: bool = False) -> list[ProblemRollouts]:
        """Sampled and verified. Processes that hold one engine together may begin the next call together."""
        with distributed.together():
            alone = self.args.vllm_tensor_parallel_size == 1
            with self.logbook.timed("sample", goes_on=True), self.interrupt.may_leave(at_once=alone):
                groups = sample()
            with self.logbook.timed("verify", goes_on=goes_on):
                groups = self._verify(groups, goes_on=goes_on)
            self.interrupt.stop_if_requested()
        return groups

    def _sample(self, problems: Sequence[Problem]) -> list[ProblemRollouts]:
        return self._counted(
            step.sample_groups(
                problems,
                self.method,
                self.options,
                self.sampler,
                self.processing_class,
                self._sampling(),
                system_prompt=self.args.system_prompt,
                seed=self._sampling_seed(),
            )
        )

    def _sample_after_verdict(self, groups: Sequence[ProblemRollouts]) -> list[ProblemRollouts]:
        seed = self._sampling_seed(call=1)
        return self._counted(
            step.sample_after_verdict(groups, self.method, self.options, self.sampler, self._sampling(), seed=seed)
        )

    def _sampling(self) -> SamplingConfig:
        return SamplingConfig(self.args.max_completion_length, self.args.temperature, self.args.top_p)

    def _counted(self, groups: list[ProblemRollouts]) -> list[ProblemRollouts]:
        sampled = [rollout for group in groups for some in group.groups.values() for rollout in some]
        self.logbook.count_tokens("sample", sum(len(rollout.completion_ids) for rollout in sampled))
        return groups

    def _verify(self, groups: Sequence[ProblemRollouts], *, goes_on: bool = False) -> list[ProblemRollouts]:
        found, means = step.verify_groups(groups, self.rewards, self.processing_class, self._reward_columns, self.state)
        self.logbook.record(means, goes_on=goes_on)
        return found

    def _decide(self, groups: Sequence[ProblemRollouts]) -> list[step.Update]:
        context = UpdateContext(
            num_problems=self.args.problems_per_update,
            policy=partial(self._scores, self.model),
            state=self.method_state,
            total=distributed.total,
            tokenizer=self.processing_class,
            system_prompt=self.args.system_prompt,
            **({} if self.reference is None else {"reference": partial(self._scores, self.reference)}),
        )
        updates = step.decide_updates(groups, self.method, self.options, context, self.args.updates_per_rollout)
        check_state(self.method, self.method_state)  # now, rather than when the first checkpoint is due
        self.logbook.record(sampler_mismatch([row for update in updates for row in update.rows]))
        number = self.state.global_step
        if completions_table.is_due(number, self.args.completions_steps, self.args.updates_per_rollout):
            self._keep_completions(updates, number)
        return updates

    def _keep_completions(self, updates: Sequence[step.Update], number: int) -> None:
        folder, tokenizer = self.args.output_dir, self.processing_class
        rows = completions_table.keep(updates, tokenizer, folder, number)
        with self.compute_loss_context_manager():
            keep_views(updates, rows, self.model, tokenizer, folder, number, self.thresholds.delta)

    def _optimise(self, model: nn.Module, update: step.Update) -> Tensor:
        """Forward and backward over the micro-batches; returns the loss of the update, that of all processes."""
        if self.args.fsdp:
            sharding.check_sharded(model)
        found = accumulate_gradients(
            model,
            update.rows,
            self.layout,
            self.thresholds,
            teacher=self._teacher_model,
            backward=sharding.backward_of(model, self.accelerator),
            context=self.compute_loss_context_manager,
        )
        self._check_finite("the loss", found.loss, model)
        if sharding.is_engine(model):
            norm = sharding.take_step(model) if found.tokens else 0.0
            self._check_finite("the gradient", norm, model)
            self._engine_norm = norm
        self.logbook.record(Means.of(found.means))
        self.logbook.count_tokens("optimise", found.tokens)
        return torch.tensor(found.loss, device=self.args.device)

    # What a step needs

    def _scores(self, model: nn.Module, sequences: Sequence[tuple[list[int], list[int]]]) -> list[TokenScores]:
        """A scorer, once it has the policy or the reference."""
        with self.compute_loss_context_manager():
            return completion_scores(model, sequences, self.layout)

    @property
    def _teacher_model(self) -> Any:
        """On the fixed side of divergences; None: the policy itself."""
        return None if self.teacher is None else self.teacher.model

    def phase_seconds(self) -> dict[str, float]:
        return {phase: sum(seconds) for phase, seconds in self.logbook.seconds.items()}

    def _sampling_seed(self, call: int = 0) -> int:
        """Follows from the seed, the number of the rollout batch, that of the call in it, and the process alone."""
        rollout_batch = self.state.global_step // self.args.updates_per_rollout
        own = (self.args.seed * 1_000_003 + rollout_batch) * distributed.count() + distributed.rank()
        return own + call * 2**48

    def _check_finite(self, what: str, value: float | Tensor, model: nn.Module) -> None:
        """Stops, in all processes, before a gradient that is not a number reaches the weights."""
        if not not_finite.is_finite(value):
            number = self.state.global_step
            rows = self._updates[number % self.args.updates_per_rollout].rows
            context = self.compute_loss_context_manager
            found = not_finite.offenders(model, rows, self.layout, self.thresholds, context, self._teacher_model)
            not_finite.stop_run(what, number + 1, self.args.output_dir, found, self.processing_class)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Trainer calls this between the gradients and the step of the optimizer."""
        norm = self._engine_norm if sharding.is_engine(model) else super()._get_grad_norm(model, grad_norm=grad_norm)
        self._check_finite("the gradient", norm, model)
        if self.args.skip_grad_norm is not None:
            skipped = float(norm) > self.args.skip_grad_norm
            if skipped:
                model.zero_grad(set_to_none=True)  # with gradients of 0 the moments of AdamW would still move weights
            self.logbook.record(Means.of({"skipped_updates": float(skipped)}))
        return norm

    def get_train_dataloader(self) -> DataLoader:
        """Every process gets the whole rollout batch, and takes its own share of each update's problems."""
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset")
        sampler = batch_sampler(self.train_dataset, self.args)
        return DataLoader(self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator)

    def get_total_train_batch_size(self, args: Any) -> int:
        return self.args.problems_per_update

    # The state of the method

    def write_own_state(self, folder: Path) -> None:
        if self.method.state is not None:
            (folder / METHOD_STATE).write_text(json.dumps(self.method_state))
        if self.teacher is not None and not self.args.save_only_model:
            self.teacher.save(folder)

    def read_own_state(self, folder: Path) -> None:
        if self.method.state is not None:
            check_kept_state(folder, self.args)
            self.method_state.clear()
            self.method_state.update(json.loads((folder / METHOD_STATE).read_text()))
        if self.teacher is not None:
            self.teacher.load(folder)

    # Evaluation and logging

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """avg@k of the policy on the evaluation problems, without strategies."""
        problems = problems_from(eval_dataset) if eval_dataset is not None else self.eval_dataset
        if problems is None:
            raise ValueError("evaluation needs an eval_dataset")
        if len(problems) < distributed.count():
            raise ValueError(
                f"{len(problems)} evaluation problems are fewer than the {distributed.count()} processes; give more"
            )
        with current_weights(self.sampler, self.model_wrapped), distributed.together():
            own = evaluate(
                self.sampler,
                self.processing_class,
                distributed.share(problems),
                SamplingConfig(self.args.max_completion_length, self.args.eval_temperature, self.args.eval_top_p),
                k=self.args.eval_samples,
                seed=self.args.seed,  # samples follow from the problem's text: the same with any number of processes
                system_prompt=self.args.system_prompt,
                rewards=self.rewards,
                columns=column_names(problems),
                trainer_state=self.state,
            )
        result = Evaluation.joined(distributed.gather(own))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in result.metrics().items()}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what was measured since the last log, and appends a line to metrics.jsonl."""
        if "loss" in logs:
            logs |= self.logbook.take()
        super().log(logs, start_time)
        if self.is_world_process_zero():
            append_line(self.args.output_dir, self.state.log_history[-1])
        if self.live_report is not None and "loss" in logs:  # an evaluation and the end have a page in any case
            self.live_report.after_line()

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train, or go on from a checkpoint; metrics.jsonl is cut back to where the checkpoint was made."""
        self.logbook.clear()
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _init_training_state(self, max_steps: int, *arguments: Any) -> Any:
        """Trainer calls this when it knows how many updates there will be, and from which one it goes on."""
        found = super()._init_training_state(max_steps, *arguments)
        if self.is_world_process_zero():
            first = self.state.global_step
            evaluated = self.eval_dataset is not None
            print_start(self.args, self.train_dataset, self._longest_prompt, max_steps, first, self.model, evaluated)
        return found
