"""What a user sees in a terminal: our lines and bars, and nothing of the libraries beneath."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from terminal import lines_on_screen, run_in_terminal

from sgpo.miniworld.world import Sizes, create_world
from sgpo.screen import Meter, asks_for_everything, counted, duration, own_warnings, rate
from sgpo.training.config import SGPOConfig
from sgpo.training.progress import FirstUpdate, RunProgress, evaluation_line, peak_memory
from sgpo.training.sft import WarmupConfig

FOREIGN = re.compile(
    r"Loading weights|Tokenizing|Building labels|Truncating|Dropping|Writing model shards|[Dd]eprecat|pin_memory"
    r"|missing keys|Warning: |warnings\.warn|\[transformers\]|\{'"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_world(tmp_path_factory.mktemp("world"), seed=0, sizes=Sizes.only(sft=24, rl=16, dev=6, test=12))


@pytest.mark.integration
def test_a_terminal_shows_what_is_ours(world: Path, tmp_path: Path) -> None:
    warm, trained = str(tmp_path / "sft"), str(tmp_path / "sgpo")
    sft = ["sft", "--config", "miniworld/sft", "--model", f"{world}/base", "--problems", f"{world}/sft.jsonl"]
    sft += ["--output_dir", warm, "--max_steps", "2"]
    train = ["train", "--config", "miniworld/sgpo", "--model", warm, "--problems", f"{world}/rl.jsonl"]
    train += ["--eval_problems", f"{world}/dev.jsonl", "--output_dir", trained, "--max_steps", "2"]
    train += ["--eval_strategy", "steps", "--eval_steps", "2"]
    evaluate = ["eval", "--model", trained, "--problems", f"{world}/test.jsonl", "--max_completion_length", "192"]
    for command in (sft, train, evaluate):
        status, written = run_in_terminal(command)
        assert status == 0, written
        assert [line for line in lines_on_screen(written) if FOREIGN.search(line)] == []


@pytest.mark.integration
def test_verbose_shows_what_the_libraries_say(world: Path, tmp_path: Path) -> None:
    sft = ["sft", "--config", "miniworld/sft", "--model", f"{world}/base", "--problems", f"{world}/sft.jsonl"]
    status, written = run_in_terminal([*sft, "--output_dir", str(tmp_path / "sft"), "--max_steps", "1", "--verbose"])
    assert status == 0, written
    lines = lines_on_screen(written)
    for said in ("Loading weights: 100%", "Tokenizing train dataset: 100%", "Writing model shards: 100%"):
        assert any(line.startswith(said) for line in lines), said


# --- warnings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "category", "everything", "shown"),
    [
        ("transformers.training_args", FutureWarning, False, False),
        ("torch.utils.data", DeprecationWarning, False, False),
        ("transformers.training_args", FutureWarning, True, True),
        ("transformers.trainer", UserWarning, False, True),  # says something about the run
        ("sgpo.training.sft", FutureWarning, False, True),
        ("torchless", FutureWarning, False, True),  # the user's, whatever its name begins with
    ],
)
def test_which_warnings_are_shown(module: str, category: type[Warning], everything: bool, shown: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with own_warnings(everything=everything):
            warnings.warn_explicit("old", category, "file.py", 1, module=module)
    # catch_warnings inside catch_warnings: what is shown reaches the outer record.
    assert len(caught) == int(shown)


@pytest.mark.parametrize(
    ("arguments", "everything"),
    [
        (["train", "--verbose"], True),
        (["train", "--verbose", "--max_steps", "2"], True),
        (["train", "--verbose=true"], True),
        (["train", "--verbose", "false"], False),
        (["train", "--verbose=False"], False),
        (["train", "--output_dir", "verbose"], False),
    ],
)
def test_what_asks_for_everything(arguments: list[str], everything: bool) -> None:
    assert asks_for_everything(arguments) == everything


def test_python_is_told_by_w(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.warnoptions", ["always"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with own_warnings():
            warnings.warn_explicit("old", FutureWarning, "file.py", 1, module="transformers.training_args")
    assert len(caught) == 1


def test_the_warm_up_asks_for_nothing_deprecated(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        args = WarmupConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    assert [str(each.message) for each in caught] == []
    assert (args.activation_checkpointing, args.gradient_checkpointing) == (True, True)  # TRL's default, as before
    assert args.dataloader_pin_memory is False


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("kind", [WarmupConfig, SGPOConfig])
def test_both_names_of_checkpointing_are_followed(kind: Any, value: bool, name: str, tmp_path: Path) -> None:
    args = kind(output_dir=str(tmp_path), use_cpu=True, report_to="none", **{name: value})
    assert (args.activation_checkpointing, args.gradient_checkpointing) == (value, value)


# --- how far something is ---------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_meter_in_words() -> None:
    clock = Clock()
    meter = Meter(2_400, "completions", clock=clock)
    assert meter.text == "0/2,400 completions"
    meter.known(400)
    assert meter.text == "400/2,400 completions"
    clock.now += 10
    meter.add(0, 500)
    assert meter.text == "400/2,400 completions, 50 tokens/s"
    clock.now += 10
    meter.add(40, 41_500)
    # 40 in 20 seconds, what was known takes no part in the rate; 1,960 are left
    assert meter.text == "440/2,400 completions, 2.0/s, 2.10k tokens/s, 16 min 20 s left"
    clock.now += 980
    meter.add(1_960)
    assert meter.text == "2,400/2,400 completions, 2.0/s, 42 tokens/s"
    assert meter.summary == "2,400 completions in 16 min 40 s, 400 of them known before"
    one = Meter(1, "updates", clock=clock)
    one.add(1)
    assert one.summary == "1 update in 0 s"


@pytest.mark.parametrize(
    ("value", "text"),
    [(45.14, "45.1/s"), (1.0, "1.0/s"), (0.5, "30.0/min"), (1 / 3600, "1.0/h"), (1234.5, "1,234.5/s")],
)
def test_rates(value: float, text: str) -> None:
    assert rate(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7_800, "2 h 10 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_where_there_is_no_terminal() -> None:
    file, clock = io.StringIO(), Clock()
    with counted("aime24", 120, "completions", Console(file=file, width=30), clock) as meter:
        for _ in range(4):
            clock.now += 20.0
            meter.add(30, 600)
    # a line is due after 30 seconds, so at 40 and 80; it is never broken, however narrow
    assert file.getvalue().splitlines() == [
        "aime24: 60/120 completions, 1.5/s, 30 tokens/s, 40 s left",
        "aime24: 120/120 completions, 1.5/s, 30 tokens/s",
        "aime24: 120 completions in 1 min 20 s",
    ]


def test_a_bar_in_a_terminal() -> None:
    file, clock = io.StringIO(), Clock()
    with counted("aime24", 120, "completions", Console(file=file, force_terminal=True, width=80), clock) as meter:
        clock.now += 20.0
        meter.add(30, 600)
    assert lines_on_screen(file.getvalue())[0].endswith(" 30 completions in 20 s")


# --- training -----------------------------------------------------------------------------------------------------


def state(step: int) -> Any:
    return SimpleNamespace(is_world_process_zero=True, max_steps=200, global_step=step)


def test_lines_of_a_run_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    progress = RunProgress({"reward/autonomous": "reward", "alpha": "alpha"}, bar=False, clock=clock)
    progress.on_train_begin(None, state(40), None)  # resumed
    for step in (41, 42, 43):
        clock.now += 20.0
        progress.on_step_end(None, state(step), None)
        progress.on_log(None, state(step), None, {"loss": 0.1, "reward/autonomous": step / 100, "entropy": 1.0})
    progress.on_log(None, state(43), None, {"eval_avg_at_4": 0.1974, "eval_standard_error": 0.011, "eval_length": 36.0})
    clock.now += 3.0
    progress.on_train_end(None, state(43), None)
    progress.on_train_end(None, state(43), None)  # Trainer's, after that of Ctrl-C
    out, error = capsys.readouterr()
    assert out == "After 43 updates: avg@4 19.7 ± 1.1 %\n"
    assert error.splitlines() == [
        "42/200 updates, 3.0/min, 52 min 40 s left; reward 0.410",
        "43 updates in 1 min 03 s, 40 of them known before; reward 0.430",
    ]


def test_the_first_update_says_what_it_took(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, whatever comes after it; and again where the run goes on in another process."""
    monkeypatch.setattr("sgpo.training.progress.peak_memory", lambda device: f"memory of {device} at most 2.0 GB")
    clock, args = Clock(), SimpleNamespace(device="cpu")
    first = FirstUpdate(lambda: {"sample": 8.84, "optimise": 4.0}, clock=clock)
    first.on_train_begin(args, state(40), None)
    clock.now += 100.0  # before the update
    for step in (41, 42):
        first.on_step_begin(args, state(step - 1), None)
        clock.now += 14.1
        first.on_step_end(args, state(step), None)
    assert capsys.readouterr().out == (
        "First update: 14.1 s (sample 8.8 s, optimise 4.0 s); memory of cpu at most 2.0 GB\n"
    )
    plain = FirstUpdate(dict, clock=clock)
    other = SimpleNamespace(is_world_process_zero=False)
    for of_process in (state(0), other):
        plain.on_train_begin(args, of_process, None)
        plain.on_step_begin(args, of_process, None)
        plain.on_step_end(args, of_process, None)
    assert capsys.readouterr().out == "First update: 0.0 s; memory of cpu at most 2.0 GB\n"


def test_the_memory_of_a_process_is_what_the_system_counts() -> None:
    said = peak_memory(torch.device("cpu"))
    before = re.fullmatch(r"memory of the process at most ([\d.]+) (GB|MB)", said)
    assert before
    held = torch.ones(300_000_000, dtype=torch.int8)
    after = re.fullmatch(r"memory of the process at most ([\d.]+) (GB|MB)", peak_memory(torch.device("cpu")))
    assert after
    sizes = [float(each[1]) * {"GB": 1e9, "MB": 1e6}[each[2]] for each in (before, after)]
    assert len(held) < sizes[1] + 1e8 < 1e12
    assert sizes[0] <= sizes[1]


def test_the_memory_of_a_gpu_is_what_torch_has_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 31_400_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=79.2e9))
    assert peak_memory(torch.device("cuda", 0)) == "memory at most 31.4 GB of the GPU's 79.2 GB"


def test_which_lines_of_the_log_are_evaluations() -> None:
    assert (
        evaluation_line({"eval_loss": 0.08288, "epoch": 1.0})
        == "loss 0.0829 on the problems that choose the checkpoint"
    )
    assert evaluation_line({"loss": 0.1, "reward/autonomous": 0.2}) is None
