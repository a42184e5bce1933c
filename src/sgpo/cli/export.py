"""`sgpo export`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sgpo.errors import usage_errors
from sgpo.screen import no_progress_bars


@dataclass(frozen=True)
class ExportArguments:
    """What is written where."""

    model: str = field(metadata={"help": "Folder of a run or of an adapter, or an adapter's name on the Hub."})
    output: Path = field(metadata={"help": "Folder for the merged checkpoint; new, or empty."})
    dtype: str | None = field(
        default=None, metadata={"help": "Of the weights: float32, bfloat16 or float16; default: that of the base."}
    )


def export(options: ExportArguments) -> None:
    from sgpo.models.export import prepare_export, write_export
    from sgpo.runs.folder import explained_lack_of_space

    with usage_errors():
        found = prepare_export(options.model, options.output, options.dtype)
        from sgpo.training.export_card import export_card  # imports PEFT: not for what was refused by now

        card = export_card(found)
    with no_progress_bars(), explained_lack_of_space(options.output):
        write_export(found, card)
    print(f"The merged model is in {options.output} ({found.dtype})")
