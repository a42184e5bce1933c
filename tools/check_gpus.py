"""What only several GPUs can show: vLLM in several training processes, weights through NCCL, and sharded models.

    python tools/check_gpus.py --model Qwen/Qwen2.5-0.5B-Instruct --output runs/gpus

Needs a machine with two GPUs or more, vLLM beside this package, and the model on the disk or on the Hub. Each layout
trains four updates, of which a run says how far the engine's log-probabilities were from the trainer's
(`sampler_mismatch`). After each synchronisation the run itself checks the engine's weights, and ends if they are old.
The exit status is 1 if a layout failed. docs/scaling.md shows the layouts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

START_SECONDS, RUN_SECONDS = 600.0, 1800.0
MISMATCH = 0.1  # nats a token, in bfloat16; other weights differ by more
PORT = 8650
SETTINGS = {
    "sampler": "vllm",
    "bf16": "true",
    "max_steps": "4",
    "problems_per_rollout": "8",
    "updates_per_rollout": "2",
    "num_autonomous": "4",
    "num_guided": "2",
    "max_completion_length": "256",
    "learning_rate": "1e-5",
    "save_strategy": "no",
    "report_to": "none",
}
SHARDED = {"fsdp": "full_shard", "fsdp_config": '{"fsdp_version": 2}'}
COLOCATED = {"vllm_gpu_memory_utilization": "0.3", "vllm_max_model_length": "1024"}
ASLEEP = COLOCATED | {"vllm_enable_sleep_mode": "true"}
SHARED = COLOCATED | {"vllm_tensor_parallel_size": "2"}
SERVER = {"vllm_mode": "server", "vllm_server_base_url": f"http://127.0.0.1:{PORT}"}


def layouts(gpus: int) -> dict[str, tuple[int, Mapping[str, str]]]:
    """Of each layout the number of training processes, on the first GPUs, and its options."""
    found: dict[str, tuple[int, Mapping[str, str]]] = {
        "colocated": (gpus, COLOCATED),
        "colocated, sharded": (gpus, COLOCATED | SHARDED),
        "colocated, asleep while training": (gpus, ASLEEP),
        "colocated, two share an engine": (gpus // 2 * 2, SHARED),
        "colocated, two share an engine, asleep, sharded": (gpus // 2 * 2, SHARED | ASLEEP | SHARDED),
        "server": (gpus - 1, SERVER),
    }
    if gpus > 2:
        found["server, sharded"] = (gpus - 1, SERVER | SHARDED)
    return found


def write_problems(path: Path) -> None:
    rows = [
        {
            "prompt": f"Compute {n} * {n + 7}.",
            "answer": str(n * (n + 7)),
            "strategy": "Multiply in parts, then add them.",
        }
        for n in range(11, 27)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@contextmanager
def served(model: str, gpu: int, folder: Path) -> Iterator[None]:
    """vLLM's server on one GPU, ready to receive weights."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": str(gpu), "VLLM_SERVER_DEV_MODE": "1"}
    receiving = ["--logprobs-mode", "raw_logprobs", "--weight-transfer-config", '{"backend": "nccl"}']
    command = ["vllm", "serve", model, "--port", str(PORT), "--max-model-len", "1024", *receiving]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"http://127.0.0.1:{PORT}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start; see {folder / 'server.log'}")
            time.sleep(2)
        yield
    finally:
        process.terminate()
        process.wait(60)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def train(model: str, problems: Path, output: Path, processes: int, options: Mapping[str, str]) -> str:
    """What was found, in words; it begins with "failed" if the run did not end well."""
    given = [f"--{name}={value}" for name, value in {**SETTINGS, **options}.items()]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    files = ["--model", model, "--problems", str(problems), "--output_dir", str(output)]
    command = [*launcher, "-m", "sgpo", "train", *files, *given]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(processes)))}
    log = output.with_suffix(".log")
    with log.open("w") as file:
        done = subprocess.run(command, env=environment, stdout=file, stderr=file, timeout=RUN_SECONDS, check=False)
    if done.returncode != 0:
        return f"failed with status {done.returncode}; see {log}"
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    found = [line["sampler_mismatch"] for line in lines if "sampler_mismatch" in line]
    said = f"sampler_mismatch {', '.join(f'{each:.4f}' for each in found)} nats a token"
    return said if len(found) == 2 and max(found) < MISMATCH else f"failed: {said}, of at most {MISMATCH} each"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="name or folder of a chat model")
    parser.add_argument("--output", type=Path, required=True, help="a folder that does not exist")
    args = parser.parse_args()
    import torch

    gpus = torch.cuda.device_count()
    if gpus < 2:
        parser.error(f"this machine has {gpus} CUDA devices, and the check needs two or more")
    args.output.mkdir(parents=True)
    problems = args.output / "problems.jsonl"
    write_problems(problems)
    failed = False
    for name, (processes, options) in layouts(gpus).items():
        output = args.output / name.replace(", ", "-").replace(" ", "-")
        if "vllm_mode" in options:
            with served(args.model, gpus - 1, args.output):
                said = train(args.model, problems, output, processes, options)
        else:
            said = train(args.model, problems, output, processes, options)
        failed |= said.startswith("failed")
        print(f"{name}, {processes} training processes: {said}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
