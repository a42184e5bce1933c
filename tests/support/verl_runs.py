"""Whole runs on veRL, of four problems a step on CPUs: what a test gives, and what it finds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from places import ROOT

from sgpo.integrations.verl.data import write_parquet
from sgpo.problems import Problem

BASE = ROOT / "src" / "sgpo" / "miniworld" / "bases" / "base-101"
ENVIRONMENT = {
    "VERL_PLATFORM": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
}
FULL = "{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}"
OVERRIDES = f"""
sgpo.num_autonomous=4 sgpo.num_guided=2 sgpo.delta=0.05
data.train_batch_size=4 data.max_prompt_length=128 data.max_response_length=24 data.dataloader_num_workers=0
actor_rollout_ref.model.path={BASE} +actor_rollout_ref.model.override_config.attn_implementation=sdpa
actor_rollout_ref.model.use_remove_padding=False
actor_rollout_ref.actor.ppo_mini_batch_size=2 actor_rollout_ref.actor.ppo_max_token_len_per_gpu=2048
actor_rollout_ref.actor.optim.lr=1e-3 actor_rollout_ref.actor.optim.weight_decay=0.0
+actor_rollout_ref.actor.optim.override_optimizer_config.eps=0.01
actor_rollout_ref.actor.fsdp_config.use_torch_compile=False
+actor_rollout_ref.actor.fsdp_config.mixed_precision={FULL}
actor_rollout_ref.rollout.dtype=float32 actor_rollout_ref.rollout.enforce_eager=True
actor_rollout_ref.rollout.free_cache_engine=False +actor_rollout_ref.rollout.enable_sleep_mode=False
actor_rollout_ref.rollout.agent.num_workers=1 actor_rollout_ref.rollout.max_model_len=256
actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=16
reward.num_workers=1 transfer_queue.backend.SimpleStorage.num_data_storage_units=1
trainer.device=cpu trainer.nnodes=1 trainer.logger=[console,file] trainer.val_before_train=False
trainer.test_freq=-1 trainer.save_freq=-1 trainer.resume_mode=disable trainer.total_epochs=9
ray_kwargs.ray_init.num_cpus=12 +ray_kwargs.ray_init.include_dashboard=False
+ray_kwargs.ray_init.object_store_memory=500000000
""".split()
# By the text, so that it is the same wherever it is judged.
REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    {body}
    score = float(sum(solution_str.encode()) % 2)
    return {{"score": score, "acc": score}}
"""


def sums() -> list[Problem]:
    """16 problems, every fourth without a strategy."""
    strategy = "Problem type: sums\nStrategy: add\nSteps: (a) add the digits"
    return [
        Problem(str(n), f"Compute {n}+{n + 3}", str(2 * n + 3), strategy=strategy if n % 4 else None) for n in range(16)
    ]


@dataclass
class Run:
    """One run in a folder. Example: ``Run(tmp_path, processes=2).start("trainer.total_training_steps=1").wait()``"""

    folder: Path
    processes: int = 1
    reward: str | None = "pass"  # a line before the score of these tests; None: the verifier
    problems: Sequence[Problem] = field(default_factory=sums)
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        write_parquet(self.problems, self.folder / "problems.parquet")
        if self.reward is not None:
            (self.folder / "reward.py").write_text(REWARD.format(body=self.reward))

    def start(self, *overrides: str) -> Run:
        own = [
            f"data.train_files={self.folder}/problems.parquet",
            f"data.val_files={self.folder}/problems.parquet",
            f"trainer.n_gpus_per_node={self.processes}",
            f"+ray_kwargs.ray_init.num_gpus={self.processes}",
            f"trainer.default_local_dir={self.folder}/checkpoints",
            f"sgpo.rows_dir={self.folder}/rows",
            f"hydra.run.dir={self.folder}/hydra",
        ]
        if self.reward is not None:
            own.append(f"reward.custom_reward_function.path={self.folder}/reward.py")
        command = [sys.executable, "-m", "sgpo.integrations.verl", *OVERRIDES, *own, *overrides]
        self.sockets = tempfile.mkdtemp(prefix="r", dir="/tmp")  # by Ray, of names that have to be short
        environment = {
            **os.environ,
            **ENVIRONMENT,
            "SGPO_TEST_RUN": self.token,
            "RAY_TMPDIR": self.sockets,
            "VERL_FILE_LOGGER_PATH": str(self.folder / "metrics.jsonl"),
        }
        self.output = self.folder / "output.txt"
        with self.output.open("w") as file:
            self.process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        return self

    def wait(self, minutes: float = 12) -> int:
        """The exit status; a run that takes longer is an error, and whatever the run started is ended."""
        try:
            return self.process.wait(60 * minutes)
        finally:
            self.kill("")
            shutil.rmtree(self.sockets, ignore_errors=True)

    def kill(self, name: str) -> int:
        """End all processes of the run whose command line has the name; how many there were."""
        found = 0
        for path in Path("/proc").glob("[0-9]*"):
            try:
                marked = f"SGPO_TEST_RUN={self.token}".encode() in (path / "environ").read_bytes()
                if marked and name in (path / "cmdline").read_text():
                    os.kill(int(path.name), signal.SIGKILL)
                    found += 1
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return found

    def wait_for(self, text: str, minutes: float = 6) -> None:
        """Until the output has the text."""
        deadline = time.monotonic() + 60 * minutes
        while text not in self.said:
            assert self.process.poll() is None, self.said[-3000:]
            assert time.monotonic() < deadline, f"no {text!r} after {minutes} minutes: {self.said[-3000:]}"
            time.sleep(1)

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def metrics(self) -> dict[int, dict[str, Any]]:
        """By step."""
        lines = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return {line["step"]: line["data"] for line in lines}
