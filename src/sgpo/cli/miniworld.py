"""`sgpo quickstart`, `sgpo miniworld create` and `sgpo miniworld pretrain`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sgpo.errors import usage_errors
from sgpo.files import check_folder_writable

_BASE = {"help": "A base model in place of the shipped one."}


@dataclass(frozen=True)
class QuickstartArguments:
    """Where and how the quickstart runs."""

    output: Path = field(default=Path("runs/quickstart"), metadata={"help": "Folder for all results."})
    seed: int = field(default=0, metadata={"help": "Of problems, sampling and training."})
    fast: bool = field(default=False, metadata={"help": "A few steps of everything: to see that it runs."})
    base: Path | None = field(default=None, metadata=_BASE)


@dataclass(frozen=True)
class CreateArguments:
    """Which mini-world is written."""

    output: Path = field(default=Path("runs/miniworld"), metadata={"help": "Folder."})
    seed: int = field(default=0, metadata={"help": "Of the problems."})
    base: Path | None = field(default=None, metadata=_BASE)


@dataclass(frozen=True)
class PretrainArguments:
    """How the base model is pretrained."""

    output: Path = field(default=Path("runs/miniworld/base"), metadata={"help": "Folder."})
    seed: int | None = field(default=None, metadata={"help": "Default: that of the shipped model."})
    steps: int | None = field(default=None, metadata={"help": "Updates of 32 documents; default: 10000."})
    strength: Literal["base", "large"] = field(
        default="base", metadata={"help": "base (0.9 million parameters) or large (2.4 million)."}
    )


def quickstart(options: QuickstartArguments) -> None:
    from sgpo.quickstart.run import BASE_MODEL, run_quickstart

    run_quickstart(options.output, seed=options.seed, fast=options.fast, base=options.base or BASE_MODEL)


def miniworld_create(options: CreateArguments) -> None:
    from sgpo.miniworld.world import BASE_MODEL, create_world

    with usage_errors():
        check_folder_writable(options.output, "--output")
        print(f"Written to {create_world(options.output, seed=options.seed, base=options.base or BASE_MODEL)}")


def miniworld_pretrain(options: PretrainArguments) -> None:
    with usage_errors():
        check_folder_writable(options.output, "--output")
    from sgpo.miniworld.pretrain import STEPS, pretrain_with_progress
    from sgpo.miniworld.world import SHIPPED_SEED

    seed = SHIPPED_SEED if options.seed is None else options.seed
    pretrain_with_progress(options.output, seed=seed, steps=options.steps or STEPS, strength=options.strength)
