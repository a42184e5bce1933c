"""What is refused at the start: one line that says what to write instead, before weights are loaded, nothing written.

The table of docs/errors.md lists the same.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, SchedulerType

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.cli import main
from sgpo.configuration import recipes
from sgpo.errors import NoSpaceError
from sgpo.problems import Problem, save_problems
from sgpo.runs.checkpoints import newest_checkpoint
from sgpo.runs.folder import explained_lack_of_space

PROBLEMS = [
    Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), "\\boxed{0}", "Steps: (a) add", {"level": n % 2})
    for n in range(8)
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with problems; weights may not be loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("weights were loaded"))
    save_problems(PROBLEMS, "problems.jsonl")
    return tmp_path


Refuse = Callable[..., str]


@pytest.fixture
def refuse(folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """What a command says before it exits with status 2, without having written anything."""

    def run(command: str, *changes: str, model: Path | str = checkpoint, problems: str = "problems.jsonl") -> str:
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        arguments = [command, "--model", str(model), "--problems", problems]
        if command != "eval":
            arguments += ["--output_dir", "run", "--use_cpu", "true", "--report_to", "none"]
        if command == "train":
            arguments += ["--problems_per_rollout", "4", "--max_steps", "2", "--max_completion_length", "12"]
        capsys.readouterr()
        assert main([*arguments, *changes]) == 2
        after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert before == after
        start = f"sgpo {command}: "
        error = capsys.readouterr().err.strip()
        assert start in error
        return error[error.index(start) + len(start) :]

    return run


# --- configuration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["--learning_rat", "1e-4", "--zzz=1"],
            "unknown in the command line: --learning_rat (did you mean --learning_rate?), --zzz; sgpo train "
            "--help all lists "
            "what is known",
        ),
        (["--num_guided", "2.5"], "num_guided is '2.5'; it must be a whole number"),
        (["--top_p", "x"], "top_p is 'x'; it must be a number"),
        (["--train_autonomous", "maybe"], "train_autonomous is 'maybe'; it must be true or false"),
        (["--save_strategy", "often"], "save_strategy is 'often'; choose one of no, steps, epoch, best"),
        (["--eval_strategy", "often"], "eval_strategy is 'often'; choose one of no, steps, epoch"),
        (["--limit"], "--limit needs a value"),
        (["--columns"], "--columns needs a value, or several"),
        (["--num_guided", "0"], "num_guided must be at least 1 for sgpo; without guided completions use method: grpo"),
        (
            ["--num_autonomous", "1"],
            "num_autonomous must be at least 2: an advantage compares completions of one group",
        ),
        (["--delta", "0"], "delta must be positive; for no clipping write delta: .inf"),
        (["--delta", "nan"], "delta must be positive; for no clipping write delta: .inf"),
        (["--eps_high", "-1"], "eps_high is -1.0; it must be 0 or positive"),
        (
            ["--alpha_smoothing", "0"],
            "alpha_smoothing must be positive: it divides where no autonomous completion is correct",
        ),
        (
            ["--temperature", "0"],
            "temperature is 0.0; it must be positive: without chance all completions of a group are equal, and "
            "nothing is "
            "learnt",
        ),
        (["--top_p", "1.5"], "top_p is 1.5; it must be above 0 and at most 1 (1: no filter)"),
        (["--max_completion_length", "0"], "max_completion_length is 0; it must be at least 1"),
        (["--eval_temperature", "-1"], "eval_temperature is -1.0; it must be positive, or 0 for greedy"),
        (["--completions_steps", "-1"], "completions_steps is -1; it must be positive, or 0 for no tables"),
        (
            ["--ddp_broadcast_buffers", "true"],
            "ddp_broadcast_buffers must be false: processes with fewer forward passes would hang; leave it out",
        ),
        (
            ["--method", "ppo"],
            "method is 'ppo'; choose one of grpo, hpt, luffy, sgpo, or name your own: path/to/file.py:METHOD",
        ),
        (
            ["--sampler", "vllm"],
            "sampler vllm needs vLLM, which is not installed here; install it as docs/sampling.md says, or use "
            "sampler: transformers",
        ),
        (
            ["--vllm_mode", "server"],
            "vllm_mode: no effect without sampler: vllm; write that too, or leave vllm_mode out",
        ),
        (["--bad_rows", "keep"], "bad_rows is 'keep'; choose one of refuse, drop"),
        (
            ["--problems_per_rollout", "5"],
            "problems_per_rollout (5) must be a multiple of updates_per_rollout (2): each update takes an equal "
            "part of "
            "the rollout batch",
        ),
        (
            ["--per_device_train_batch_size", "8"],
            "per_device_train_batch_size (8) follows from problems_per_rollout / updates_per_rollout (2): leave "
            "it out and "
            "set those",
        ),
        (
            ["--save_steps", "3"],
            "save_steps (3.0) must be a multiple of updates_per_rollout (2): a checkpoint stands between two rollout "
            "batches",
        ),
        (
            ["--max_tokens_per_microbatch", "30"],
            "max_tokens_per_microbatch (30) is below the longest prompt, {longest} tokens, and "
            "max_completion_length (12) "
            "together; set it to {needed} or more, or lower max_completion_length",
        ),
        (
            ["--sampler_batch_tokens", "30"],
            "sampler_batch_tokens (30) is below the longest prompt, {longest} tokens, and max_completion_length (12) "
            "together; set it to {needed} or more, or lower max_completion_length",
        ),
        (
            ["--max_completion_length", "500"],
            "the model's context of 512 tokens is too short: max_completion_length 500 and the shortest prompt, "
            "{shortest} tokens, exceed it; lower max_completion_length, or take a model with a longer context",
        ),
        (["--eval_strategy", "epoch"], "eval_strategy epoch needs eval_problems; give some, or leave it out"),
        (
            ["--problems_per_rollout", "10"],
            "8 problems do not fill a rollout batch of 10; lower problems_per_rollout or give more problems",
        ),
        (["--pad_token", "<none>"], "pad_token '<none>' is not in the tokenizer's vocabulary; take a token that is"),
        (["--rewards", "r.py:f"], "there is no file r.py to take a reward function from (looked in {folder})"),
        (
            ["--rewards", "nowhere:f"],
            "there is no module 'nowhere' to take a reward function from: install it, or give the file as "
            "path/to/file.py:function",
        ),
        (["--rewards", "sgpo.rewards:f"], "reward 'sgpo.rewards:f': sgpo.rewards has no function 'f'"),
        (["--skip_grad_norm", "0"], "skip_grad_norm is 0.0; it must be positive, or left out"),
        (
            ["--method", "grpo", "--hpt_gate", "0.5"],
            "hpt_gate belongs to method hpt; grpo does not use it: leave it out",
        ),
        (["--method", "hpt", "--hpt_gate", "1"], "hpt_gate is 1.0; it is a pass rate and must be below 1"),
        (["--distillation", "kl"], "distillation is 'kl'; choose one of forward_kl, reverse_kl, likelihood"),
        (["--resume"], "there is no checkpoint in run to resume from; leave out --resume"),
        (["--resume", "--overwrite"], "overwrite and resume exclude each other: leave out one of them"),
        (
            ["--config", "miniworld/spgo"],
            "there is no file miniworld/spgo with a configuration (looked in {folder}), and no recipe of that "
            "name (did "
            f"you mean miniworld/sgpo?); the recipes are {', '.join(recipes())}",
        ),
        (
            ["--config"],
            f"--config needs a file or a recipe; the recipes are {', '.join(recipes())}",
        ),
    ],
)
def test_training_refuses(refuse: Refuse, folder: Path, tokenizer: Any, changes: list[str], message: str) -> None:
    from sgpo.tokenizers import PromptLengths

    lengths = PromptLengths(tokenizer, SGPOConfig.system_prompt, guided=True)(PROBLEMS)
    numbers = {"longest": max(lengths), "shortest": min(lengths), "needed": max(lengths) + 12}
    assert refuse("train", *changes) == message.format(**numbers, folder=folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "learning_rat: 1\nmodl: m\n",
            "unknown in my.yaml: learning_rat (did you mean learning_rate?), modl (did you mean model?); sgpo "
            "train --help all "
            "lists what is known",
        ),
        (
            "eval_strategy: no\n",
            "eval_strategy: YAML reads no, off or false without quotes as False; write it in quotes",
        ),
        ("num_guided: 2.5\n", "num_guided is '2.5'; it must be a whole number"),
        (
            "env:\n  SGPO_OF_A_TEST: 1\n",
            "my.yaml sets variables of the environment (env), which libraries read before any file is: leave env "
            "out, and "
            "begin the command with them: SGPO_OF_A_TEST=1 sgpo train ...",
        ),
        ("- a\n", "my.yaml must hold lines of the form key: value"),
        ("", "my.yaml must hold lines of the form key: value"),
    ],
)
def test_configuration_files_are_refused(refuse: Refuse, folder: Path, text: str, message: str) -> None:
    (folder / "my.yaml").write_text(text)
    before = dict(os.environ)
    assert refuse("train", "--config", "my.yaml") == message
    assert dict(os.environ) == before


def test_broken_yaml_is_refused(refuse: Refuse, folder: Path) -> None:
    (folder / "my.yaml").write_text("a: [1\n")
    assert refuse("train", "--config", "my.yaml").startswith("my.yaml is not valid YAML: while parsing a flow sequence")


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    [
        (
            "sft",
            ["--lr_scheduler_type", "step"],
            f"lr_scheduler_type is 'step'; choose one of {', '.join(each.value for each in SchedulerType)}",
        ),
        ("sft", ["--validation_share", "1"], "validation_share is 1.0; it must be between 0 and 1"),
        ("sft", ["--bad_rows", "x"], "bad_rows is 'x'; choose one of refuse, drop"),
        ("eval", ["--k", "0"], "k is 0; it must be at least 1, and 1 with temperature 0, where all samples are equal"),
        (
            "eval",
            ["--temperature", "0"],
            "k is 4; it must be at least 1, and 1 with temperature 0, where all samples are equal",
        ),
        ("eval", ["--group_by", "famly"], "group_by: there is no column 'famly'; the further columns are level"),
        ("eval", ["--bad_rows", "x"], "bad_rows is 'x'; choose one of refuse, drop"),
        ("eval", ["--limit", "0"], "limit is 0; it must be at least 1, or left out for all rows"),
        ("eval", ["--sampler", "sglang"], "sampler is 'sglang'; choose one of transformers, vllm, http"),
        ("eval", ["--dtype", "int8"], "dtype is 'int8'; choose one of float32, bfloat16, float16"),
        (
            "eval",
            ["--sampler", "http", "--output", "x"],
            "sampler http needs base_url, such as http://localhost:8000/v1",
        ),
        (
            "eval",
            ["--sampler", "http", "--base_url", "http://localhost:1/v1"],
            "sampler http needs output: a folder where answers, which may be paid for, are kept",
        ),
        (
            "eval",
            ["--base_url", "http://localhost:1/v1"],
            "base_url is for sampler http, not transformers: add --sampler http, or leave it out",
        ),
        (
            "eval",
            ["--benchmarks", "folder/problems.jsonl"],
            "there is no file folder/problems.jsonl with problems (looked in {folder})",
        ),
        (
            "eval",
            ["--benchmarks", "problems.jsonl"],
            "two of the sets are called 'problems': leave one out, or give its file another name",
        ),
    ],
)
def test_warm_up_and_evaluation_refuse(
    refuse: Refuse, folder: Path, command: str, changes: list[str], message: str
) -> None:
    assert refuse(command, *changes) == message.replace("{folder}", str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--vllm_max_model_length", "64"], "vllm_max_model_length: no effect without sampler vllm; add it, or leave"),
        (["--sampler", "vllm", "--temperature", "2.5"], "temperature is 2.5; vLLM takes 2.0 at most"),
        (["--sampler", "vllm", "--vllm_gpu_memory_utilization", "1.5"], "vllm_gpu_memory_utilization is 1.5; it must"),
    ],
)
def test_engines_of_an_evaluation_refuse(
    refuse: Refuse, monkeypatch: pytest.MonkeyPatch, changes: list[str], message: str
) -> None:
    monkeypatch.setattr("sgpo.sampling.engines.check_vllm", lambda mode: None)  # as if it were installed
    assert refuse("eval", *changes).startswith(message)


def test_an_evaluation_with_vllm_needs_vllm(refuse: Refuse) -> None:
    if importlib.util.find_spec("vllm") is None:
        assert refuse("eval", "--sampler", "vllm").startswith("sampler vllm needs vLLM, which is not installed here")


def test_an_evaluation_needs_problems_and_room_for_an_answer(
    refuse: Refuse, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "--model", str(checkpoint)]) == 2
    assert "there is nothing to evaluate on: give benchmarks, such as math500,aime24" in capsys.readouterr().err
    assert re.fullmatch(
        r"sampler_batch_tokens \(41\) is below the longest prompt, \d+ tokens, and max_completion_length \(40\) "
        r"together; set it to \d+ or more, or lower max_completion_length",
        refuse("eval", "--sampler_batch_tokens", "41", "--max_completion_length", "40"),
    )


# --- problems -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "broken.jsonl",
            '{"prompt": "p", "answer": "1"}\n{"prompt"\n',
            "broken.jsonl, line 2: not valid JSON (Expecting",
        ),
        ("list.jsonl", "[1]\n", "list.jsonl, line 1: expected one JSON object with the columns of a problem, not [1]"),
        ("latin.jsonl", b'{"prompt": "\xe9"}\n', "latin.jsonl, line 1: not text in UTF-8 ("),
        ("data.parquet", "no Parquet", "data.parquet: not a readable Parquet file ("),
        ("data.csv", "a,b\n", "data.csv: problems are read from .parquet, .jsonl, .json files, not '.csv'"),
        ("nowhere.csv", None, "nowhere.csv: problems are read from .parquet, .jsonl, .json files, not '.csv'"),
        ("nowhere.jsonl", None, "there is no file nowhere.jsonl with problems (looked in {folder})"),
        ("empty.jsonl", "", "empty.jsonl has no rows, so no problems"),
    ],
)
def test_files_are_refused(refuse: Refuse, folder: Path, name: str, content: str | bytes | None, message: str) -> None:
    if content is not None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for command in ("train", "sft", "eval"):
        assert refuse(command, problems=name).startswith(message.format(folder=folder))


def test_a_guided_evaluation_without_strategies(refuse: Refuse) -> None:
    some = [replace(problem, strategy=None) if n in (2, 5, 7) else problem for n, problem in enumerate(PROBLEMS)]
    save_problems(some, "some.jsonl")
    assert refuse("eval", "--guided", "--require_strategies", problems="some.jsonl") == (
        "some: 3 of 8 problems have no strategy, e.g. p2: fill the column 'strategy', or leave require_strategies out "
        "to evaluate the other 5"
    )
    save_problems([replace(problem, strategy=None) for problem in PROBLEMS], "bare.jsonl")
    for options in ([], ["--require_strategies"]):
        assert refuse("eval", "--guided", *options, problems="bare.jsonl") == (
            "a guided evaluation needs strategies, and no problem of bare has one: fill the column 'strategy', name "
            "it by --columns strategy=NAME, or leave guided out"
        )
    assert refuse("eval", "--require_strategies") == (
        "require_strategies: no effect without guided; add it, or leave require_strategies out"
    )


@pytest.mark.parametrize("command", ["train", "sft", "eval"])
def test_a_column_with_another_name_is_named_by_an_option(refuse: Refuse, folder: Path, command: str) -> None:
    (folder / "other.jsonl").write_text('{"text": "1+1", "answer": "2"}\n')
    assert refuse(command, problems="other.jsonl") == (
        "other.jsonl, row 0: no prompt: name its column with --columns prompt=NAME (in Python columns={'prompt': "
        "'NAME'}); the data has the columns text, answer"
    )
    assert refuse(command, "--columns", "prompt=txt", problems="other.jsonl") == (
        "other.jsonl: there is no column 'txt' for 'prompt'; the data has the columns text, answer"
    )
    assert refuse(command, "--columns", "promt=text", problems="other.jsonl") == (
        "columns: 'promt' is none of the fields of a problem, which are id, prompt, answer, response, strategy"
    )


def test_revision_of_a_file_is_refused(refuse: Refuse) -> None:
    message = "problems.jsonl is a file, which has no revision: leave out revision 'main'"
    assert refuse("train", "--revision", "main") == message


BAD_ROWS = [
    Problem("double", PROBLEMS[3].prompt, PROBLEMS[3].answer, "\\boxed{9}", "Steps: (a) add"),
    Problem("empty", "Compute 1+1", "", "\\boxed{2}", "Steps: (a) add"),
    Problem("gold", "Compute 2+2", "}{", "\\boxed{4}", "Steps: (a) add"),
    Problem("long", "Compute " + "1+" * 600 + "1", "601", "\\boxed{601}", "Steps: (a) add"),
    Problem("p2", "Compute 7*7", "49", "\\boxed{49}", "Steps: (a) multiply"),
]


def test_bad_rows_are_counted_with_an_example_each(refuse: Refuse, tokenizer: Any) -> None:
    from sgpo.tokenizers import PromptLengths

    save_problems(PROBLEMS, "dev.jsonl")
    save_problems([*PROBLEMS, *BAD_ROWS], "bad.jsonl")
    (length,) = PromptLengths(tokenizer, SGPOConfig.system_prompt, guided=True)([BAD_ROWS[3]])
    start = "5 of 13 rows cannot be used: empty field: 1, e.g. row 9 (id 'empty') has no answer; "
    middle = (
        "duplicate: 1, e.g. row 8 (id 'double') has the prompt and answer of row 3; id used twice: 1, e.g. row 12 (id "
        "'p2') has the id of row 2; gold not parsed: 1, e.g. row 10 (id 'gold') has the answer '}{', which the "
        "verifier cannot parse; "
    )
    end = ". Mend them, or leave them out with bad_rows: drop"
    expected = (
        f"training problems: {start}{middle}prompt too long: 1, e.g. row 11 (id 'long') has {length} tokens, "
        f"max_completion_length 12 of 512 positions leaves 500{end}"
    )
    assert refuse("train", problems="bad.jsonl") == expected
    unguided = PromptLengths(tokenizer, SGPOConfig.system_prompt, guided=False)([BAD_ROWS[3]])[0]
    assert refuse("train", "--eval_problems", "bad.jsonl") == expected.replace("training", "evaluation").replace(
        str(length), str(unguided)
    )
    assert refuse("eval", problems="bad.jsonl") == (
        f"bad: {start}{middle}prompt too long: 1, e.g. row 11 (id 'long') has {unguided} tokens, the model's "
        f"context "
        f"of 512 leaves 511{end}"
    )


def test_bad_rows_of_the_warm_up(refuse: Refuse, tokenizer: Any) -> None:
    """Two responses to one problem are two rows to learn from, ids and golds play no part."""
    rows = [Problem("none", "Compute 5+5", "10"), PROBLEMS[0], Problem("again", *_content(PROBLEMS[0]))]
    save_problems([*PROBLEMS, *BAD_ROWS[:3], *rows], "bad.jsonl")
    assert refuse("sft", problems="bad.jsonl") == (
        "training problems: 4 of 14 rows cannot be used: empty field: 1, e.g. row 9 (id 'empty') has no answer; "
        "no response: "
        "1, e.g. row 11 (id 'none') has no response; duplicate: 2, e.g. row 12 (id 'p0') has the prompt, answer and "
        "response of row 0. Mend them, or leave them out with bad_rows: drop"
    )
    (line,) = {refuse("sft", "--max_length", "10")}
    assert line.startswith("training problems: 8 of 8 rows cannot be used: prompt and response too long: 8, e.g. row 0")
    assert refuse("sft", "--limit", "1") == (
        "1 problem is too few for SFT: one at least is kept to choose the checkpoint"
    )


def _content(problem: Problem) -> tuple[str, str, str | None]:
    return problem.prompt, problem.answer, problem.response


def test_no_row_left_is_refused(refuse: Refuse) -> None:
    save_problems([Problem("a", "p", " "), Problem("b", " ", "1")], "bad.jsonl")
    assert refuse("train", "--bad_rows", "drop", problems="bad.jsonl") == (
        "training problems: 2 of 2 rows cannot be used, so none is left: empty field: 2, e.g. row 0 (id 'a') has "
        "no answer"
    )


def test_golds_are_the_reward_functions_business(refuse: Refuse, folder: Path) -> None:
    """Another reward than Math-Verify may know what to do with them: here only the context is left to refuse."""
    save_problems([*PROBLEMS, BAD_ROWS[2]], "bad.jsonl")
    (folder / "r.py").write_text("def f(completions, **columns):\n    return [0.0 for _ in completions]\n")
    changes = ["--rewards", "r.py:f", "--problems_per_rollout", "10"]
    assert refuse("train", *changes, problems="bad.jsonl").startswith("9 problems do not fill a rollout batch of 10")


def test_no_strategies_are_refused(refuse: Refuse) -> None:
    save_problems([Problem(p.id, p.prompt, p.answer) for p in PROBLEMS], "bare.jsonl")
    assert refuse("train", problems="bare.jsonl") == (
        "method sgpo needs strategies, and no problem has one; fill the column 'strategy', or use method: grpo"
    )


# --- model and tokenizer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "sft", "eval"])
def test_models_that_are_not_there(refuse: Refuse, folder: Path, checkpoint: Path, command: str) -> None:
    (folder / "runs" / "bare").mkdir(parents=True)
    shutil.copy(checkpoint / "config.json", folder / "runs" / "config.json")
    cases = {
        "runs/nothing": f"there is no folder runs/nothing to take the model from (looked in {folder})",
        "./nothing": f"there is no folder ./nothing to take the model from (looked in {folder})",
        "runs/bare": "model runs/bare has no config.json, so it is no checkpoint that transformers can load",
        "runs": "model runs has no tokenizer; copy there the tokenizer's files of the model that it was made from",
        "problems.jsonl": "model problems.jsonl is a file; write the folder that holds it, or a model's name on "
        "the Hub",
    }
    for model, message in cases.items():
        assert refuse(command, model=model) == message
    _checkpoint_in(folder / "runs" / "bare", 4)
    assert refuse(command, model="runs/bare").endswith("; its newest checkpoint is runs/bare/checkpoint-4")


def test_a_model_that_the_hub_has_not(refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(name: str) -> None:
        raise OSError(f"{name} is not a valid model identifier\nIf this is a private repository ...")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # whatever the environment says
    monkeypatch.setattr("sgpo.hub.out_of_reach", lambda address: None)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", not_found)
    assert refuse("train", model="someone/nothing") == (
        "the model 'someone/nothing' is no folder here, and cannot be read from the Hub: someone/nothing is not "
        "a valid "
        "model identifier"
    )


@pytest.mark.parametrize("command", ["train", "sft", "eval"])
def test_tokenizers_are_refused(refuse: Refuse, folder: Path, checkpoint: Path, command: str) -> None:
    def changed(name: str, **attributes: Any) -> str:
        shutil.copytree(checkpoint, folder / name)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        for attribute, value in attributes.items():
            setattr(tokenizer, attribute, value)
        (folder / name / "chat_template.jinja").unlink()
        tokenizer.save_pretrained(folder / name)
        return name

    assert refuse(command, model=changed("template", chat_template=None)) == (
        "the tokenizer has no chat template; train an instruction-tuned checkpoint, or put a "
        "chat_template.jinja beside the model"
    )
    assert refuse(command, model=changed("pad", pad_token=None)) == (
        "the tokenizer has no pad token; set pad_token to a token that no text contains, such as '<|pad|>'"
    )
    small = folder / changed("vocabulary")
    config = AutoConfig.from_pretrained(small)
    rows, config.vocab_size = config.vocab_size, 300
    config.save_pretrained(small)
    assert refuse(command, model=small) == (
        f"the tokenizer has token ids up to {rows - 1}, the model's embedding only 300 rows; take the model's own "
        "tokenizer, or enlarge the model with model.resize_token_embeddings"
    )


def test_a_pad_token_can_be_given(refuse: Refuse, folder: Path, checkpoint: Path) -> None:
    """The next refusal comes: that of the tokenizer is over."""
    shutil.copytree(checkpoint, folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder / "model")
    changes = ["--pad_token", "<|end|>", "--problems_per_rollout", "10"]
    assert refuse("train", *changes, model="model").startswith("8 problems do not fill a rollout batch")


# --- the output folder --------------------------------------------------------------------------------------


def _checkpoint_in(folder: Path, step: int, *, complete: bool = True, **run: Any) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_text("weights")
    if complete:
        manifest = {"files": {"model.safetensors": 7}, "data": {}, "configuration": {}, "processes": 1}
        (checkpoint / "checkpoint.json").write_text(json.dumps(manifest | {"resumable": True} | run))
    return checkpoint


@pytest.mark.parametrize("command", ["train", "sft"])
def test_another_run_is_not_overwritten(refuse: Refuse, folder: Path, checkpoint: Path, command: str) -> None:
    run = folder / "run"
    run.mkdir()
    (run / "config.yaml").write_text("a run that died before its first update has nothing to lose\n")
    assert refuse(command, "--bad_rows", "x").startswith("bad_rows")
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    assert refuse(command) == (
        "output_dir run holds another run (metrics.jsonl); write another output_dir, or overwrite: true to "
        "delete that run"
    )
    _checkpoint_in(run, 2)
    assert refuse(command) == (
        "output_dir run holds another run (checkpoint-2); add --resume to go on with it, write another output_dir, or "
        "overwrite: true to delete that run"
    )
    shutil.copytree(checkpoint, run / "checkpoint-2", dirs_exist_ok=True)
    assert refuse(command, "--overwrite", model="run/checkpoint-2") == (
        "the model run/checkpoint-2 lies in output_dir run, which overwrite would delete; write another output_dir"
    )
    assert refuse(command, "--output_dir", "problems.jsonl") == (
        "output_dir problems.jsonl is a file; write a folder's name"
    )


def test_a_checkpoint_that_was_cut_off_is_none(
    refuse: Refuse, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _checkpoint_in(folder / "run", 4)
    (folder / "run" / "checkpoint-4" / "model.safetensors").write_text("w")
    _checkpoint_in(folder / "run", 6, complete=False)
    _checkpoint_in(folder / "run" / "unfinished", 8, complete=False)
    assert refuse("train", "--resume") == "there is no checkpoint in run to resume from; leave out --resume"
    _checkpoint_in(folder / "run", 2)
    assert newest_checkpoint("run") == Path("run/checkpoint-2")
    assert capsys.readouterr().out.splitlines() == [
        "run/unfinished/checkpoint-8 was cut off while it was written, and is ignored.",
        "run/checkpoint-4 is not complete (model.safetensors has 1 bytes of 7), and is ignored.",
        "run/checkpoint-6 is not complete (checkpoint.json is missing), and is ignored.",
    ]


def test_another_evaluation_is_not_overwritten(refuse: Refuse, folder: Path, checkpoint: Path) -> None:
    (folder / "scores").mkdir()
    (folder / "scores" / "summary.json").write_text("{}")
    assert refuse("eval", "--output", "scores") == (
        "output scores holds another evaluation (summary.json); write another output, or overwrite: true to replace it"
    )


def test_other_data_than_that_of_the_run_are_refused(refuse: Refuse, folder: Path) -> None:
    entry = {"source": "problems.jsonl", "problems": 9, "fingerprint": "0123456789abcdef"}
    _checkpoint_in(folder / "run", 2, data={"train": entry, "eval": None})
    from sgpo.problems.inspection import fingerprint

    assert refuse("train", "--resume") == (
        "the train data is not that of run/checkpoint-2: 9 problems with fingerprint 0123456789abcdef then, 8 with "
        f"{fingerprint(PROBLEMS)} now; resume with the old data, or begin a new run in another output_dir"
    )


@pytest.mark.parametrize("command", ["train", "sft"])
def test_another_configuration_than_that_of_the_run_is_refused(refuse: Refuse, folder: Path, command: str) -> None:
    was = {"seed": 1, "learning_rate": 0.5, "save_steps": 7, "unknown_to_this_version": 1}
    _checkpoint_in(folder / "run", 2, configuration=was, processes=2)
    assert refuse(command, "--resume", "--learning_rate", "1e-3", "--seed", "1") == (
        "run/checkpoint-2 was made with another configuration: learning_rate was 0.5, is 0.001; number of processes "
        "was 2, is 1. Resume with the old values, or begin a new run in another output_dir"
    )


def test_the_number_of_updates_belongs_to_a_schedule_that_depends_on_it(refuse: Refuse, folder: Path) -> None:
    _checkpoint_in(folder / "run", 2, configuration={"lr_scheduler_type": "linear", "max_steps": 8})
    assert refuse("train", "--resume", "--lr_scheduler_type", "linear") == (
        "run/checkpoint-2 was made with another configuration: max_steps was 8, is 2. Resume with the old values, or "
        "begin a new run in another output_dir"
    )


def test_a_checkpoint_of_weights_alone_is_not_resumed(refuse: Refuse, folder: Path) -> None:
    _checkpoint_in(folder / "run", 2, resumable=False)
    assert refuse("train", "--resume") == (
        "run/checkpoint-2 holds the weights alone (save_only_model), which is no state to go on from; begin a new run "
        "with it as the model"
    )


@pytest.mark.parametrize("command", ["train", "sft"])
@pytest.mark.parametrize(
    ("name", "gone", "install"),
    [
        ("wandb", {"wandb"}, "wandb"),
        ("trackio", {"trackio"}, "trackio"),
        ("tensorboard", {"tensorboard", "tensorboardX"}, "tensorboard"),
        ("mlflow", {"mlflow"}, "mlflow"),
        ("dagshub", {"dagshub", "mlflow"}, "dagshub mlflow"),
        ("azure_ml", {"azureml"}, "azureml-sdk"),
        ("comet_ml", {"comet_ml"}, "comet-ml"),
        ("flyte", {"flytekit"}, "flytekit"),
    ],
)
def test_a_tracker_that_is_not_installed(
    refuse: Refuse, monkeypatch: pytest.MonkeyPatch, command: str, name: str, gone: set[str], install: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module, *a: None if module in gone else find(module, *a))
    assert refuse(command, "--report_to", name) == (
        f"report_to: {name} is not installed; pip install {install}, or leave it out"
    )


@pytest.mark.parametrize("command", ["train", "sft"])
def test_a_tracker_that_does_not_exist(refuse: Refuse, command: str) -> None:
    assert refuse(command, "--report_to", "tensorbord") == (
        "report_to: there is no tracker tensorbord (did you mean tensorboard?); there are azure_ml, clearml, "
        "codecarbon, comet_ml, dagshub, dvclive, flyte, kubeflow, mlflow, neptune, swanlab, tensorboard, trackio, wandb"
    )


def test_the_api_refuses_with_value_errors(
    checkpoint: Path, make_config: Callable[..., SGPOConfig], tmp_path: Path
) -> None:
    _checkpoint_in(tmp_path / "run", 2)
    trainer = SGPOTrainer(str(checkpoint), make_config(), train_dataset=PROBLEMS)
    with pytest.raises(ValueError, match=r"holds another run \(checkpoint-2\); add --resume"):
        trainer.train()
    assert (tmp_path / "run" / "checkpoint-2").exists()
    with pytest.raises(ValueError, match=r"training problems: 1 of 9 rows cannot be used: duplicate: 1"):
        SGPOTrainer(str(checkpoint), make_config(), train_dataset=[*PROBLEMS, BAD_ROWS[0]])


# --- room on the device -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "changes", "checkpoints"),
    [
        ("train", ["--save_strategy", "no"], 1),  # that of Ctrl-C
        ("train", ["--save_steps", "2", "--max_steps", "14"], 7),
        ("train", ["--save_steps", "2", "--max_steps", "14", "--save_total_limit", "1"], 2),
        ("train", ["--save_strategy", "epoch", "--max_steps", "-1", "--num_train_epochs", "3"], 3),
        ("sft", ["--num_train_epochs", "5"], 2),
        ("sft", ["--num_train_epochs", "5", "--save_total_limit", "9"], 5),
    ],
)
def test_no_space_is_noticed_beforehand(
    refuse: Refuse,
    checkpoint: Path,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    changes: list[str],
    checkpoints: int,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 1_500_000))  # type: ignore[attr-defined]
    from sgpo.models.checkpoint import count_parameters

    parameters = count_parameters(AutoConfig.from_pretrained(checkpoint))
    each, final = 12 * parameters, 4 * parameters
    assert refuse(command, *changes) == (
        f"no space left for output_dir run: {checkpoints} x {each / 1e6:.1f} MB of checkpoints and the final "
        f"weights need "
        f"about {(checkpoints * each + final) / 1e6:.1f} MB, 1.5 MB are free; lower save_total_limit, save less "
        f"often, or "
        "write an output_dir on another device"
    )


def test_parameters_are_counted_without_weights(checkpoint: Path) -> None:
    from sgpo.models.checkpoint import count_parameters

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    assert count_parameters(model.config) == model.num_parameters()


def test_a_device_that_runs_full_says_so(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    _checkpoint_in(tmp_path, 4)
    _checkpoint_in(tmp_path, 6, complete=False)
    causes: list[Exception] = [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/0"),
    ]
    for cause in causes:
        with pytest.raises(NoSpaceError) as caught, explained_lack_of_space(tmp_path):
            raise cause
        assert caught.value.strerror == (
            f"no space left on the device while writing to {tmp_path}; free some and go on from checkpoint-4 with "
            f"--resume"
        )
        assert caught.value.__cause__ is cause
    with pytest.raises(RuntimeError, match="another"), explained_lack_of_space(tmp_path):
        raise RuntimeError("another")


def test_a_device_that_runs_full_while_saving(
    checkpoint: Path, make_config: Callable[..., SGPOConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = SGPOTrainer(str(checkpoint), make_config(save_strategy="steps", save_steps=2), train_dataset=PROBLEMS)

    def full(*arguments: Any, **keywords: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trainer.model, "save_pretrained", full)
    with pytest.raises(NoSpaceError, match="free some and start again: no checkpoint is complete"):
        trainer.train()
