"""`push_to_hub` of `sgpo sft` and `sgpo train`: what lies on the Hub afterwards, one on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub_server import Hub

from sgpo.problems import Problem, save_problems

pytestmark = pytest.mark.integration
PROBLEMS = [Problem(f"p{n}", f"Compute {n}+1", str(n + 1), "It is \\boxed{3}", "Steps: (a) add") for n in range(12)]
SMALL = {
    "train": ["--problems_per_rollout", "4", "--num_autonomous", "3", "--max_completion_length", "9"],
    "sft": ["--max_length", "300"],
}


@pytest.mark.parametrize(
    ("command", "changes"),
    [
        ("sft", ["--use_peft", "true"]),
        ("train", ["--method", "grpo", "--save_strategy", "steps", "--save_steps", "2"]),
    ],
)
def test_the_model_and_its_card_are_pushed(checkpoint: Path, tmp_path: Path, command: str, changes: list[str]) -> None:
    save_problems(PROBLEMS, tmp_path / "problems.jsonl")
    source = ["--model", str(checkpoint), "--problems", str(tmp_path / "problems.jsonl"), "--max_steps", "2"]
    fixed = ["--use_cpu", "true", "--report_to", "none", "--output_dir", str(tmp_path / "run"), *SMALL[command]]
    push = ["--push_to_hub", "true", "--hub_model_id", "me/shared", "--hub_token", "hf_secret"]
    with Hub().serving() as hub:
        # A process of its own, since the libraries read HF_ENDPOINT when they are imported.
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        code = "import sys; from sgpo.cli import main; sys.exit(main(sys.argv[1:]))"
        arguments = [sys.executable, "-c", code, command, *source, *fixed, *push, *changes]
        run = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    _, files = hub.files("me/shared", "main") or ("", {})
    weights = "adapter_model.safetensors" if command == "sft" else "model.safetensors"
    assert files.keys() >= {weights, "tokenizer.json", "chat_template.jinja", "config.yaml", "README.md"}
    assert [path for path in files if path.startswith(("checkpoint-", "unfinished"))] == []
    assert files[weights] == (tmp_path / "run" / weights).read_bytes()
    assert [path for path, content in files.items() if b"hf_secret" in content] == []
    assert hub.messages[-1] == "Model save"
    card = files["README.md"].decode()
    assert card == (tmp_path / "run" / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["tags"][:2] == ["sgpo", "sft" if command == "sft" else "grpo"]
    assert "| train problems | 12 of `problems.jsonl`, fingerprint" in body
    assert 'model="me/shared"' in body
    assert "| updates | 2 |" in body
    assert ("| num_autonomous | 3 |" in body) == (command == "train")
    for name in ("alpha_max", "delta", "alpha_scale"):
        assert f"| {name} |" not in body
