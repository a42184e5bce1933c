"""Options that only a user's method has: from the command line, from a saved configuration, and in Python."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.cli import main
from sgpo.problems import Problem, save_problems

PROBLEMS = [Problem(str(n), f"Compute {n}+1", str(n + 1)) for n in range(4)]
FILE = """
from __future__ import annotations
from dataclasses import dataclass, field
from sgpo.methods.grpo import GRPOOptions, decide
from sgpo.methods.method import Method, all_autonomous

@dataclass
class Checked(GRPOOptions):
    hints: str = field(default="", metadata={"help": "A file of hints."})
    steps: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "Several."})

    def refusals(self):
        yield from super().refusals()
        if not self.hints:
            yield "hints must be given"

@dataclass
class Required(GRPOOptions):
    depth: int = field(default=1, metadata={"help": "How deep."})
    teacher: str = field(kw_only=True, metadata={"help": "Whose."})

@dataclass
class Taken(GRPOOptions):
    problems: int = field(default=3, metadata={"help": "A name that is taken."})

CHECKED, REQUIRED, TAKEN = (Method(each, all_autonomous, decide) for each in (Checked, Required, Taken))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def arguments(file: Path, method: str, checkpoint: Path) -> list[str]:
    save_problems(PROBLEMS, file.parent / "problems.jsonl")
    found = ["train", "--method", f"{file}:{method}", "--model", str(checkpoint), "--use_cpu", "true"]
    found += ["--problems", str(file.parent / "problems.jsonl"), "--output_dir", str(file.parent / "run")]
    found += ["--problems_per_rollout", "2", "--updates_per_rollout", "1", "--max_steps", "1"]
    return [*found, "--max_completion_length", "4", "--report_to", "none", "--num_autonomous", "2", "--num_guided", "0"]


@pytest.mark.parametrize(
    ("method", "given", "expected"),
    [
        ("CHECKED", ["--hints", "some.txt"], {"hints": "some.txt", "steps": [1, 2]}),
        ("CHECKED", ["--hints", "some.txt", "--steps", "3", "5"], {"hints": "some.txt", "steps": [3, 5]}),
        ("REQUIRED", ["--teacher", "somebody"], {"teacher": "somebody", "depth": 1}),
    ],
)
def test_options_without_a_usable_default(
    file: Path, checkpoint: Path, method: str, given: list[str], expected: dict[str, object]
) -> None:
    """The method sees its options as they were given, never its defaults before them."""
    assert main([*arguments(file, method, checkpoint), *given]) == 0
    saved = file.parent / "run" / "config.yaml"
    assert expected.items() <= yaml.safe_load(saved.read_text()).items()
    assert main(["train", "--config", str(saved), "--output_dir", str(file.parent / "again")]) == 0


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("CHECKED", [], "hints must be given"),
        ("REQUIRED", [], "--teacher must be given"),
        ("TAKEN", [], "problems is an option of method"),
        ("CHECKED", ["stray"], "'stray' belongs to no option"),
    ],
)
def test_what_is_refused_on_the_command_line(
    file: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], method: str, given: list[str], message: str
) -> None:
    command = arguments(file, method, checkpoint)
    assert main([*command[:3], *given, *command[3:]]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("REQUIRED", {}, "teacher must be given: method"),
        ("TAKEN", {}, "problems is an option of method"),
        ("CHECKED", {"hint": "some.txt"}, "hint is none of the own options of method"),
    ],
)
def test_what_is_refused_in_python(file: Path, method: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SGPOConfig(str(file.parent), method=f"{file}:{method}", method_options=options, use_cpu=True, report_to="none")


def test_no_options_may_be_none(make_config: Callable[..., SGPOConfig], checkpoint: Path, tmp_path: Path) -> None:
    config = make_config(method="grpo", method_options=None, updates_per_rollout=1, max_steps=1)
    SGPOTrainer(str(checkpoint), config, PROBLEMS).train()
    assert "method_options" not in yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
