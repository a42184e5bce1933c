"""Which run a checkpoint belongs to: it is gone on with by the same data, configuration and processes only."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from sgpo.runs.checkpoints import MANIFEST, broken

# What may differ between a run and its continuation: where it is kept, what is seen of it, how long it goes on.
FREE_PREFIXES = ("logging_", "log_", "save_", "eval_", "hub_", "dataloader_", "completions_", "trackio_")
FREE = {
    "output_dir",
    "overwrite",
    "seen_problems",
    "bad_rows",  # what is left of the data is compared
    "resume_from_checkpoint",
    "max_steps",
    "num_train_epochs",
    "disable_tqdm",
    "report_to",
    "run_name",
    "project",
    "push_to_hub",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "per_device_eval_batch_size",
    "do_train",
    "do_eval",
    "do_predict",
    "ddp_timeout",
    "skip_memory_metrics",
    "local_rank",
}
LENGTH = ("max_steps", "num_train_epochs")  # free only where the schedule does not depend on them
CONSTANT_SCHEDULES = ("constant", "constant_with_warmup")


def configuration_of(args: Any) -> dict[str, Any]:
    """The values of a configuration that decide what a run computes, as JSON has them."""
    names = [field.name for field in dataclasses.fields(args) if field.init]
    bound = LENGTH if _plain(args.lr_scheduler_type) not in CONSTANT_SCHEDULES or _share(args.warmup_steps) else ()
    kept = [n for n in names if n in bound or (n not in FREE and not n.startswith(FREE_PREFIXES))]
    return json.loads(json.dumps({name: getattr(args, name) for name in kept}, default=_plain))


def _share(warmup: float | None) -> bool:
    return warmup is not None and 0 < warmup < 1  # of all steps


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else str(value)


def check_same_run(checkpoint: str | Path, run: Mapping[str, Any]) -> None:
    """Refuse to go on with other data, another configuration or another number of processes than a run began with.

    Args:
        run: ``{"data": {"train": ..., "eval": ...}, "configuration": {...}, "processes": 1}``

    Raises:
        ValueError: the differences; or a checkpoint that is broken or without its optimizer.
    """
    if (reason := broken(checkpoint)) is not None:
        raise ValueError(f"{checkpoint} is no complete checkpoint ({reason}); resume from another one")
    before = json.loads((Path(checkpoint) / MANIFEST).read_text())
    if not before["resumable"]:
        raise ValueError(
            f"{checkpoint} holds the weights alone (save_only_model), which is no state to go on from; begin a new run "
            "with it as the model"
        )
    _check_same_data(checkpoint, before["data"], run["data"])
    differences = _differences(before["configuration"] | _processes(before), run["configuration"] | _processes(run))
    if differences:
        raise ValueError(
            f"{checkpoint} was made with another configuration: {'; '.join(differences)}. Resume with the old values, "
            "or begin a new run in another output_dir"
        )


def _processes(run: Mapping[str, Any]) -> dict[str, Any]:
    return {"number of processes": run["processes"]}


def _check_same_data(checkpoint: str | Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in before.keys() & now.keys():
        old, new = before[name], now[name]
        if old and new and old["fingerprint"] != new["fingerprint"]:
            raise ValueError(
                f"the {name} data is not that of {checkpoint}: {old['problems']} problems with fingerprint "
                f"{old['fingerprint']} then, {new['problems']} with {new['fingerprint']} now; resume with the old "
                "data, or begin a new run in another output_dir"
            )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    # A name that only one side knows is one of another version of a library.
    names = sorted(before.keys() & now.keys())
    return [f"{name} was {before[name]}, is {now[name]}" for name in names if before[name] != now[name]]
