"""The command line: one table of commands. Each is imported when it is asked for, so `sgpo --help` is immediate."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from sgpo import __version__
from sgpo.errors import ReportedError, UsageError
from sgpo.screen import asks_for_everything, own_warnings


@dataclass(frozen=True)
class CommandEntry:
    """A command. Example: ``CommandEntry("pictures of training runs", "compare:plot")``, ``plot`` of cli/compare.py."""

    summary: str  # one line of `sgpo --help`
    place: str  # MODULE:FUNCTION within this package; the function gets an object of each class of its options
    options: str = ""  # a name of sgpo.options.groups; default: the classes are those that the function is annotated by


COMMANDS = {
    "quickstart": CommandEntry("the whole method on the embedded mini-world, in minutes", "miniworld:quickstart"),
    "miniworld create": CommandEntry("write its base model and its problem sets", "miniworld:miniworld_create"),
    "miniworld pretrain": CommandEntry("pretrain its base model from nothing", "miniworld:miniworld_pretrain"),
    "data prepare": CommandEntry(
        "problem files from published sets: checked, without duplicates and benchmarks, in parts", "data:data_prepare"
    ),
    "strategies solve": CommandEntry("strong-model responses where they are missing", "strategies:strategies_solve"),
    "strategies extract": CommandEntry(
        "strategies from strong-model responses, through any OpenAI-compatible server", "strategies:strategies_extract"
    ),
    "strategies show": CommandEntry("print some strategies, or responses", "strategies:strategies_show"),
    "strategies quality": CommandEntry("a judge's ratings of a sample of strategies", "quality:strategies_quality"),
    "teacher serve": CommandEntry(
        "the mini-world's teacher as an OpenAI-compatible server, with faults on request", "teacher:teacher_serve"
    ),
    "sft": CommandEntry("supervised warm-up on strong-model responses", "train:sft", "SFT"),
    "train": CommandEntry(
        "SGPO, GRPO, LUFFY, HPT or a method of your own, on problems with checkable answers", "train:train", "TRAIN"
    ),
    "eval": CommandEntry("avg@k of a checkpoint or server on benchmarks", "evaluate:main", "EVAL"),
    "eval compare": CommandEntry("two evaluations on the same problems", "evaluate:eval_compare"),
    "compare": CommandEntry(
        "methods on equal terms over seeds: one results file, one table with intervals", "compare:compare"
    ),
    "report": CommandEntry("one page, or a summary in the terminal: runs of training at a glance", "report:report"),
    "inspect": CommandEntry("one page: where a strategy changes the model's distributions", "inspect:inspect_answers"),
    "export": CommandEntry("merge an adapter into an ordinary checkpoint, which vLLM loads", "export:export"),
    "plan": CommandEntry("memory, tokens, hours and cost of a recipe, before anything is spent", "plan:plan"),
    "recipes": CommandEntry("list the recipes of this package", "recipes:list_recipes"),
    "recipes copy": CommandEntry("copy recipes, to be changed", "recipes:recipes_copy"),
    "plot": CommandEntry("pictures of a comparison, or of training runs", "compare:plot"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0, that of a `ReportedError` (1: the command ended early, 2: input that cannot be worked with), or 130 after Ctrl-C.
    Nothing else in the package decides on an exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    known = any(arguments[0] == name.split()[0] for name in COMMANDS)
    shown = f"sgpo {arguments[0]}" if known else "sgpo"
    try:
        with own_warnings(everything=asks_for_everything(arguments)):
            _run(arguments, shown)
    except ReportedError as error:
        print(f"{shown}: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt as stopped:
        print(f"\n{shown}: {str(stopped) or 'stopped by Ctrl-C'}", file=sys.stderr)
        return 130
    return 0


def _run(arguments: list[str], group: str) -> None:
    """Args: group: "sgpo", or the first word after it too; what there is of it is shown where no command is named."""
    for words in (2, 1):
        name, rest = " ".join(arguments[:words]), arguments[words:]
        if name in COMMANDS:
            _run_command(name, COMMANDS[name], rest)
            return
    names = [name for name in COMMANDS if f"sgpo {name} ".startswith(f"{group} ")]
    said = arguments[:1] if group == "sgpo" else arguments[:2]
    if said[-1] in ("-h", "--help"):
        _overview(group, names)
    elif said == ["--version"]:
        print(f"sgpo {__version__}")
    else:
        from sgpo.configuration import nearest

        command = " ".join(said)
        raise UsageError(f"there is no command {command}{nearest(command, names)}; there are {', '.join(names)}")


def _run_command(name: str, entry: CommandEntry, arguments: list[str]) -> None:
    from sgpo.options.groups import load, options_for, parse_options
    from sgpo.options.help import asks_for_help, print_help

    place = f"{__name__}.{entry.place}"
    options = load(f"sgpo.options.groups:{entry.options}") if entry.options else options_for(name, load(place))
    if asks_for_help(arguments):
        print_help(options, arguments)
    else:
        parsed = parse_options(options, arguments)
        load(place)(*parsed)


def _overview(group: str, names: Sequence[str]) -> None:
    known = "\n".join(f"  {name:<20}{COMMANDS[name].summary}" for name in names)
    argparse.ArgumentParser(
        usage=f"{group} {'COMMAND' if group == 'sgpo' else 'ACTION'} [options]",
        description=f"Strategy-Guided Policy Optimization.\n\ncommands:\n{known}",
        epilog="sgpo COMMAND --help shows the options of a command, sgpo --version the version.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    ).print_help()
