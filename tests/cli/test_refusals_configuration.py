"""Options and configuration files that are refused at the start.

The table of docs/errors.md lists the same.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import pytest
from refusal_cases import PROBLEMS, Refuse
from transformers import SchedulerType

from sgpo import SGPOConfig
from sgpo.cli import main
from sgpo.configuration import recipes


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
            "method is 'ppo'; choose one of ampo, grpo, hpt, luffy, opsd, scaf_grpo, sdpo, sgpo, srft, or name your "
            "own: path/to/file.py:METHOD",
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
    from sgpo.prompts import PROMPTS
    from sgpo.tokenizers import PromptLengths

    lengths = PromptLengths(tokenizer, SGPOConfig.system_prompt, PROMPTS)(PROBLEMS)
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
