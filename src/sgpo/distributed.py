"""Several processes as one run: what they tell each other, and how an error in one ends them all.

Every process samples, verifies and assembles its own share of the problems of each update. What each token weighs was
fixed with the number of problems of *all* processes, so the gradient of the run is the sum of theirs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from sgpo.errors import StopHere, UnfinishedError, first_line

T = TypeVar("T")
PATIENCE_SECONDS = 10.0  # for the report of a process that failed, when the connection to it broke


class ProcessError(UnfinishedError):
    """Another process of the run failed; the message is its error."""


# ---------------------------------------------------------------------- who there is


def count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if count() > 1 else 0


def share(items: Sequence[T]) -> list[T]:
    """This process's part: every n-th, so that the parts differ by one item at most."""
    return list(items[rank() :: count()])


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


# ---------------------------------------------------------------------- what they tell each other


def gather(value: T, group: Any = None) -> list[T]:
    """The value of each process, by rank. All of them have to call it.

    Args:
        group: one of `neighbours`, whose processes alone call it; default: all.
    """
    if count() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def neighbours(size: int, seconds: float) -> Any:
    """The group of this process: of `size` with consecutive ranks. All processes of the run have to call it.

    Args:
        seconds: that one waits for the others of its group, before it raises RuntimeError.
    """
    limit = timedelta(seconds=seconds)
    ranks = [range(first, first + size) for first in range(0, count(), size)]
    return [dist.new_group(list(each), timeout=limit, backend="gloo") for each in ranks][rank() // size]


def unshare(parts: Sequence[Sequence[T]]) -> list[T]:
    """The items of which `share` gave each process a part, in their order."""
    longest = max(map(len, parts), default=0)
    return [part[place] for place in range(longest) for part in parts if place < len(part)]


def total(number: int) -> int:
    """The sum over all processes."""
    return sum(gather(number))


def most(counts: Mapping[str, int]) -> dict[str, int]:
    """For each name the largest count of any process."""
    found: dict[str, int] = {}
    for of_process in gather(dict(counts)):
        for name, number in of_process.items():
            found[name] = max(number, found.get(name, 0))
    return found


def leave() -> None:
    """End what connects the processes, once all have called it: its threads should not outlive the interpreter."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()  # a process that ends while another still talks to it may abort
        dist.destroy_process_group()


# ---------------------------------------------------------------------- an error in one ends them all


@contextmanager
def together() -> Iterator[None]:
    """What every process does on its own; if one fails or stops, all of them do, here.

    Nothing inside may wait for other processes.

    Raises:
        ProcessError: another process failed.
        StopHere: another process was asked to stop.
    """
    if count() == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    said = gather(None if error is None else "" if isinstance(error, StopHere) else _report(error))
    failed = [(number, text) for number, text in enumerate(said) if text]
    if error is not None and (not failed or not isinstance(error, StopHere)):
        raise error
    if failed:
        raise _process_error(*failed[0])
    if "" in said:
        raise StopHere


@contextmanager
def failing_together(folder: str | Path) -> Iterator[None]:
    """What processes do in step with each other; an error in one becomes the error of those that waited for it.

    The process that failed leaves its report in ``folder``, where those whose connection to it breaks look for it. A
    process that raises here has to end.
    """
    if count() == 1:
        yield
        return
    mine = Path(folder) / f"failed-process-{rank()}.txt"
    mine.unlink(missing_ok=True)
    dist.barrier()
    try:
        yield
    except (UnfinishedError, StopHere):  # all processes have it
        raise
    except Exception as error:
        if _is_lost_connection(error):
            failed = _report_of_another(mine)
            raise (_gone(error) if failed is None else _process_error(*failed)) from error
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text(_report(error) + "\n" + "".join(traceback.format_exception(error)))
        raise


def _report(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _process_error(number: int, report: str) -> ProcessError:
    return ProcessError(f"process {number} failed, which ends the run: {report}")


def _gone(error: Exception) -> ProcessError:
    return ProcessError(
        f"another process of the run is gone and left no report: it was killed, perhaps for want of memory, or its "
        f"machine is out of reach ({first_line(error)})"
    )


def _is_lost_connection(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or (
        type(error) is RuntimeError and any(name in str(error).lower() for name in ("gloo", "nccl", "connection"))
    )


def _report_of_another(mine: Path) -> tuple[int, str] | None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for path in mine.parent.glob("failed-process-*.txt"):
            if path != mine and (text := path.read_text()):
                return int(path.stem.rpartition("-")[2]), text.partition("\n")[0]
        time.sleep(0.1)
    return None
