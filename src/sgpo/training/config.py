"""The configuration of a training run: transformers' TrainingArguments and what the method adds.

Defaults are those of the paper (arXiv:2606.24064, section 4 and Appendix E). What cannot work is refused before a model
is loaded, with what to write instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from transformers import SchedulerType, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from sgpo.errors import Refusals
from sgpo.layouts import refusals_of_deepspeed, refusals_of_parallelism
from sgpo.methods.ampo import AMPOOptions
from sgpo.methods.hpt import HPTOptions
from sgpo.methods.luffy import LUFFYOptions
from sgpo.methods.opsd import OPSDOptions
from sgpo.methods.registry import DEFAULTS, check_method_options, find_method, names_of
from sgpo.methods.scaf_grpo import ScafGRPOOptions
from sgpo.methods.sdpo import SDPOOptions
from sgpo.methods.sgpo import SGPOOptions
from sgpo.methods.srft import SRFTOptions
from sgpo.models.precision import refusals_of_precision
from sgpo.sampling.engines import EngineArguments
from sgpo.training.arguments import (
    CorrectnessArguments,
    EvaluationArguments,
    FixedArguments,
    MethodArguments,
    PythonArguments,
    RunArguments,
    SamplingArguments,
    SeenArguments,
    TrainArguments,
    UpdateArguments,
    follow_checkpointing,
    refusals_of_choices,
)
from sgpo.training.seen import SEEN

CHOICES = {"eval_strategy": [*IntervalStrategy], "lr_scheduler_type": [*SchedulerType]}


@dataclass
class SGPOConfig(
    MethodArguments,
    PythonArguments,
    SGPOOptions,
    LUFFYOptions,
    HPTOptions,
    SRFTOptions,
    AMPOOptions,
    OPSDOptions,
    SDPOOptions,
    ScafGRPOOptions,
    SeenArguments,
    SamplingArguments,
    EngineArguments,
    CorrectnessArguments,
    UpdateArguments,
    EvaluationArguments,
    FixedArguments,
    RunArguments,
    TrainingArguments,
):
    """Arguments of `SGPOTrainer`.

    One *rollout batch* of ``problems_per_rollout`` problems is sampled, verified and cut into ``updates_per_rollout``
    parts; each part is one optimizer update. ``max_steps``, ``save_steps`` and ``logging_steps`` count updates.

    The options of all methods stand side by side; those of the chosen one are used, and another's are refused unless
    they have their default. Options that only a method of the user's own has are in ``method_options``.

    Raises:
        ValueError: an unknown method, options that it does not know, or values that cannot work or exclude each other,
            all of them in one message.
    """

    def __post_init__(self) -> None:
        refusals = Refusals()
        for check in (self.check_options, self.check_run_arguments, self.check_engine_arguments):
            with refusals.collected():
                check()
        refusals.add(self._refusals_of_values())
        refusals.add(self._refusals_of_rollout_batch())
        refusals.add(refusals_of_precision(self))
        parallel = [*refusals_of_parallelism(self), *refusals_of_deepspeed(self)]
        refusals.add(parallel)
        if self.eval_at_end is None:
            self.eval_at_end = self.eval_strategy is None
        self.eval_strategy = self.eval_strategy or "no"
        refusals.add(refusals_of_choices(self, CHOICES))
        if self.metric_for_best_model is None and (self.save_strategy == "best" or self.load_best_model_at_end):
            self.metric_for_best_model, self.greater_is_better = f"avg_at_{self.eval_samples}", True
        if parallel:
            refusals.refuse()  # before transformers starts what is refused
        if self.updates_per_rollout > 0:  # what transformers calls the batch of one update
            self.per_device_train_batch_size = self.problems_per_update
        with refusals.collected():
            super().__post_init__()
        refusals.refuse()
        follow_checkpointing(self)
        if self.n_gpu > 1:
            raise ValueError(
                f"one process sees {self.n_gpu} devices, and each process trains on one: start as many processes, with "
                f"torchrun --nproc_per_node {self.n_gpu} -m sgpo train ..., or set CUDA_VISIBLE_DEVICES to one device"
            )

    def check_options(self) -> None:
        """Raises ValueError for options that the method does not know or refuses."""
        arguments = {each.name for kind in (self, TrainArguments) for each in fields(kind)}
        check_method_options(self.method, self, arguments - DEFAULTS.keys())

    @property
    def not_written(self) -> set[str]:
        """What no configuration file holds: it follows from the rest, is another method's, or has keys of its own."""
        known = names_of(find_method(self.method))
        return {"per_device_train_batch_size", "method_options", *(name for name in DEFAULTS if name not in known)}

    @property
    def problems_per_update(self) -> int:
        """Of all processes together."""
        return self.problems_per_rollout // self.updates_per_rollout

    def _refusals_of_rollout_batch(self) -> Iterator[str]:
        problems, updates = self.problems_per_rollout, self.updates_per_rollout
        if self.gradient_accumulation_steps != 1:
            yield (
                "gradient_accumulation_steps must be 1: an update already accumulates over its micro-batches; set "
                "problems_per_rollout and max_tokens_per_microbatch instead"
            )
        if updates < 1 or problems < 1 or problems % updates:
            yield (
                f"problems_per_rollout ({problems}) must be a multiple of updates_per_rollout ({updates}): each update "
                "takes an equal part of the rollout batch"
            )
        elif self.per_device_train_batch_size not in (0, self.problems_per_update):
            yield (
                f"per_device_train_batch_size ({self.per_device_train_batch_size}) follows from problems_per_rollout / "
                f"updates_per_rollout ({self.problems_per_update}): leave it out and set those"
            )
        if updates < 1:
            return
        if self.save_strategy == "steps" and (self.save_steps < 1 or self.save_steps % updates):
            yield (
                f"save_steps ({self.save_steps}) must be a multiple of updates_per_rollout ({updates}): a checkpoint "
                "stands between two rollout batches"
            )
        if self.save_strategy == "best" and (self.eval_steps is None or self.eval_steps % updates):
            yield (
                f"with save_strategy best, eval_steps ({self.eval_steps}) must be a multiple of updates_per_rollout "
                f"({updates}): a checkpoint stands between two rollout batches"
            )
        if self.max_steps > 0 and self.max_steps % updates:
            yield (
                f"max_steps ({self.max_steps}) must be a multiple of updates_per_rollout ({updates}): a run ends, and "
                "may be resumed, between two rollout batches"
            )

    def _refusals_of_values(self) -> Iterator[str]:
        if self.seen_problems not in SEEN:
            yield f"seen_problems is {self.seen_problems!r}; choose one of {', '.join(SEEN)}"
        for name in ("max_completion_length", "eval_samples"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; it must be at least 1"
        if self.skip_grad_norm is not None and self.skip_grad_norm <= 0:
            yield f"skip_grad_norm is {self.skip_grad_norm}; it must be positive, or left out"
        if self.completions_steps < 0:
            yield f"completions_steps is {self.completions_steps}; it must be positive, or 0 for no tables"
        for name in ("ddp_find_unused_parameters", "ddp_broadcast_buffers"):
            if getattr(self, name):
                yield f"{name} must be false: processes with fewer forward passes would hang; leave it out"
        for name in ("top_p", "eval_top_p"):
            if not 0 < getattr(self, name) <= 1:
                yield f"{name} is {getattr(self, name)}; it must be above 0 and at most 1 (1: no filter)"
        if self.temperature <= 0:
            yield (
                f"temperature is {self.temperature}; it must be positive: without chance all completions of a group "
                "are equal, and nothing is learnt"
            )
        if self.eval_temperature < 0:
            yield f"eval_temperature is {self.eval_temperature}; it must be positive, or 0 for greedy"
