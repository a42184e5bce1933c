"""What is asked for in veRL's configuration, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sgpo.errors import Refusals
from sgpo.methods.method import Method
from sgpo.methods.options import MethodOptions
from sgpo.methods.registry import METHODS

SUPPORTED = ("sgpo", "grpo")
NO_OPTIONS = ("method", "rows_dir", "stall_minutes")  # of the section `sgpo`
ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"


@dataclass(frozen=True)
class Chosen:
    """The method of a run. Example: ``chosen({"method": "sgpo", "delta": 1.0}).options.delta == 1.0``"""

    method: Method
    options: Any  # of the method


def chosen(section: Mapping[str, Any]) -> Chosen:
    """The method and its options, from the section `sgpo` of a configuration.

    The lengths are veRL's (`data.max_response_length`), so they are no options here. The section holds those of all
    methods; one that the method does not have stands at its default.

    Raises:
        ValueError: another method, an unknown option, or a value that the method refuses.
    """
    name = section.get("method", "sgpo")
    if name not in SUPPORTED:
        raise ValueError(
            f"sgpo.method is {name!r}; on veRL there are {' and '.join(SUPPORTED)}. For the others there is `sgpo "
            "train` (docs/scaling.md)"
        )
    known = {each.name: each.default for some in SUPPORTED for each in fields(METHODS[some].options)}
    given = {key: value for key, value in section.items() if key not in NO_OPTIONS}
    if unknown := sorted(set(given) - set(known) | set(given) & {"max_completion_length"}):
        raise ValueError(f"sgpo.{unknown[0]} is no option here; they are {', '.join(sorted(known))}")
    method = METHODS[name]
    own = {each.name for each in fields(method.options)}
    refusals = Refusals()
    refusals.add(
        f"sgpo.{key} is no option of {name}: leave it at {known[key]}"
        for key, value in given.items()
        if key not in own and value != known[key]
    )
    options: MethodOptions = method.options(**{key: value for key, value in given.items() if key in own})
    refusals.add(f"sgpo: {each}" for each in options.refusals())
    if getattr(options, "without_strategy", "autonomous") == "drop":
        refusals.add(["sgpo.without_strategy: drop is not for veRL: leave such problems out of data.train_files"])
    if method.after_failure(options):
        refusals.add(["sgpo.guidance: after_failure is not for veRL, which samples once a step: leave it at always"])
    refusals.refuse()
    return Chosen(method, options)


def updates_per_rollout(config: Mapping[str, Any]) -> int:
    """Mini-batches of a rollout batch, each of as many problems.

    Raises ValueError for sizes that do not divide.
    """
    problems, of_update = _get(config, "data.train_batch_size"), _get(config, f"{ACTOR}.ppo_mini_batch_size")
    if not of_update or problems % of_update:
        raise ValueError(
            f"data.train_batch_size ({problems}) must be a multiple of {ACTOR}.ppo_mini_batch_size ({of_update}): both "
            "count problems, and the updates of a rollout batch have as many each"
        )
    return problems // of_update


def check_config(config: Mapping[str, Any]) -> Chosen:
    """Refuse what the plug-in does not do, all in one message.

    Args:
        config: veRL's configuration with the section `sgpo`, as nested mappings.

    Raises ValueError.
    """
    refusals = Refusals()
    found: list[Chosen] = []
    with refusals.collected():
        found.append(chosen(config["sgpo"]))
    with refusals.collected():
        updates_per_rollout(config)
    refusals.add(_refused(config))
    if found:
        refusals.add(_wrong_n(config, found[0].options.num_samples))
    refusals.refuse()
    return found[0]


def _wrong_n(config: Mapping[str, Any], samples: int) -> Iterator[str]:
    given = _get(config, f"{ROLLOUT}.n")
    if given not in (None, samples):
        yield (
            f"{ROLLOUT}.n is {given}, and sgpo.num_autonomous + sgpo.num_guided is {samples}: leave n out, it follows"
        )


def _above(limit: float) -> Callable[[Any], bool]:
    return lambda value: value is not None and value > limit


def _true(value: Any) -> bool:
    return bool(value)


# Where something may stand, when it is refused, and why.
REFUSED: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    (
        f"{ACTOR}.strategy",
        lambda value: value != "fsdp2",
        "the plug-in has an engine for fsdp2 alone, not for Megatron",
    ),
    (f"{MODEL}.use_fused_kernels", _true, "the loss has a projection of its own in place of fused kernels"),
    (
        f"{ACTOR}.ulysses_sequence_parallel_size",
        _above(1),
        "Ulysses: a divergence needs whole sequences in one process",
    ),
    (f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size", _above(1), "Ulysses: whole sequences in one process"),
    (f"{ROLLOUT}.tensor_model_parallel_size", _above(1), "tensor parallelism was never tried"),
    (f"{ROLLOUT}.pipeline_model_parallel_size", _above(1), "pipeline parallelism was never tried"),
    (f"{ROLLOUT}.temperature", lambda value: value != 1, "every probability of the loss is at temperature 1"),
    (f"{ROLLOUT}.name", lambda value: value != "vllm", "completions come from vLLM"),
    (f"{ROLLOUT}.multi_turn.enable", _true, "a completion is one turn"),
    (f"{ROLLOUT}.calculate_log_probs", lambda value: not value, "the difference to the sampler is logged"),
    (f"{ACTOR}.use_dynamic_bsz", lambda value: not value, "micro-batches are cut by tokens"),
    (f"{ACTOR}.ppo_epochs", _above(1), "each completion is in one update"),
    (f"{ACTOR}.shuffle", _true, "the problems of an update are fixed with its weights"),
    (f"{ACTOR}.use_kl_loss", _true, "the loss has no KL to a reference policy"),
    (f"{ACTOR}.entropy_coeff", _true, "the loss has no entropy bonus"),
    (f"{ACTOR}.fsdp_config.offload_policy", _true, "use param_offload and optimizer_offload"),
    (f"{ACTOR}.fsdp_config.qat.enable", _true, "quantization-aware training was never tried"),
    (f"{ACTOR}.fsdp_config.mixed_precision.param_dtype", lambda value: value in ("fp16", "float16"), "use bf16"),
    (f"{MODEL}.lora_rank", _above(0), "adapters are not trained on veRL; `sgpo train` does it (docs/lora.md)"),
    (f"{MODEL}.lora.rank", _above(0), "adapters are not trained on veRL; `sgpo train` does it (docs/lora.md)"),
    (f"{MODEL}.use_liger", _true, "Liger kernels were never tried"),
    ("algorithm.adv_estimator", lambda value: value != "grpo", "the advantages are the method's, without a critic"),
    ("algorithm.use_kl_in_reward", _true, "the loss has no KL to a reference policy"),
    ("algorithm.filter_groups.enable", _true, "groups of equal rewards stay in the batch: they may have a target"),
    ("algorithm.rollout_correction.rollout_is", _true, "write sgpo.importance_cap"),
    ("algorithm.rollout_correction.rollout_rs", _true, "write sgpo.importance_cap"),
    ("algorithm.rollout_correction.bypass_mode", _true, "the old policy is recomputed"),
    ("distillation.enabled", _true, "veRL's distillation has a model of its own as teacher"),
    ("trainer.use_v1", lambda value: not value, "veRL's older trainer has other hooks"),
    ("trainer.v1.trainer_mode", lambda value: value != "sgpo", "sampling and updates take turns, as in veRL's sync"),
    ("trainer.critic_warmup", _above(0), "there is no critic"),
    ("reward.reward_model.enable", _true, "rewards come from a function: reward.custom_reward_function"),
)


def _refused(config: Mapping[str, Any]) -> Iterator[str]:
    for place, wrong, why in REFUSED:
        value = _get(config, place, missing=...)
        if value is not ... and wrong(value):
            yield f"{place} is {value!r}: {why}"


def _get(config: Any, place: str, missing: Any = None) -> Any:
    for key in place.split("."):
        if not isinstance(config, Mapping) or key not in config:
            return missing
        config = config[key]
    return config
