"""The folder of a run: what it holds, what must not be overwritten, and whether there is room in it.

config.yaml   the resolved configuration           metrics.jsonl   a line for each update or evaluation
data.json     number and fingerprint of the data   checkpoint-N/   weights, optimizer and state after N updates
completions/  what was sampled, as Parquet         not-finite/     the sequences that made a loss infinite or NaN
report.html   the run at a glance
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sgpo.errors import NoSpaceError
from sgpo.files import check_folder_writable, free_space, readable_size
from sgpo.runs.checkpoints import UNFINISHED, checkpoints_of

COMPLETIONS, VIEWS = "completions", ".views.json"
REPORT = "report.html"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
BYTES_OF_WEIGHT, BYTES_OF_OPTIMIZER = 4, 8  # for each parameter: float32, and Adam's two moments


# ---------------------------------------------------------------------- what a folder holds


def results_in(folder: str | Path) -> list[Path]:
    """What an earlier training run left that a new one would replace or be mixed up with."""
    names = ("checkpoint-*", UNFINISHED, COMPLETIONS, "not-finite")
    found = [path for name in names for path in Path(folder).glob(name) if path.is_dir()]
    files = [path for pattern in (*WEIGHTS, "metrics.jsonl") for path in Path(folder).glob(pattern)]
    return sorted([*found, *(path for path in files if path.stat().st_size)])


def completions_path(folder: str | Path, step: int) -> Path:
    """Example: ``completions/step-000050.parquet``, sampled after 50 updates."""
    return Path(folder) / COMPLETIONS / f"step-{step:06d}.parquet"


def completions_in(folder: str | Path) -> dict[int, Path]:
    """The tables of completions by the updates after which they were sampled, in that order."""
    return _by_step(folder, ".parquet")


def views_in(folder: str | Path) -> dict[int, Path]:
    """The files of `views_path`, as `completions_in`."""
    return _by_step(folder, VIEWS)


def _by_step(folder: str | Path, suffix: str) -> dict[int, Path]:
    paths = (Path(folder) / COMPLETIONS).glob(f"step-*{suffix}")
    numbered = {path.name.removeprefix("step-").removesuffix(suffix): path for path in paths}
    return dict(sorted((int(number), path) for number, path in numbered.items() if number.isdecimal()))


def views_path(folder: str | Path, step: int) -> Path:
    """Example: ``completions/step-000050.views.json``, some targets token by token, see `sgpo.training.token_views`."""
    return completions_path(folder, step).with_suffix(VIEWS)


def evaluation_in(folder: str | Path) -> list[Path]:
    """The files of an evaluation, complete or not; its summary first."""
    names = ("summary.json", "settings.json", "answers.journal.jsonl")
    files = [path for name in names if (path := Path(folder) / name).is_file()]
    return [*files, *sorted(Path(folder).glob("samples/*.parquet"))]


def check_output_dir(folder: str | Path, *, overwrite: bool, resume: bool = False, model: str = "") -> None:
    """Refuse a folder that holds another run.

    Args:
        model: the model's name; a folder that is to be replaced must not hold it.

    Raises:
        ValueError: a place that cannot be written, a run that is neither resumed nor overwritten, both at once, or a
            model in the folder.
    """
    folder = Path(folder)
    if overwrite and resume:
        raise ValueError("overwrite and resume exclude each other: leave out one of them")
    check_folder_writable(folder, "output_dir")
    found = results_in(folder)
    if overwrite and found and model and Path(model).resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"the model {model} lies in output_dir {folder}, which overwrite would delete; write another output_dir"
        )
    if found and not overwrite and not resume:
        ways = "add --resume to go on with it, " if checkpoints_of(folder) else ""
        raise ValueError(
            f"output_dir {folder} holds another run ({found[0].name}); {ways}write another output_dir, or "
            "overwrite: true to delete that run"
        )


def check_output_of_evaluation(folder: str | Path, *, overwrite: bool) -> None:
    """Raises ValueError for a folder with a complete evaluation, or one that cannot be written.

    A model's own folder is as good as any.
    """
    check_folder_writable(Path(folder), "output")
    if (Path(folder) / "summary.json").is_file() and not overwrite:
        raise ValueError(
            f"output {folder} holds another evaluation (summary.json); write another output, or overwrite: true to "
            "replace it"
        )


def clear(paths: list[Path]) -> None:
    """Delete files, and folders with all that is in them."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


# ---------------------------------------------------------------------- which data a run has


def save_data(folder: str | Path, data: Mapping[str, Any]) -> None:
    path = Path(folder) / "data.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2) + "\n")


# ---------------------------------------------------------------------- room on the device


def check_space(
    folder: str | Path, parameters: int, checkpoints: int, copies: int = 0, *, weights_alone: bool = False
) -> None:
    """Refuse a run whose checkpoints, and the final weights beside them, will not fit on the device.

    Args:
        parameters: that are saved, and trained.
        copies: of them in each checkpoint, beside weights and optimizer.
        weights_alone: whether checkpoints have neither copies nor an optimizer.

    Raises:
        ValueError: less free space than they need together, or a place that cannot be written at all.
    """
    check_folder_writable(Path(folder), "output_dir")
    state = 0 if weights_alone else copies * BYTES_OF_WEIGHT + BYTES_OF_OPTIMIZER
    each = parameters * (BYTES_OF_WEIGHT + state)
    needed = checkpoints * each + parameters * BYTES_OF_WEIGHT
    free = free_space(Path(folder))
    if free is not None and needed > free:
        raise ValueError(
            f"no space left for output_dir {folder}: {checkpoints} x {readable_size(each)} of checkpoints and the "
            f"final weights need about {readable_size(needed)}, {readable_size(free)} are free; lower "
            "save_total_limit, save less often, or write an output_dir on another device"
        )


@contextmanager
def explained_lack_of_space(folder: str | Path) -> Iterator[None]:
    """Whoever writes meanwhile, a full device becomes one clear error.

    Raises:
        NoSpaceError: in place of what the writing library raised.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_lack_of_space(error):
            raise
        complete = checkpoints_of(folder)
        way_on = (
            f"go on from {complete[-1].name} with --resume" if complete else "start again: no checkpoint is complete"
        )
        raise NoSpaceError(
            errno.ENOSPC, f"no space left on the device while writing to {folder}; free some and {way_on}"
        ) from error


def _is_lack_of_space(error: BaseException | None) -> bool:
    """safetensors and torch wrap the error of the system in ones of their own, the latter without its number."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(text in str(error) for text in ("No space left on device", "PytorchStreamWriter failed")):
            return True
        error = error.__cause__ or error.__context__
    return False
