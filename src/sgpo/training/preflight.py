"""What is refused, or left out and said, before the weights of a model are loaded."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel
from transformers.trainer_utils import IntervalStrategy

from sgpo.chat_templates import fit_template
from sgpo.errors import Refusals
from sgpo.layouts import asks_for_deepspeed
from sgpo.methods.method import Method
from sgpo.methods.records import response_ids
from sgpo.methods.registry import find_method, options_from
from sgpo.models.adapters import adapter_of, has_adapter
from sgpo.models.checkpoint import Opened, check_model, count_parameters, open_checkpoint, say_loading
from sgpo.models.precision import fitted_to_types
from sgpo.problems import Problem, problems_from
from sgpo.problems.inspection import (
    STRUCTURE,
    BadRowsError,
    RowCheck,
    describe_problems,
    inspect,
    too_long,
    unparsed_golds,
)
from sgpo.prompts import AUTONOMOUS, PROMPTS, PromptOf
from sgpo.rewards import RewardFunction, Rewards, check_signatures, choose_rewards, column_names
from sgpo.runs.folder import check_space
from sgpo.runs.resume import check_same_run
from sgpo.sizes import fitted_to_context, fitted_to_problems
from sgpo.tokenizers import PromptLengths
from sgpo.training.batches import RolloutBatchSampler
from sgpo.training.config import SGPOConfig
from sgpo.training.push import check_push
from sgpo.training.run import run_of
from sgpo.training.seen import seen_by, seen_problems
from sgpo.training.trackers import check_trackers

TRAINING, EVALUATION = "training problems", "evaluation problems"
METHOD_STATE, TEACHER = "method_state.json", "teacher.safetensors"  # in a checkpoint


UNREADABLE: Any = object()  # in place of something whose reading was refused already


@dataclass(frozen=True)
class Prepared:
    """What a run was found to consist of."""

    args: SGPOConfig  # with sizes that fit the problems and the model
    tokenizer: Any
    problems: list[Problem] | None
    eval_problems: list[Problem] | None
    data: dict[str, Any]  # what data.json holds
    rewards: Rewards
    longest_prompt: int  # tokens, guided or not, of the training problems; 0 without any
    adapter: Any = None  # `peft.PeftConfig` of what is trained, if that is an adapter


def prepare_training(
    args: SGPOConfig,
    model: str | PreTrainedModel,
    train_dataset: Any,
    eval_dataset: Any,
    reward_funcs: RewardFunction | Sequence[RewardFunction],
    reward_weights: Sequence[float] | None,
    tokenizer: Any,
    peft_config: Any = None,
    refusals: Refusals | None = None,
) -> Prepared:
    """Check all that the constructor of `SGPOTrainer` was given.

    Args:
        train_dataset: problems in any form, or None; it, `eval_dataset` and `reward_funcs` may be `UNREADABLE`.
        refusals: what was refused before, to be said in one message with what is refused here.

    Raises:
        ValueError: what cannot be trained with, all that is independent in one; the message says what to write instead.
    """
    refusals = Refusals() if refusals is None else refusals
    rewards = None
    if reward_funcs is not UNREADABLE:
        with refusals.collected():
            rewards = choose_rewards(reward_funcs, reward_weights, args.correctness)
    if args.eval_strategy != "no" and eval_dataset is None:
        strategy = IntervalStrategy(args.eval_strategy).value
        refusals.add([f"eval_strategy {strategy} needs eval_problems; give some, or leave it out"])
    with refusals.collected():
        check_trackers(args.report_to)
    with refusals.collected():
        check_push(args)
    opened = open_model(model, tokenizer, args, refusals)
    adapter, saved = trained_part(model, peft_config, opened, refusals)
    if opened.config is not None:
        args = fitted_to_types(args, opened.config)
    if (context := _context(args, opened)) is not None:
        args = fitted_to_context(args, *context)
    data: dict[str, Any] = {"train": None, "eval": None}
    problems, eval_problems = _rows(train_dataset, refusals), _rows(eval_dataset, refusals)
    longest, golds = 0, rewards is not None and rewards.ask_verifier
    if problems is not None:
        with refusals.collected():
            seen = seen_by(model) if isinstance(model, str) and args.seen_problems == "refuse" else frozenset()
            learnt = {"learnt in the warm-up": seen_problems(seen, str(model))} if seen else {}
            args, problems, longest = check_training(args, opened, problems, learnt, golds=golds)
            data["train"] = said_data(TRAINING, problems)
            if saved is not None:
                check_room(args, saved, len(batch_sampler(problems, args)), copies=int(keeps_moving_teacher(args)))
    if eval_problems is not None:
        with refusals.collected():
            eval_problems = check_evaluation(args, opened, eval_problems, golds=golds)
            data["eval"] = said_data(EVALUATION, eval_problems)
    with refusals.collected():  # most often both data sets have the same columns: said of one
        for name, some in ((TRAINING, problems), (EVALUATION, eval_problems)):
            if some is not None and rewards is not None:
                check_signatures(rewards, column_names(some), name)
    if args.resume_from_checkpoint:
        with refusals.collected():
            check_resumed(args.resume_from_checkpoint, args, data, adapter)
            check_kept_state(Path(args.resume_from_checkpoint), args)
    refusals.refuse()
    assert rewards is not None  # or it was refused
    if isinstance(model, str):
        say_loading(model, opened.config)
    return Prepared(args, opened.tokenizer, problems, eval_problems, data, rewards, longest, adapter)


def _rows(data: Any, refusals: Refusals) -> list[Problem] | None:
    """The problems as they are: which of them cannot be used is decided together with the tokenizer and the model."""
    if data is not None and data is not UNREADABLE:
        with refusals.collected():
            return problems_from(data, bad_rows="keep")
    return None


def open_model(model: str | PreTrainedModel, tokenizer: Any, args: Any, refusals: Refusals) -> Opened:
    """What can be known of a model before its weights are loaded; a given tokenizer stands for its own.

    Args:
        args: `SGPOConfig` or `WarmupConfig`; the tokenizer gets its pad token, and the chat template that it asks for.
    """
    config = None if isinstance(model, str) else model.config
    with refusals.collected():
        if isinstance(model, str):
            config, tokenizer = open_checkpoint(model, tokenizer)
        else:
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(model.config._name_or_path)
        with refusals.collected():
            check_model(config, tokenizer, args.pad_token)
        with refusals.collected():
            for said in fit_template(tokenizer, args.chat_template_kwargs, args.system_prompt):
                print(said)
        return Opened(config, tokenizer)
    return Opened(config)


def _context(args: SGPOConfig, opened: Opened) -> tuple[int, str] | None:
    """Tokens of prompt and completion together, and what limits them; None where nothing does."""
    limits = {"the model's context": opened.context}
    if args.sampler == "vllm":
        limits["vllm_max_model_length"] = args.vllm_max_model_length
    return min(((limit, name) for name, limit in limits.items() if limit is not None), default=None)


def trained_part(model: str | PreTrainedModel, peft_config: Any, opened: Opened, refusals: Refusals) -> tuple[Any, Any]:
    """The configuration of the adapter that is trained, None without one; and the number of parameters that are saved.

    The number is None where it is not known.
    """
    if opened.config is None:
        return None, None
    with refusals.collected():
        adapter = adapter_of(model, peft_config)
        if isinstance(model, str) or (adapter is not None and not has_adapter(model)):
            return adapter, count_parameters(opened.config, adapter)
        return adapter, model.num_parameters(only_trainable=adapter is not None)
    return None, None


def check_resumed(checkpoint: str | Path, args: Any, data: dict[str, Any], adapter: Any = None) -> None:
    """Raises ValueError for the checkpoint of another run."""
    check_same_run(checkpoint, run_of(args, data, adapter))


def keeps_moving_teacher(args: SGPOConfig) -> bool:
    """Whether checkpoints hold a teacher that is neither the policy before training nor the present one."""
    method = find_method(args.method)
    return 0 < method.teacher_rate(options_from(method, args)) < 1


def check_kept_state(checkpoint: Path, args: SGPOConfig) -> None:
    """Raises ValueError for a checkpoint from before the method had a state, or a teacher that moves."""
    method = find_method(args.method)
    if keeps_moving_teacher(args) and not (checkpoint / TEACHER).exists():
        raise ValueError(
            f"{checkpoint} has no {TEACHER}: it was written when the teacher of {args.method} was the present policy; "
            f"set {args.method}_teacher_update_rate: 1, or begin a new run with it as the model"
        )
    if method.state is not None and not (checkpoint / METHOD_STATE).exists():
        raise ValueError(
            f"{checkpoint} has no {METHOD_STATE}: it was written when the method {args.method} had no state yet; begin "
            "a new run with it as the model"
        )


@contextlib.contextmanager
def said_once(main: bool) -> Iterator[None]:
    """What several processes find alike is printed by one of them."""
    with contextlib.nullcontext() if main else contextlib.redirect_stdout(io.StringIO()):
        yield


def check_training(
    args: SGPOConfig, opened: Opened, problems: Sequence[Problem], own_checks: Mapping[str, RowCheck], *, golds: bool
) -> tuple[SGPOConfig, list[Problem], int]:
    """The configuration with sizes that fit, the problems to train on, and the tokens of their longest prompt.

    Args:
        own_checks: of rows, beside those of all training.
        golds: whether the verifier has to parse the answers.

    Raises:
        ValueError: what cannot be trained with, all that is independent in one; the message says what to write instead.
    """
    refusals = Refusals()
    method = find_method(args.method)
    lengths = _lengths(args, opened, method.all_prompts)
    checks = _checks(args, opened.context, problems, lengths, golds, refusals) | dict(own_checks)
    if method.has_experts and opened.tokenizer is not None:
        room = args.max_completion_length
        checks["response too long"] = too_long(
            _response_lengths(method, opened.tokenizer), room, "max_completion_length"
        )
    found, usable = list(problems), None
    try:
        found = inspect(problems, TRAINING, args.bad_rows, checks)
    except BadRowsError as error:  # whoever mends these rows has them all
        refusals.add([str(error)])
        usable = error.usable
        if not usable:
            refusals.refuse()
    with refusals.collected():
        found = check_strategies(found, args)
    with refusals.collected():
        check_responses(found, args)
    with refusals.collected():
        check_prompts(found, args)
    with refusals.collected():
        options = options_from(method, args)
        if (args.fsdp or asks_for_deepspeed(args)) and method.copies(options):
            kept = "its reference, or a teacher whose update rate is not 1"
            text = f"method {args.method} keeps a copy of the policy ({kept}), which is not divided"
            refusals.add([f"{text}: leave fsdp, deepspeed out"])
        method.waiting(options)
        for problem in found:
            method.sample_counts(problem, options)
    args = fitted_to_problems(args, len(found))
    with refusals.collected():
        batch_sampler(found, args)  # refuses too few problems
    longest = 0 if lengths is None else max(lengths(found if usable is None else usable), default=0)
    refusals.add(_refusals_of_budgets(args, longest))
    refusals.refuse()
    return args, found, longest


def check_evaluation(args: SGPOConfig, opened: Opened, problems: Sequence[Problem], *, golds: bool) -> list[Problem]:
    """The problems of avg@k during training, as `check_training`."""
    refusals = Refusals()
    lengths = _lengths(args, opened, {AUTONOMOUS: PROMPTS[AUTONOMOUS]})
    checks = _checks(args, opened.context, problems, lengths, golds, refusals)
    found = list(problems)
    with refusals.collected():
        found = inspect(problems, EVALUATION, args.bad_rows, checks)
    refusals.refuse()
    return found


def _lengths(args: SGPOConfig, opened: Opened, prompts: Mapping[str, PromptOf]) -> PromptLengths | None:
    return PromptLengths(opened.tokenizer, args.system_prompt, prompts) if opened.makes_prompts else None


def _checks(
    args: SGPOConfig,
    positions: int | None,
    problems: Sequence[Problem],
    lengths: PromptLengths | None,
    golds: bool,
    refusals: Refusals,
) -> dict[str, RowCheck]:
    checks = dict(STRUCTURE)
    if golds:
        checks["gold not parsed"] = unparsed_golds
    if positions is not None and lengths is not None:
        with refusals.collected():
            check_context(positions, args.max_completion_length, min(lengths(problems), default=1))
            asked = f"max_completion_length {args.max_completion_length} of {positions} positions"
            checks["prompt too long"] = too_long(lengths, positions - args.max_completion_length, asked)
    return checks


def check_context(positions: int, max_completion_length: int, shortest: int) -> None:
    """Refuse a context into which not even the shortest prompt fits beside a completion; all in tokens."""
    if shortest + max_completion_length > positions:
        raise ValueError(
            f"the model's context of {positions} tokens is too short: max_completion_length {max_completion_length} "
            f"and the shortest prompt, {shortest} tokens, exceed it; lower max_completion_length, or take a model with "
            "a longer context"
        )


def check_strategies(problems: list[Problem], args: SGPOConfig) -> list[Problem]:
    """The problems to train on; says how many have a strategy where the method uses it."""
    if "strategy" not in find_method(args.method).uses:
        return problems
    with_strategy = [problem for problem in problems if problem.strategy]
    said = f"{len(with_strategy)} of {len(problems)} problems have a strategy."
    if len(with_strategy) < len(problems):
        total = args.num_autonomous + args.num_guided
        said += (
            " The others are left out (without_strategy: drop)."
            if args.without_strategy == "drop"
            else f" The others get {total} autonomous samples and alpha 0 (without_strategy: autonomous)."
        )
    print(said)
    if not with_strategy:
        raise ValueError(
            f"method {args.method} needs strategies, and no problem has one; fill the column 'strategy', or use "
            "method: grpo"
        )
    return with_strategy if args.without_strategy == "drop" else problems


def check_responses(problems: Sequence[Problem], args: SGPOConfig) -> None:
    """Says how many problems have a strong model's response where the method learns from it; refuses none."""
    if not find_method(args.method).has_experts:
        return
    having = sum(bool(problem.responses) for problem in problems)
    others = "" if having == len(problems) else " The others are trained on without an expert."
    print(f"{having} of {len(problems)} problems have a response of a strong model.{others}")
    if not having:
        raise ValueError(
            f"method {args.method} learns from strong-model responses, and no problem has one; fill the column "
            "'response', or name the column that holds it"
        )


def check_prompts(problems: Sequence[Problem], args: SGPOConfig) -> None:
    """Says how many problems have each of the prompts that the method has for itself; refuses if none has any."""
    prompts = find_method(args.method).prompts
    having = {name: sum(prompt(each, None) is not None for each in problems) for name, prompt in prompts.items()}
    for name, count in having.items():
        print(f"{count} of {len(problems)} problems have the prompt {name}.")
    if having and not any(having.values()):
        raise ValueError(
            f"method {args.method} needs a prompt of its own ({', '.join(having)}), and no problem has one; fill the "
            "columns that it is made of, such as 'response' or 'strategy', or name those that hold them"
        )


def _response_lengths(method: Method, tokenizer: Any) -> Callable[[Sequence[Problem]], list[int]]:
    """Tokens of each problem's longest response that the method learns from, as a completion; 0 without any."""

    def lengths(problems: Sequence[Problem]) -> list[int]:
        solutions = [method.solutions_of(problem) for problem in problems]
        return [max((len(response_ids(each, tokenizer)) for each in some), default=0) for some in solutions]

    return lengths


def batch_sampler(problems: Sequence[Problem], args: SGPOConfig) -> RolloutBatchSampler:
    seed = args.data_seed if args.data_seed is not None else args.seed
    return RolloutBatchSampler(len(problems), args.problems_per_rollout, args.updates_per_rollout, seed)


def _refusals_of_budgets(args: SGPOConfig, longest_prompt: int) -> Iterator[str]:
    """A row of the longest prompt and completion must fit: what is longer would break the bound on memory."""
    needed = longest_prompt + args.max_completion_length
    of_sampler = "sampler_batch_tokens" if args.sampler == "transformers" else "vllm_max_model_length"
    for name in ("max_tokens_per_microbatch", of_sampler):
        if getattr(args, name) is not None and getattr(args, name) < needed:
            yield (
                f"{name} ({getattr(args, name)}) is below the longest prompt, {longest_prompt} tokens, and "
                f"max_completion_length ({args.max_completion_length}) together; set it to {needed} or more, or lower "
                "max_completion_length"
            )


def check_room(args: Any, parameters: int, updates_per_epoch: int, copies: int = 0) -> None:
    """Refuse an output_dir without room for the checkpoints that `args` asks for; one at least, that of Ctrl-C.

    Args: copies: of the trained weights, in each checkpoint beside them.
    """
    updates = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * updates_per_epoch)
    every = {"epoch": updates_per_epoch, "steps": args.save_steps, "best": args.eval_steps}
    # A share of the run counts as steps that are below 1.
    between = every.get(args.save_strategy.value) or updates
    saved = math.ceil(1 / between if between < 1 else updates / between)
    if args.save_total_limit is not None:
        saved = min(saved, args.save_total_limit + 1)  # the new one is written before the oldest is deleted
    check_space(args.output_dir, parameters, max(saved, 1), copies, weights_alone=args.save_only_model)


def said_data(name: str, problems: Sequence[Problem]) -> dict[str, Any]:
    """The entry of data.json, whose numbers are printed."""
    entry = describe_problems(problems)
    print(f"{name}: {entry['problems']}, fingerprint {entry['fingerprint']}")
    return entry
