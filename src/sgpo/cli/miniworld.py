"""`sgpo quickstart` and `sgpo miniworld`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sgpo.errors import usage_errors
from sgpo.files import check_folder_writable


def quickstart(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="sgpo quickstart")
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"), help="folder for all results")
    parser.add_argument("--seed", type=int, default=0, help="of problems, sampling and training")
    parser.add_argument("--fast", action="store_true", help="a few steps of everything: to see that it runs")
    parser.add_argument("--base", type=Path, default=None, help="a base model in place of the shipped one")
    options = parser.parse_args(argv)
    from sgpo.miniworld.quickstart.run import BASE_MODEL, run_quickstart

    run_quickstart(options.output, seed=options.seed, fast=options.fast, base=options.base or BASE_MODEL)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="sgpo miniworld")
    actions = parser.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="write the base model and the problem sets")
    pretrain = actions.add_parser("pretrain", help="pretrain the base model from nothing")
    for action, folder in ((create, "runs/miniworld"), (pretrain, "runs/miniworld/base")):
        action.add_argument("--output", type=Path, default=Path(folder), help=f"default {folder}")
    create.add_argument("--seed", type=int, default=0, help="of the problems")
    pretrain.add_argument("--seed", type=int, default=None, help="default: that of the shipped model")
    create.add_argument("--base", type=Path, default=None, help="a base model in place of the shipped one")
    pretrain.add_argument("--steps", type=int, default=None, help="updates of 64 documents")
    options = parser.parse_args(argv)
    with usage_errors():
        check_folder_writable(options.output, "--output")
    if options.action == "create":
        from sgpo.miniworld.world import BASE_MODEL, create_world

        with usage_errors():
            print(f"Written to {create_world(options.output, seed=options.seed, base=options.base or BASE_MODEL)}")
        return
    from sgpo.miniworld.pretrain import SHIPPED_SEED, STEPS, pretrain_with_progress

    seed = SHIPPED_SEED if options.seed is None else options.seed
    pretrain_with_progress(options.output, seed=seed, steps=options.steps or STEPS)
