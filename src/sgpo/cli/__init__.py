"""The command line: one table of commands. Each is imported when it is asked for, so `sgpo --help` is immediate."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sgpo import __version__
from sgpo.errors import ReportedError
from sgpo.screen import asks_for_everything, own_warnings


@dataclass(frozen=True)
class CommandEntry:
    """A command. Example: ``CommandEntry("pictures of training runs", "compare:plot")``, ``plot`` of cli/compare.py."""

    summary: str  # one line of `sgpo --help`
    place: str  # MODULE:FUNCTION within this package; the function takes the arguments after the command's name

    def load(self) -> Callable[[list[str]], None]:
        module, _, function = self.place.partition(":")
        return getattr(importlib.import_module(f"{__name__}.{module}"), function)


COMMANDS = {
    "quickstart": CommandEntry("the whole method on the embedded mini-world, in minutes", "miniworld:quickstart"),
    "miniworld": CommandEntry(
        "create its problems and base model, or pretrain the base model from nothing", "miniworld:main"
    ),
    "strategies": CommandEntry(
        "extract them from a strong model's solutions, through any OpenAI-compatible server", "strategies:main"
    ),
    "teacher": CommandEntry(
        "the mini-world's teacher as an OpenAI-compatible server, with faults on request", "teacher:main"
    ),
    "sft": CommandEntry("supervised warm-up on strong-model responses", "train:sft"),
    "train": CommandEntry(
        "SGPO, GRPO, LUFFY, HPT or a method of your own, on problems with checkable answers", "train:train"
    ),
    "eval": CommandEntry("avg@k of a checkpoint or server on benchmarks; compare two", "evaluate:main"),
    "compare": CommandEntry(
        "methods on equal terms over seeds: one results file, one table with intervals", "compare:compare"
    ),
    "plot": CommandEntry("pictures of a comparison, or of training runs", "compare:plot"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0, that of a `ReportedError` (1: the command ended early, 2: input that cannot be worked with), or 130 after Ctrl-C.
    Nothing else in the package decides on an exit status, save argparse, which exits with 2 by itself.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = _parser().parse_args(arguments[:1] or ["--help"]).command
    try:
        with own_warnings(everything=asks_for_everything(arguments)):
            COMMANDS[name].load()(arguments[1:])
    except ReportedError as error:
        print(f"sgpo {name}: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt as stopped:
        print(f"\nsgpo {name}: {str(stopped) or 'stopped by Ctrl-C'}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    overview = "\n".join(f"  {name:<12}{entry.summary}" for name, entry in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="sgpo",
        usage="sgpo COMMAND [options]",
        description=f"Strategy-Guided Policy Optimization.\n\ncommands:\n{overview}",
        epilog="sgpo COMMAND --help shows the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sgpo {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=list(COMMANDS))
    return parser
