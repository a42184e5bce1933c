"""Launch files: valid for bash, and their commands take the options that they give; none is started here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sgpo.configuration import RECIPES, parse
from sgpo.options.groups import EVAL, SFT, TRAIN, load
from sgpo.sampling import engines

LAUNCH = RECIPES / "launch"
FILES = sorted(path.name for path in LAUNCH.glob("*.sh"))
MODELS = ("qwen2.5-1.5b", "qwen2.5-7b", "llama-3.1-8b", "qwen2.5-0.5b-lora")
METHODS = ("sgpo", "grpo", "luffy", "hpt")
OPTIONS = {"sft": SFT, "train": TRAIN, "eval": EVAL}


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commands that print what they are called with, a line for each argument."""
    folder = tmp_path_factory.mktemp("tools")
    for name in ("sgpo", "torchrun", "vllm"):
        (folder / name).write_text(f"#!/bin/sh\nprintf '%s\\n' {name} \"$@\"\n")
        (folder / name).chmod(0o755)
    (folder / "scontrol").write_text("#!/bin/sh\nprintf 'a\\nb\\nc\\nd\\n'\n")
    (folder / "srun").write_text('#!/bin/sh\nprintf "%s %s %s %s\\n" "$NODE" "$HEAD" "$SERVERS" "$*"\n')
    for name in ("scontrol", "srun"):
        (folder / name).chmod(0o755)
    return folder


def started(tools: Path, file: str, *arguments: str, **variables: str) -> list[str]:
    """The command that a launch file comes to."""
    environment = {**os.environ, **variables, "PATH": f"{tools}:{os.environ['PATH']}"}
    command = ["bash", str(LAUNCH / file), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def parsed(command: list[str], tmp_path: Path) -> Any:
    """What the command of this package gets, on this machine."""
    own = command[command.index("sgpo") + 1 :]
    on_cpu = [] if own[0] == "eval" else ["--use_cpu", "true", "--bf16", "false", "--output_dir", str(tmp_path)]
    options = OPTIONS[own[0]]
    kinds = [load(place) for place in options.parsed] or options.kinds
    return parse(own[0], kinds, [*own[1:], *on_cpu])


def test_there_are_these() -> None:
    assert FILES == ["four-nodes.sh", "four-nodes.slurm.sh", "fsdp2.sh", "one-gpu.sh", "zero3.sh"]


@pytest.mark.parametrize("file", FILES)
def test_bash_reads_it(file: str) -> None:
    done = subprocess.run(["bash", "-n", str(LAUNCH / file)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    without = subprocess.run(["bash", str(LAUNCH / file)], capture_output=True, text=True)
    assert without.returncode == 2
    assert without.stderr.startswith("usage: ")


@pytest.mark.parametrize("recipe", MODELS)
def test_one_gpu(recipe: str, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "check_vllm", lambda mode: None)  # it is not installed here
    prepare = started(tools, "one-gpu.sh", recipe, "prepare", "--overwrite")
    assert prepare == ["sgpo", "data", "prepare", "--config", f"{recipe}/prepare", "--overwrite"]
    for method in METHODS:
        _, args = parsed(started(tools, "one-gpu.sh", recipe, method, "--max_steps", "4"), tmp_path)
        assert (args.method, args.max_steps, args.sampler, args.vllm_mode) == (method, 4, "vllm", "colocate")
        assert args.vllm_max_model_length >= args.max_completion_length + 1024
    _, warmup = parsed(started(tools, "one-gpu.sh", recipe, "sft"), tmp_path)
    assert warmup.per_device_train_batch_size * warmup.gradient_accumulation_steps == 64
    (evaluation,) = parsed(started(tools, "one-gpu.sh", recipe, "eval"), tmp_path)
    assert evaluation.sampler == "vllm"


@pytest.mark.parametrize("recipe", MODELS[:3])
def test_fsdp2(recipe: str, tools: Path, tmp_path: Path) -> None:
    command = started(tools, "fsdp2.sh", recipe, "sgpo", "--seed", "7")
    assert command[:5] == ["torchrun", "--nproc_per_node", "8", "-m", "sgpo"]
    for method in METHODS:
        _, args = parsed(started(tools, "fsdp2.sh", recipe, method), tmp_path)
        assert args.method == method
        assert args.fsdp
        assert args.fsdp_config["version"] == 2
        assert args.sampler_batch_tokens == 65_536
    for gpus in (4, 8):
        launched = started(tools, "fsdp2.sh", recipe, "sft", GPUS=str(gpus))
        _, warmup = parsed(launched, tmp_path)
        assert launched[2] == str(gpus)
        assert gpus * warmup.per_device_train_batch_size * warmup.gradient_accumulation_steps == 64


def test_zero3_differs_from_fsdp2_in_what_divides_alone(tools: Path) -> None:
    for stage in ("sft", "sgpo"):
        one, other = (started(tools, file, "qwen2.5-7b", stage, "--seed", "7") for file in ("fsdp2.sh", "zero3.sh"))
        start, end = one.index("--fsdp"), other.index("--deepspeed")
        assert one[:start] == other[:end]
        assert "".join(other[end + 1 : -2]).startswith('{"zero_optimization": {"stage": 3}')
        assert one[-2:] == other[-2:] == ["--seed", "7"]


NODES = {"HEAD": "a", "SERVERS": "d"}
URLS = ",".join(f"http://d:{8000 + number}" for number in range(8))


@pytest.mark.parametrize("recipe", MODELS[1:3])
def test_four_nodes(recipe: str, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "check_vllm", lambda mode: None)
    command = started(tools, "four-nodes.sh", recipe, "sgpo", NODE="1", **NODES)
    assert " ".join(command[:7]) == "torchrun --nnodes 3 --node_rank 1 --nproc_per_node 8"
    for method in METHODS:
        _, args = parsed(started(tools, "four-nodes.sh", recipe, method, NODE="0", **NODES), tmp_path)
        assert (args.method, args.sampler, args.vllm_mode) == (method, "vllm", "server")
        assert args.vllm_server_base_url == URLS
        assert args.fsdp_config["version"] == 2
    servers = "\n".join(started(tools, "four-nodes.sh", recipe, "sgpo", NODE="3", **NODES))
    assert servers.count(f"vllm\nserve\nruns/{recipe}/sft\n") == 8
    assert servers.count("--logprobs-mode\nraw_logprobs\n--weight-transfer-config\n") == 8
    assert all(f"--port\n{8000 + number}\n" in servers for number in range(8))


def test_slurm_starts_each_part_on_a_node_of_its_own(tools: Path) -> None:
    lines = started(
        tools, "four-nodes.slurm.sh", "qwen2.5-7b", "sgpo", SLURM_JOB_NODELIST="a,b,c,d", SLURM_SUBMIT_DIR="."
    )
    expected = {
        f"{node} a d --nodes 1 --ntasks 1 --nodelist {host} bash ./four-nodes.sh qwen2.5-7b sgpo"
        for node, host in enumerate("abcd")
    }
    assert "0 a d --nodes 1 --ntasks 1 --nodelist a bash ./four-nodes.sh qwen2.5-7b sgpo" in lines
    assert set(lines) <= expected
