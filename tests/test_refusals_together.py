"""What cannot work is refused in one message, with a remedy each, as far as one thing does not depend on another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from sgpo import SGPOConfig
from sgpo.cli import main
from sgpo.errors import Refusals, RefusalsError
from sgpo.problems import Problem, save_problems

PROBLEMS = [
    Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), "\\boxed{0}", "Steps: (a) add", {"level": n % 2})
    for n in range(8)
]


@pytest.fixture
def refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[list[str]], str]:
    """What a command says before it exits with status 2, without having loaded weights or written anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("weights were loaded"))
    save_problems(PROBLEMS, "problems.jsonl")

    def run(arguments: list[str]) -> str:
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        capsys.readouterr()
        assert main(arguments) == 2
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        error = capsys.readouterr().err
        start = f"sgpo {arguments[0]}: "
        return error[error.index(start) + len(start) :].rstrip("\n")

    return run


def test_one_refusal_stays_what_it_is() -> None:
    refusals = Refusals()
    with refusals.collected():
        raise FileNotFoundError("there is no file a")
    with pytest.raises(FileNotFoundError, match=r"^there is no file a$"):
        refusals.refuse()


def test_several_refusals_are_numbered_and_said_once() -> None:
    inner, outer = Refusals(), Refusals()
    inner.add(["first", "second"])
    with outer.collected():
        inner.refuse()
    outer.add(["third", "first"])
    with pytest.raises(RefusalsError) as caught:
        outer.refuse()
    assert str(caught.value) == "3 things cannot work:\n  1. first\n  2. second\n  3. third"
    Refusals().refuse()


def test_a_bug_is_no_refusal() -> None:
    refusals = Refusals()
    with pytest.raises(ZeroDivisionError), refusals.collected():
        raise ZeroDivisionError
    assert not refusals


def test_all_values_of_a_configuration_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="things cannot work") as caught:
        SGPOConfig(
            output_dir=str(tmp_path / "run"),
            use_cpu=True,
            method="ppo",
            alpha_rule="none",
            delta=0,
            bad_rows="keep",
            sampler="sglang",
            temperature=0,
            problems_per_rollout=5,
            max_steps=3,
            eval_strategy="steps",
            eval_steps=2.5,
        )
    assert str(caught.value).splitlines() == [
        "9 things cannot work:",
        "  1. method is 'ppo'; choose one of grpo, hpt, luffy, sgpo, or name your own: path/to/file.py:METHOD",
        "  2. alpha_rule is 'none'; choose one of pass_rate, fixed, group_advantage",
        "  3. delta must be positive; for no clipping write delta: .inf",
        "  4. bad_rows is 'keep'; choose one of refuse, drop",
        "  5. sampler is 'sglang'; choose one of transformers, vllm",
        "  6. temperature is 0; it must be positive: without chance all completions of a group are equal, and nothing "
        "is learnt",
        "  7. problems_per_rollout (5) must be a multiple of updates_per_rollout (2): each update takes an equal part "
        "of the rollout batch",
        "  8. max_steps (3) must be a multiple of updates_per_rollout (2): a run ends, and may be resumed, between two "
        "rollout batches",
        "  9. --eval_steps must be an integer if bigger than 1: 2.5",
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["train", "--num_guided", "0", "--top_p", "2", "--updates_per_rollout", "0"],
            [
                "3 things cannot work:",
                "  1. num_guided must be at least 1 for sgpo; without guided completions use method: grpo",
                "  2. top_p is 2.0; it must be above 0 and at most 1 (1: no filter)",
                "  3. problems_per_rollout (128) must be a multiple of updates_per_rollout (0): each update takes an "
                "equal part of the rollout batch",
            ],
        ),
        (
            ["sft", "--validation_share", "1", "--bad_rows", "x"],
            [
                "2 things cannot work:",
                "  1. bad_rows is 'x'; choose one of refuse, drop",
                "  2. validation_share is 1.0; it must be between 0 and 1",
            ],
        ),
        (
            ["eval", "--k", "0", "--sampler", "http", "--limit", "0"],
            [
                "4 things cannot work:",
                "  1. k is 0; it must be at least 1, and 1 with temperature 0, where all samples are equal",
                "  2. limit is 0; it must be at least 1, or left out for all rows",
                "  3. sampler http needs base_url, such as http://localhost:8000/v1",
                "  4. sampler http needs output: a folder where answers, which may be paid for, are kept",
            ],
        ),
    ],
)
def test_all_options_of_a_command_are_refused_together(
    refuse: Callable[[list[str]], str], checkpoint: Path, arguments: list[str], lines: list[str]
) -> None:
    command, *options = arguments
    given = [command, "--model", str(checkpoint), "--problems", "problems.jsonl"]
    if command != "eval":
        given += ["--output_dir", "run", "--use_cpu", "true", "--report_to", "none"]
    assert refuse([*given, *options]).splitlines() == lines
