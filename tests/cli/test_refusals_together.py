"""What cannot work is refused in one message, with a remedy each, as far as one thing does not depend on another."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.cli import main
from sgpo.errors import Refusals, RefusalsError
from sgpo.methods.registry import METHODS
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
            bad_rows="keep",
            sampler="sglang",
            temperature=0,
            problems_per_rollout=5,
            max_steps=3,
            eval_strategy="steps",
            eval_steps=2.5,
        )
    assert str(caught.value).splitlines() == [
        "7 things cannot work:",
        f"  1. method is 'ppo'; choose one of {', '.join(sorted(METHODS))}, or name your own: path/to/file.py:METHOD",
        "  2. bad_rows is 'keep'; choose one of refuse, drop",
        "  3. sampler is 'sglang'; choose one of transformers, vllm",
        "  4. temperature is 0; it must be positive: without chance all completions of a group are equal, and nothing "
        "is learnt",
        "  5. problems_per_rollout (5) must be a multiple of updates_per_rollout (2): each update takes an equal part "
        "of the rollout batch",
        "  6. max_steps (3) must be a multiple of updates_per_rollout (2): a run ends, and may be resumed, between two "
        "rollout batches",
        "  7. --eval_steps must be an integer if bigger than 1: 2.5",
    ]
    with pytest.raises(ValueError, match="things cannot work") as caught:
        SGPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, alpha_rule="none", delta=0, hpt_gate=0.5)
    assert str(caught.value).splitlines() == [
        "3 things cannot work:",
        "  1. hpt_gate belongs to method hpt; sgpo does not use it: leave it out",
        "  2. alpha_rule is 'none'; choose one of pass_rate, fixed, group_advantage",
        "  3. delta must be positive; for no clipping write delta: .inf",
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


# --- problems, tokenizer, context ---------------------------------------------------------------------------


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint without chat template and pad token, whose embedding is too small."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    (folder / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    config.vocab_size = 300
    config.save_pretrained(folder)
    return folder


def test_data_rewards_tokenizer_and_folder_are_refused_together(
    refuse: Callable[[list[str]], str], checkpoint: Path, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find(name, *a))
    highest = max(AutoTokenizer.from_pretrained(checkpoint).get_vocab().values())
    rows = [*PROBLEMS[:5], Problem("gold", "Compute 2+2", "}{"), PROBLEMS[0]]
    save_problems([Problem(p.id, p.prompt, p.answer) for p in rows], "bare.jsonl")
    (tmp_path / "dev.jsonl").write_text("[]\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1}\n')
    options = ["--model", str(broken), "--problems", "bare.jsonl", "--eval_problems", "dev.jsonl"]
    options += ["--output_dir", "run", "--use_cpu", "true", "--report_to", "wandb", "--problems_per_rollout", "20"]
    expected = [
        "output_dir run holds another run (metrics.jsonl); write another output_dir, or overwrite: true to delete that "
        "run",
        "dev.jsonl, line 1: expected one JSON object with the columns of a problem, not []",
        f"there is no file r.py to take a reward function from (looked in {tmp_path})",
        "report_to: wandb is not installed; pip install wandb, or leave it out",
        "the tokenizer has no chat template; train an instruction-tuned checkpoint, or put a "
        "chat_template.jinja beside the model",
        "the tokenizer has no pad token; set pad_token to a token that no text contains, such as '<|pad|>'",
        f"the tokenizer has token ids up to {highest}, the model's embedding only 300 rows; take the model's own "
        "tokenizer, or enlarge the model with model.resize_token_embeddings",
        "training problems: 2 of 7 rows cannot be used: duplicate: 1, e.g. row 6 (id 'p0') has the prompt and answer "
        "of row 0; gold not parsed: 1, e.g. row 5 (id 'gold') has the answer '}{', which the verifier cannot parse. "
        "Mend them, or leave them out with bad_rows: drop",
        "method sgpo needs strategies, and no problem has one; fill the column 'strategy', or use method: grpo",
        "7 problems do not fill a rollout batch of 20; lower problems_per_rollout or give more problems",
    ]
    own_reward = [line for line in expected if "r.py" not in line]
    assert refuse(["train", *options]).splitlines() == numbered(own_reward)
    # What an unknown reward makes of the golds is not known.
    expected[7] = expected[7].replace(
        "; gold not parsed: 1, e.g. row 5 (id 'gold') has the answer '}{', which the ", ""
    )
    expected[7] = expected[7].replace("verifier cannot parse", "").replace("2 of 7", "1 of 7")
    assert refuse(["train", *options, "--rewards", "r.py:f"]).splitlines() == numbered(expected)


def numbered(lines: list[str]) -> list[str]:
    return [f"{len(lines)} things cannot work:", *(f"  {n}. {line}" for n, line in enumerate(lines, start=1))]


def test_what_is_too_long_for_the_context_is_refused_together(
    refuse: Callable[[list[str]], str], checkpoint: Path
) -> None:
    """The checkpoint has 512 positions."""
    options = ["--model", str(checkpoint), "--problems", "problems.jsonl", "--output_dir", "run", "--use_cpu", "true"]
    options += ["--report_to", "none", "--max_completion_length", "500", "--max_tokens_per_microbatch", "30"]
    found = refuse(["train", *options, "--problems_per_rollout", "10", "--eval_strategy", "epoch"]).splitlines()
    beginnings = [
        "4 things cannot work:",
        "  1. eval_strategy epoch needs eval_problems; give some, or leave it out",
        "  2. the model's context of 512 tokens is too short: max_completion_length 500 and the shortest prompt, ",
        "  3. 8 problems do not fill a rollout batch of 10; lower problems_per_rollout or give more problems",
        "  4. max_tokens_per_microbatch (30) is below the longest prompt, ",
    ]
    assert len(found) == len(beginnings)
    assert all(line.startswith(start) for line, start in zip(found, beginnings, strict=True)), found


def test_a_warm_up_refuses_together(refuse: Callable[[list[str]], str], broken: Path, tmp_path: Path) -> None:
    save_problems([Problem(p.id, p.prompt, p.answer) for p in PROBLEMS], "bare.jsonl")
    options = ["--model", str(broken), "--output_dir", "bare.jsonl", "--use_cpu", "true", "--report_to", "none"]
    found = refuse(["sft", *options, "--problems", "bare.jsonl"]).splitlines()
    assert found[:2] == ["5 things cannot work:", "  1. output_dir bare.jsonl is a file; write a folder's name"]
    assert found[5].startswith("  5. SFT learns strong-model responses; 8 of 8 problems have none")
    (tmp_path / "broken.jsonl").write_text("[]\n")
    found = refuse(["sft", *options, "--problems", "broken.jsonl"]).splitlines()
    assert found[0] == "5 things cannot work:"
    assert found[2] == "  2. broken.jsonl, line 1: expected one JSON object with the columns of a problem, not []"


def test_a_model_that_is_not_there_hides_no_other_refusal(tmp_path: Path) -> None:
    args = SGPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none", problems_per_rollout=10)
    with pytest.raises(RefusalsError) as caught:
        SGPOTrainer("./nowhere", args, train_dataset=PROBLEMS)
    assert caught.value.messages == [
        f"there is no folder ./nowhere to take the model from (looked in {Path.cwd()})",
        "8 problems do not fill a rollout batch of 10; lower problems_per_rollout or give more problems",
    ]


def test_the_api_refuses_together(checkpoint: Path, tmp_path: Path) -> None:
    args = SGPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none", problems_per_rollout=10)
    with pytest.raises(RefusalsError) as caught:
        SGPOTrainer(str(checkpoint), args, train_dataset=[*PROBLEMS, PROBLEMS[0]], reward_weights=[1.0, 2.0])
    assert [message[:40] for message in caught.value.messages] == [
        "1 reward functions need as many reward_w",
        "training problems: 1 of 9 rows cannot be",
        "9 problems do not fill a rollout batch o",
    ]
