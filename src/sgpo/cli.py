"""The command line. Heavy libraries are imported by the commands that need them, so `sgpo --help` is immediate."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sgpo import __version__
from sgpo.errors import ReportedError, usage_errors
from sgpo.files import check_folder_writable
from sgpo.screen import asks_for_everything, own_warnings

COMMANDS = {
    "quickstart": "the whole method on the embedded mini-world, in minutes",
    "miniworld": "create its problems and base model, or pretrain the base model from nothing",
    "strategies": "extract them from a strong model's solutions, through any OpenAI-compatible server",
    "teacher": "the mini-world's teacher as an OpenAI-compatible server, with faults on request",
    "sft": "supervised warm-up on strong-model responses",
    "train": "SGPO, GRPO, LUFFY, HPT or a method of your own, on problems with checkable answers",
    "eval": "avg@k of a checkpoint or server on benchmarks; compare two",
    "compare": "methods on equal terms over seeds: one results file, one table with intervals",
    "plot": "pictures of a comparison, or of training runs",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0, that of a `ReportedError` (1: the command ended early, 2: input that cannot be worked with), or 130 after Ctrl-C.
    Nothing else in the package decides on an exit status, save argparse, which exits with 2 by itself.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    overview = "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="sgpo",
        usage="sgpo COMMAND [options]",
        description=f"Strategy-Guided Policy Optimization.\n\ncommands:\n{overview}",
        epilog="sgpo COMMAND --help shows the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sgpo {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=list(COMMANDS))
    command = parser.parse_args(arguments[:1] or ["--help"]).command
    run: dict[str, Callable[[list[str]], None]] = {
        "quickstart": _quickstart,
        "miniworld": _miniworld,
        "strategies": _strategies,
        "teacher": _teacher,
        "sft": _sft,
        "train": _train,
        "eval": _eval,
        "compare": _compare,
        "plot": _plot,
    }
    try:
        with own_warnings(everything=asks_for_everything(arguments)):
            run[command](arguments[1:])
    except ReportedError as error:
        print(f"sgpo {command}: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt as stopped:
        print(f"\nsgpo {command}: {str(stopped) or 'stopped by Ctrl-C'}", file=sys.stderr)
        return 130
    return 0


def _quickstart(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="sgpo quickstart")
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"), help="folder for all results")
    parser.add_argument("--seed", type=int, default=0, help="of problems, sampling and training")
    parser.add_argument("--fast", action="store_true", help="a few steps of everything: to see that it runs")
    parser.add_argument("--base", type=Path, default=None, help="a base model in place of the shipped one")
    options = parser.parse_args(argv)
    from sgpo.quickstart import BASE_MODEL, quickstart

    quickstart(options.output, seed=options.seed, fast=options.fast, base=options.base or BASE_MODEL)


def _miniworld(argv: list[str]) -> None:
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


def _strategies(argv: list[str]) -> None:
    from sgpo.strategies.commands import main as strategies

    strategies(argv)


def _teacher(argv: list[str]) -> None:
    from sgpo.teacher.commands import main as teacher

    teacher(argv)


def _sft(argv: list[str]) -> None:
    from sgpo.commands import sft

    sft(argv)


def _train(argv: list[str]) -> None:
    from sgpo.commands import train

    train(argv)


def _eval(argv: list[str]) -> None:
    from sgpo.commands import evaluate

    evaluate(argv)


def _compare(argv: list[str]) -> None:
    from sgpo.comparison.commands import compare

    compare(argv)


def _plot(argv: list[str]) -> None:
    from sgpo.comparison.commands import plot

    plot(argv)
