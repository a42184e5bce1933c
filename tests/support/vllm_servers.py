"""vLLM's own server on a CPU, with the mini-world's base model; its weights can be replaced (vllm_cpu.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import vllm_cpu
from processes import free_port

from sgpo.miniworld.world import BASE_MODEL

START_SECONDS = 240.0


class Server:
    """A vLLM server in processes of its own."""

    def __init__(self, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        folder.mkdir(exist_ok=True)
        self.log = folder / "server.log"
        options = ["--dtype", "float32", *vllm_cpu.SERVER_OPTIONS, "--max-num-seqs", "64", "--max-model-len", "256"]
        options += ["--logprobs-mode", "raw_logprobs", "--weight-transfer-config", '{"backend": "nccl"}']
        module = "vllm.entrypoints.openai.api_server"  # `vllm serve` looks for a distribution of another name
        command = [sys.executable, "-m", module, "--model", str(BASE_MODEL), *options]
        command += ["--host", "127.0.0.1", "--port", self.url.rpartition(":")[2]]
        environment = vllm_cpu.server_environment(folder)
        with self.log.open("w") as file:
            # A group of its own: the engine's processes can be ended together.
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.5)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as response:
                return response.status == 200
        except OSError:
            return False

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
