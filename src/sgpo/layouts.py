"""How a run may be divided over processes, as a launcher or the options ask for it: what is refused, and why."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sgpo.errors import first_line


def asks_for_deepspeed(args: Any) -> bool:
    """Args: args: `TrainingArguments`, or what is to become one."""
    return bool(args.deepspeed) or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def refusals_of_deepspeed(args: Any) -> Iterator[str]:
    """What DeepSpeed would do otherwise than is said elsewhere, or would leave out in silence.

    Args:
        args: `TrainingArguments`, or what is to become one.
    """
    if not asks_for_deepspeed(args):
        return
    if importlib.util.find_spec("deepspeed") is None:
        yield "deepspeed: it is not installed; pip install 'sgpo[deepspeed]', or divide the model with fsdp: full_shard"
    if args.fsdp:
        yield "fsdp and deepspeed both divide the model; leave one of both out"
    if getattr(args, "skip_grad_norm", None) is not None:
        yield "skip_grad_norm has no effect with deepspeed, whose engine takes the step itself; leave one of both out"
    try:
        configuration = _deepspeed_configuration(args.deepspeed)
    except (OSError, ValueError) as error:
        yield f"deepspeed: its configuration cannot be read ({first_line(error)}); give a JSON file, or a mapping"
        return
    stage = configuration.get("zero_optimization", {}).get("stage", 0)
    if stage != 3:
        yield (
            f"deepspeed: ZeRO stage {stage} is not supported; write {{stage: 3}} under zero_optimization in its "
            "configuration, or leave it out"
        )
    if args.max_grad_norm and "gradient_clipping" not in configuration:
        yield "deepspeed: write gradient_clipping: auto in its configuration, or gradients would not be clipped"
    if args.gradient_accumulation_steps > 1 and "gradient_accumulation_steps" not in configuration:
        yield (
            "deepspeed: write gradient_accumulation_steps: auto in its configuration, or each pass would be an update"
        )


def _deepspeed_configuration(given: Any) -> Mapping[str, Any]:
    """Raises OSError or ValueError for one that cannot be read."""
    given = given or os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if isinstance(given, Mapping):
        return given
    if given == "none":  # accelerate makes one of its variables
        stage = int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
        return dict.fromkeys(("gradient_clipping", "gradient_accumulation_steps"), "auto") | {
            "zero_optimization": {"stage": stage}
        }
    found = json.loads(given if given.lstrip().startswith("{") else Path(given).read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{given} holds no object")
    return found


PARALLEL = {"cp_size": "context parallelism", "sp_size": "Ulysses parallelism", "tp_size": "tensor parallelism"}


def refusals_of_parallelism(args: Any) -> Iterator[str]:
    """What divides a sequence or a layer, of which the training engine needs the whole.

    Args:
        args: `TrainingArguments`, or what is to become one.
    """
    for name, meaning in PARALLEL.items():
        size = _parallel_size(args.parallelism_config, name)
        if size > 1:
            yield (
                f"{meaning} ({name} {size}) is not supported: the losses need whole sequences in one process; leave it "
                "out. For long sequences there is activation_checkpointing, and fsdp: full_shard with fsdp_config: "
                "{fsdp_version: 2}, which divides weights, gradients and optimizer"
            )


def _parallel_size(config: Any, name: str) -> int:
    if config is not None:
        return config.get(name) or 1 if isinstance(config, Mapping) else getattr(config, name) or 1
    if os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "false").lower() != "true":
        return 1
    return int(os.environ.get(f"PARALLELISM_CONFIG_{name.upper()}", "1"))
