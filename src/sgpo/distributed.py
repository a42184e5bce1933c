"""Several processes as one run: what they tell each other, and how an error in one ends them all.

Every process samples, verifies and assembles its own share of the problems of each update. What each token weighs was
fixed with the number of problems of *all* processes, so the gradient of the run is the sum of theirs.
"""

from __future__ import annotations

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
