"""The whole method on the mini-world, from one command: `sgpo quickstart`.

    world -> strategies -> warm-up -> SGPO and GRPO, side by side -> evaluation without strategies -> the idea
    -> report

The strategies come from the mini-world's teacher, a server on a free port of this machine, through the pipeline that
one would send to a paid model. Every stage runs the `sgpo` command that one would run on one's own data, in a process
of one thread, so that two of them keep two cores busy. The commands are kept in commands.sh, their output in logs/, all
in the output folder. The idea alone, one problem looked at closely, is no command.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from sgpo.chat.endpoint import require_openai
from sgpo.command_runner import Command, ending_signals, run_commands, serving
from sgpo.errors import usage_errors
from sgpo.files import check_folder_writable
from sgpo.miniworld.teacher import MODEL
from sgpo.miniworld.teacher.server import check_server_packages
from sgpo.miniworld.world import BASE_MODEL, Sizes, create_world
from sgpo.problems import load_problems
from sgpo.quickstart.idea import POLICIES, find_idea
from sgpo.quickstart.idea_report import print_idea
from sgpo.quickstart.report import build_summary, print_example, print_next_steps, print_scores
from sgpo.quickstart.strategies import print_strategies, strategy_summary
from sgpo.reports.dynamics import MetricLines, read_metrics, training_plot
from sgpo.reports.run_folder import read_runs
from sgpo.reports.run_output import write_report
from sgpo.screen import no_progress_bars
from sgpo.strategies.quality import HIGH

RECIPES = Path(__file__).parents[1] / "recipes" / "miniworld"
TEACHER = Command("teacher serve", {"port": 0})
LEAST_SCORE = HIGH  # so that a problem whose best candidate is no good goes without a strategy
MODELS = ("base", "sft", "grpo", "sgpo")


@dataclass(frozen=True)
class Scale:
    """How much of everything is done. Example: ``Scale(Sizes.only(rl=64, dev=12, test=24), {"max_steps": 4})``"""

    sizes: Sizes
    training: dict[str, Any] = field(default_factory=dict)  # over the recipes of GRPO and SGPO


NORMAL = Scale(
    Sizes.only(sft=400, rl=320, dev=100, test=300, test_deeper=100),  # RL visits each of its problems once
    {"max_steps": 80, "problems_per_rollout": 8, "learning_rate": 2e-4},
)
FAST = Scale(
    Sizes.only(sft=64, rl=64, dev=12, test=24, test_deeper=12),
    {"max_steps": 4, "problems_per_rollout": 8},
)


def run_quickstart(output: Path, *, seed: int, fast: bool, base: Path = BASE_MODEL) -> None:
    """Run all stages; everything is written into `output`.

    Raises:
        CommandFailed: a command ended with an error.
    """
    with usage_errors():
        check_quickstart_packages()
        check_folder(output)
    scale, console = FAST if fast else NORMAL, Console()
    prepare_folder(output)
    seconds: dict[str, float] = {}
    with stage(console, seconds, "world", WORLD), usage_errors():
        create_world(output / "miniworld", seed=seed, sizes=scale.sizes, base=base)
    with ending_signals():
        with stage(console, seconds, "strategies", STRATEGIES):
            with serving(TEACHER, output / "logs" / "teacher.log") as url:
                commands = build_commands(output, seed, scale, url)
                write_commands(output, commands, url)
                run_stage(console, output, {"strategies": commands["strategies"]})
            strategies = strategy_summary(output / "strategies.jsonl")
            print_example(console, output / "strategies.jsonl")
        for name, (sentence, names) in STAGES.items():
            with stage(console, seconds, name, sentence):
                run_stage(console, output, {command: commands[command] for command in names})
    with stage(console, seconds, "idea", IDEA):
        idea = look_at_idea(output, commands["sgpo"].configuration()["max_completion_length"])
    with stage(console, seconds, "report", REPORT):
        training_plot({name: output / name / "metrics.jsonl" for name in ("sgpo", "grpo")}, output / "training.png")
        summary = build_summary(output / "evaluation", MODELS)
        write_run_page(output)
    summary |= {
        "strategies": strategies,
        "idea": idea,
        "seconds": {**seconds, "total": round(sum(seconds.values()), 2)},
        "configuration": {
            "sizes": asdict(scale.sizes),
            **{name: command.configuration() for name, command in commands.items()},
        },
        "seed": seed,
        "fast": fast,
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2, default=str) + "\n")
    print_strategies(console, summary["strategies"])
    print_idea(console, idea, commands["sgpo"].configuration()["delta"])
    print_scores(console, summary)
    print_next_steps(console, output, RECIPES)


def write_run_page(output: Path) -> None:
    """report.html: both runs, with the scores and answers of all models."""
    evaluations = {name: output / "evaluation" / name for name in MODELS}
    write_report(output / "report.html", read_runs([output / "sgpo", output / "grpo"]), evaluations)


WORLD = "The mini-world: short problems, each solved by a chain of decisions, with a teacher that knows them all."
STRATEGIES = (
    "Strategies, from the teacher's responses: five candidates a problem, some of them vague, wrong or telling the "
    "answer; those that pass the checks are scored, and the best is kept. The teacher is a server on this machine."
)
WARM_UP = (
    "Warm-up: the base model learns from a few hundred of the teacher's solutions (SFT). Meanwhile the base itself is "
    "evaluated on held-out problems, without strategies and, for reference, with them (guided)."
)
TRAINING = (
    "Reinforcement learning, side by side from the warm-up, 12 samples a problem each: GRPO makes all of them from "
    "the bare problem; SGPO makes 8 so and 4 with the strategy, and distils what the strategy changed."
)
EVALUATION = "Evaluation of all three on the held-out problems, without strategies; of the warm-up with them as well."
IDEA = "The idea: where a strategy changes the warm-up's mind, and what is left of this change without the strategy."
REPORT = "Plot, summary, and a page of both runs."
# The commands of each stage. The warm-up needs one core, so the base is evaluated on the other.
STAGES = {
    "warm_up": (WARM_UP, ("sft", "eval-base", "eval-base-guided")),
    "training": (TRAINING, ("sgpo", "grpo")),
    "evaluation": (EVALUATION, ("eval-sgpo", "eval-grpo", "eval-sft", "eval-sft-guided")),
}


# ---------------------------------------------------------------------- what is run


def build_commands(output: Path, seed: int, scale: Scale, teacher: str) -> dict[str, Command]:
    """Every command by a name, in the order of running; `teacher` is the address of the server."""
    world = output / "miniworld"
    # What an earlier quickstart left in the folder is replaced.
    common = {"seed": seed, "use_cpu": True, "disable_tqdm": True, "overwrite": True}
    commands = {
        "strategies": Command(
            "strategies extract",
            {
                "problems": world / "rl.jsonl",
                "output": output / "strategies.jsonl",
                "base-url": teacher,
                "model": MODEL,
                "min-score": LEAST_SCORE,
                "timeout": 30,
                "deadline": 60,
            },
        ),
        "sft": Command(
            "sft",
            {
                "config": RECIPES / "sft.yaml",
                "model": world / "base",
                "problems": world / "sft.jsonl",
                "output_dir": output / "sft",
                **common,
            },
        ),
    }
    for method in ("sgpo", "grpo"):
        commands[method] = Command(
            "train",
            {
                "config": RECIPES / f"{method}.yaml",
                "model": output / "sft",
                "problems": output / "strategies.jsonl",
                "eval_problems": world / "dev.jsonl",
                "output_dir": output / method,
                **common,
                **scale.training,
            },
        )
    return commands | _evaluations(output, seed, commands["sgpo"].configuration()["max_completion_length"])


def _evaluations(output: Path, seed: int, max_completion_length: int) -> dict[str, Command]:
    def command(model: str, name: str, **options: Any) -> Command:
        return Command(
            "eval",
            {
                "model": output / "miniworld" / "base" if model == "base" else output / model,
                "problems": output / "miniworld" / "test.jsonl",
                "output": output / "evaluation" / name,
                "k": 4,
                **options,
                "max_completion_length": max_completion_length,
                "group_by": "family",
                "seed": seed,
                "overwrite": True,
            },
        )

    unguided = {f"eval-{m}": command(m, m, temperature=0.6, top_p=0.95, greedy=True) for m in MODELS}
    guided = {
        f"eval-{m}-guided": command(m, f"{m}-guided", temperature=1.0, top_p=0.95, guided=True) for m in ("base", "sft")
    }
    return unguided | guided


def check_quickstart_packages() -> None:
    """Refuse before anything is written what would end in the second stage. Raises ``ValueError``."""
    require_openai()
    check_server_packages()


def check_folder(output: Path) -> None:
    """Refuse a folder with anything else than an earlier quickstart: all of it could be overwritten."""
    check_folder_writable(output, "--output")
    if output.exists() and not (output / "commands.sh").exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"--output {output} holds something else than a quickstart; write a new folder's name")


def prepare_folder(output: Path) -> None:
    """Folders, and away with results of an earlier run that could be taken for those of this one."""
    (output / "logs").mkdir(parents=True, exist_ok=True)
    (output / "commands.sh").touch()  # by which the folder is known for a quickstart's
    stale = (
        "*/metrics.jsonl",
        "evaluation/*/summary.json",
        "summary.json",
        "strategies.jsonl",
        "strategies.journal.jsonl",
    )
    for path in (path for pattern in stale for path in output.glob(pattern)):
        path.unlink()


def write_commands(output: Path, commands: Mapping[str, Command], teacher: str) -> None:
    """commands.sh: what was run, the server first."""
    port = teacher.removesuffix("/v1").rpartition(":")[2]
    lines = [f"sgpo teacher serve --port {port} &  # for the next line alone, once it says where it serves"]
    lines += [shlex.join(["sgpo", *command.arguments]) for command in commands.values()]
    (output / "commands.sh").write_text("\n".join(lines) + "\n")


def run_stage(console: Console, output: Path, commands: Mapping[str, Command]) -> None:
    with progress_bars(console) as bars:
        run_commands(commands, output / "logs", StageBars(bars, output, commands).watch)


def look_at_idea(output: Path, max_completion_length: int) -> dict[str, Any]:
    """The idea, from the development problems and the checkpoints of all stages."""
    from sgpo.quickstart.policy import LoadedPolicy  # imports torch, which takes seconds

    with no_progress_bars():
        policies = {name: LoadedPolicy(output / name) for name in POLICIES}
        return find_idea(load_problems(output / "miniworld" / "dev.jsonl"), policies, max_completion_length)


# ---------------------------------------------------------------------- what is seen meanwhile


@contextlib.contextmanager
def stage(console: Console, seconds: dict[str, float], name: str, sentence: str) -> Iterator[None]:
    """Say what happens, and keep how long it took."""
    console.print(f"\n[bold cyan]{len(seconds) + 1}/{4 + len(STAGES)}[/] {sentence}", highlight=False)
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 2)


def progress_bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        console=console,
    )


class StageBars:
    """A bar for each training run, which follows its metrics.jsonl, and one for all evaluations together."""

    def __init__(self, bars: Progress, output: Path, commands: Mapping[str, Command]) -> None:
        self.bars, self.output = bars, output
        self.steps = {n: c.configuration()["max_steps"] for n, c in commands.items() if c.name == "train"}
        self.said = dict.fromkeys(self.steps, 0)
        self.runs = {n: bars.add_task(n.upper(), total=steps, note="starting") for n, steps in self.steps.items()}
        self.counts: dict[TaskID, set[str]] = {}
        for title, name in (("strategies", "strategies extract"), ("warm-up", "sft"), ("evaluation", "eval")):
            if counted := {n for n, command in commands.items() if command.name == name}:
                self.counts[bars.add_task(title, total=len(counted), note="")] = counted

    def watch(self, ended: set[str]) -> None:
        for task, counted in self.counts.items():
            self.bars.update(task, completed=len(counted & ended))
        for name, task in self.runs.items():
            rows = [row for row in read_metrics(self.output / name / "metrics.jsonl") if "reward/autonomous" in row]
            if rows:
                self.bars.update(task, completed=rows[-1]["step"], note=training_note(rows))
                self._say(name, rows)

    def _say(self, name: str, rows: MetricLines) -> None:
        """Where no bar can move, in a log file, a line for each quarter of the way."""
        quarter = 4 * rows[-1]["step"] // self.steps[name]
        if not self.bars.console.is_terminal and quarter > self.said[name]:
            self.said[name] = quarter
            self.bars.console.print(f"{name.upper()} step {rows[-1]['step']}: {training_note(rows)}", highlight=False)


def training_note(rows: MetricLines) -> str:
    """Rewards and alpha, means over the newest ten steps: a single step is noise."""
    shown = {"reward": "reward/autonomous", "guided": "reward/guided", "alpha": "alpha"}
    newest = rows[-10:]
    return "  ".join(
        f"{name} {sum(row[key] for row in newest) / len(newest):.2f}" for name, key in shown.items() if key in rows[-1]
    )
