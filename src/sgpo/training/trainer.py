"""`SGPOTrainer`: transformers' Trainer with a training step of its own.

    problems -> sample -> verify -> assemble -> micro-batches -> weighted sum over tokens -> backward

Optimizer, schedule, checkpoints, resuming and callbacks are Trainer's. A rollout batch is sampled when its first update
begins and kept for the updates after it; each update optimises its own part of the problems.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from sgpo import distributed
from sgpo.engine import not_finite
from sgpo.engine.batching import BatchLayout, rows_are_packed
from sgpo.engine.update import accumulate_gradients, add_head_task, completion_logprobs
from sgpo.evaluation.evaluate import Evaluation, evaluate
from sgpo.means import Means
from sgpo.methods.records import ProblemRollouts, TrainingSequence, check_sequences, expert_rollout, with_importance
from sgpo.methods.registry import find_method
from sgpo.methods.terms import Thresholds
from sgpo.models.weights import load_policy
from sgpo.problems import Problem, problems_from
from sgpo.prompts import encode_prompts, guided_messages, student_messages
from sgpo.rewards import RewardFunction, column_names, math_reward, score
from sgpo.rewards.metrics import logged_metrics
from sgpo.rewards.rollouts import reward_batch, with_scores
from sgpo.sampling.engines import check_engine, make_sampler
from sgpo.sampling.records import Sampler, SampleRequest, SamplingConfig, decode
from sgpo.tokenizers import pad_token_id
from sgpo.training import completions
from sgpo.training.alarms import Alarms
from sgpo.training.config import SGPOConfig
from sgpo.training.metrics import Logbook, group_metrics, sampler_mismatch, verdict_metrics
from sgpo.training.preflight import batch_sampler, prepare_training, said_once
from sgpo.training.progress import EvaluateAtEnd
from sgpo.training.run import RunTrainer
from sgpo.training.start_table import print_start
from sgpo.verification import count_verdicts


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
        self.add_callback(Alarms(args.max_completion_length, args.delta))
        if args.eval_at_end and args.eval_strategy == "no" and found.eval_problems is not None:
            self.add_callback(EvaluateAtEnd())
        add_head_task(self.model)
        pad = pad_token_id(found.tokenizer)
        self.layout = BatchLayout(args.max_tokens_per_microbatch, pad, rows_are_packed(self.model, args.padding_free))
        self.method = find_method(args.method)
        self.rewards = found.rewards
        self._reward_columns = column_names(found.problems or [])
        self.sampler = sampler or make_sampler(args, self.model, found.tokenizer, self.accelerator)
        self.thresholds = Thresholds(args.eps_low, args.eps_high, args.delta)
        self.logbook = Logbook()
        self._longest_prompt = found.longest_prompt
        self._updates: list[list[TrainingSequence]] = []
        self._update_metrics: list[Means] = []
        self.peft_config = peft_config
        self.begin_run(found.data, base_model, found.adapter, args.updates_per_rollout)

    # One step

    def training_step(self, model: nn.Module, inputs: list[Problem], num_items_in_batch: Any = None) -> Tensor:
        """One update: the first of a rollout batch samples, verifies and assembles for those after it too."""
        update = self.state.global_step % self.args.updates_per_rollout
        if update == 0:
            with distributed.gathered(model), distributed.together():
                with self.logbook.timed("sample"), self.interrupt.may_leave():
                    groups = self._sample(self._own_share(inputs))
                with self.logbook.timed("verify"):
                    groups = self._verify(groups)
                self.interrupt.stop_if_requested()
            with self.logbook.timed("assemble"):
                self._assemble(groups)
        with self.logbook.timed("optimise"):
            loss = self._optimise(model, self._updates[update])
        self.logbook.record(self._update_metrics[update])
        return loss

    def _own_share(self, problems: Sequence[Problem]) -> list[Problem]:
        """This process's part of the problems of each update."""
        size = self.args.problems_per_update
        return [p for start in range(0, len(problems), size) for p in distributed.share(problems[start : start + size])]

    def _sample(self, problems: Sequence[Problem]) -> list[ProblemRollouts]:
        """Both groups of all problems in one call of the engine."""
        args, system = self.args, self.args.system_prompt
        prompts = encode_prompts(self.processing_class, [student_messages(p.prompt, system) for p in problems])
        guided = {p.id: guided_messages(p.prompt, p.strategy, system) for p in problems if p.strategy}
        guided_ids = dict(zip(guided, encode_prompts(self.processing_class, list(guided.values())), strict=True))
        sizes = [self.method.group_sizes(p, args) for p in problems]
        requests = [SampleRequest(ids, size) for ids, (size, _) in zip(prompts, sizes, strict=True)]
        requests += [SampleRequest(guided_ids[p.id], n) for p, (_, n) in zip(problems, sizes, strict=True) if n]
        sampling = SamplingConfig(args.max_completion_length, args.temperature, args.top_p)
        sampled = self.sampler.sample(requests, sampling, seed=self._sampling_seed())
        self.logbook.count_tokens("sample", sum(len(r.completion_ids) for group in sampled for r in group))
        rollouts = iter(sampled)
        autonomous = [next(rollouts) for _ in problems]
        experts = {p.id: expert_rollout(p, self.processing_class) for p in problems if "response" in self.method.uses}
        return [
            ProblemRollouts(p, ids, guided_ids.get(p.id), auto, next(rollouts) if size[1] else [], experts.get(p.id))
            for p, ids, auto, size in zip(problems, prompts, autonomous, sizes, strict=True)
        ]

    def _verify(self, groups: Sequence[ProblemRollouts]) -> list[ProblemRollouts]:
        """Give every rollout its reward, and whether it is correct; a truncated one gets 0, and is not."""
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        problems = [group.problem for group in groups for _ in group.rollouts]
        if not rollouts:  # of a process that has none; reward functions need not know of such
            self.logbook.record(Means())
            return list(groups)
        texts = decode(rollouts, self.processing_class)
        batch = reward_batch(rollouts, problems, texts, self._reward_columns, self.state)
        with count_verdicts() as verdicts:
            scores = score(self.rewards, batch, truncated=[rollout.truncated for rollout in rollouts])
        self.logbook.record(Means.joined([verdict_metrics(verdicts), logged_metrics(scores.metrics)]))
        judged = iter(with_scores(rollouts, scores))
        return [group.with_rollouts([next(judged) for _ in group.rollouts]) for group in groups]

    def _assemble(self, groups: Sequence[ProblemRollouts]) -> None:
        """The training sequences of each update of this rollout batch."""
        size, total = len(groups) // self.args.updates_per_rollout, self.args.problems_per_update
        parts = [groups[update * size : (update + 1) * size] for update in range(self.args.updates_per_rollout)]
        scorer = self._completion_logprobs
        assemblies = [self.method.assemble(part, scorer, self.args, num_problems=total) for part in parts]
        self._updates = [assembly.sequences for assembly in assemblies]
        for sequences in self._updates:
            check_sequences(sequences)
        self._update_metrics = [group_metrics(part, a) for part, a in zip(parts, assemblies, strict=True)]
        # The first update is made by the policy that sampled: its ratio is 1, and needs no second forward pass, unless
        # it is to be compared with what the sampler thought.
        first = 1 if self.args.importance_cap is None else 0
        self._updates[first:] = [self._with_old_logprobs(sequences) for sequences in self._updates[first:]]
        self.logbook.record(sampler_mismatch([row for rows in self._updates for row in rows]))
        step, every = self.state.global_step, self.args.completions_steps
        if completions.is_due(step, every, self.args.updates_per_rollout):
            completions.keep(parts, assemblies, self.processing_class, self.args.output_dir, step)

    def _optimise(self, model: nn.Module, sequences: Sequence[TrainingSequence]) -> Tensor:
        """Forward and backward over the micro-batches; returns the loss of the update, that of all processes."""
        if self.args.fsdp:
            distributed.check_sharded(model)
        self._model_of_update, self._sequences_of_update = model, sequences
        found = accumulate_gradients(
            model,
            sequences,
            self.layout,
            self.thresholds,
            backward=self.accelerator.backward,
            context=self.compute_loss_context_manager,
        )
        self._check_finite("the loss", found.loss)
        self.logbook.record(Means.of(found.means))
        self.logbook.count_tokens("optimise", found.tokens)
        return torch.tensor(found.loss, device=self.args.device)

    # What a step needs

    def _completion_logprobs(self, sequences: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
        with self.compute_loss_context_manager():
            return completion_logprobs(self.model, sequences, self.layout)

    def _with_old_logprobs(self, sequences: Sequence[TrainingSequence]) -> list[TrainingSequence]:
        """Sequences of a later update: pi_old is the policy before the first, recomputed by the training engine."""
        rows = [row for row in sequences if row.contributes]
        asked = [row for row in rows if row.lacks_old_logprobs]
        found = iter(self._completion_logprobs([(row.prompt_ids, row.completion_ids) for row in asked]))
        scored = [replace(row, old_logprobs=next(found)) if row.lacks_old_logprobs else row for row in rows]
        cap = self.args.importance_cap
        return scored if cap is None else [with_importance(row, cap) for row in scored]

    def _sampling_seed(self) -> int:
        """Follows from the seed, the number of the rollout batch and the process alone."""
        rollout_batch = self.state.global_step // self.args.updates_per_rollout
        return (self.args.seed * 1_000_003 + rollout_batch) * distributed.count() + distributed.rank()

    def _check_finite(self, what: str, value: float | Tensor) -> None:
        """Stops, in all processes, before a gradient that is not a number reaches the weights."""
        if not not_finite.is_finite(value):
            rows = not_finite.offenders(
                self._model_of_update,
                self._sequences_of_update,
                self.layout,
                self.thresholds,
                self.compute_loss_context_manager,
            )
            step = self.state.global_step + 1
            not_finite.stop_run(what, step, self.args.output_dir, rows, self.processing_class)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Trainer calls this between the gradients and the step of the optimizer."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._check_finite("the gradient", norm)
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
        with distributed.gathered(self.model_wrapped), distributed.together():
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
            path = Path(self.args.output_dir) / "metrics.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(json.dumps(self.state.log_history[-1]) + "\n")

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
