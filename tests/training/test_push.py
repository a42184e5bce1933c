"""`push_to_hub` of `sgpo sft` and `sgpo train`: what lies on the Hub afterwards, one on this machine."""

from __future__ import annotations

import os
import shlex
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


def pushed(hub: Hub, command: str, checkpoint: Path, folder: Path, *changes: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, since the libraries read HF_ENDPOINT when they are imported."""
    save_problems(PROBLEMS, folder / "problems.jsonl")
    source = ["--model", str(checkpoint), "--problems", str(folder / "problems.jsonl"), "--max_steps", "2"]
    fixed = ["--use_cpu", "true", "--report_to", "none", "--output_dir", str(folder / "run"), *SMALL[command]]
    push = ["--push_to_hub", "true", "--hub_model_id", "me/shared", "--hub_token", "hf_secret"]
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
    code = "import sys; from sgpo.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = [sys.executable, "-c", code, command, *source, *fixed, *push, *changes]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("command", "changes"),
    [
        ("sft", ["--use_peft", "true"]),
        ("train", ["--method", "grpo", "--save_strategy", "steps", "--save_steps", "2"]),
    ],
)
def test_the_model_and_its_card_are_pushed(checkpoint: Path, tmp_path: Path, command: str, changes: list[str]) -> None:
    with Hub().serving() as hub:
        run = pushed(hub, command, checkpoint, tmp_path, *changes)
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


def test_a_push_that_the_hub_refuses_after_training_keeps_the_model(checkpoint: Path, tmp_path: Path) -> None:
    """That the repository is there and not the token's to write to comes out with the first commit."""
    with Hub({"me/shared": {"0" * 40: {}}}, refusals={"/api/models/me/shared/commit/.*": (403, "no")}).serving() as hub:
        run = pushed(hub, "sft", checkpoint, tmp_path)
        assert run.returncode == 1, run.stderr[-3000:]
        said, command = run.stderr.strip().splitlines()[-2:]
        hub.refusals.clear()
        program, *words = shlex.split(command)
        environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_XET": "1"}
        environment.pop("HF_HUB_OFFLINE", None)
        later = [str(Path(sys.executable).parent / program), *words]
        subprocess.run(later, env=environment, capture_output=True, timeout=120, check=True)
    _, files = hub.files("me/shared", "main") or ("", {})
    assert files["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()
    assert [path for path in files if path.startswith(("checkpoint-", "unfinished"))] == []
    assert said.startswith(
        f"sgpo sft: the model is in {tmp_path / 'run'}, and was not pushed: the token has no right to"
    )
    assert command.startswith(f"  hf upload me/shared {tmp_path / 'run'} . --exclude '_*'")
    assert "Traceback" not in run.stderr
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left >= {"model.safetensors", "tokenizer.json", "config.yaml", "README.md", "seen.json"}


def test_a_repository_that_cannot_be_made_is_refused_before_training(checkpoint: Path, tmp_path: Path) -> None:
    with Hub(refusals={"/api/repos/create": (403, "no more repositories")}).serving() as hub:
        run = pushed(hub, "train", checkpoint, tmp_path, "--method", "grpo")
        hub.refusals = {"/api/whoami-v2": (401, "Invalid credentials in Authorization header")}
        other = pushed(hub, "train", checkpoint, tmp_path, "--method", "grpo")
    assert (run.returncode, other.returncode) == (2, 2)
    assert (
        run.stderr.strip()
        .splitlines()[-1]
        .startswith(
            "sgpo train: push_to_hub: there is no repository me/shared: the token has no right to write there (403: "
        )
    )
    assert other.stderr.strip().splitlines()[-1].startswith("sgpo train: push_to_hub: the Hub refuses the token (401)")
    assert "Loading" in run.stdout
    assert "Loading" not in other.stdout
    assert not (tmp_path / "run").exists()
