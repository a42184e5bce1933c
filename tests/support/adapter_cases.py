"""Adapters with random weights, and small commands with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from sgpo import SGPOTrainer
from sgpo.cli import main
from sgpo.models.weights import load_weights
from sgpo.problems import Problem, save_problems

PROBLEMS = [
    Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), "It is \\boxed{3}", f"Steps: (a) add {n}")
    for n in range(12)
]


def parity(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float(len(completion) % 2) for completion in completions]


def lora(**changes: Any) -> Any:
    import peft  # here, since an environment may lack it

    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], **changes})


def save_adapter(base: Path, folder: Path, seed: int = 0, **changes: Any) -> Path:
    """An adapter with random weights, as PEFT saves it."""
    import peft

    torch.manual_seed(seed)
    model = peft.get_peft_model(load_weights(str(base)), lora(init_lora_weights=False, **changes))
    model.active_peft_config.base_model_name_or_path = str(base)
    model.save_pretrained(folder)
    return folder


Make = Callable[..., SGPOTrainer]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(5, 25)[None]).logits[0]


def run_command(command: str, model: str, folder: Path, *changes: str, output: str = "run") -> int:
    save_problems(PROBLEMS, folder / "problems.jsonl")
    arguments = [command, "--model", model, "--problems", str(folder / "problems.jsonl")]
    common = [
        "--output_dir",
        str(folder / output),
        "--use_cpu",
        "true",
        "--report_to",
        "none",
        "--disable_tqdm",
        "true",
    ]
    small = {
        "train": ["--problems_per_rollout", "4", "--num_autonomous", "3", "--max_completion_length", "9"],
        "sft": ["--max_length", "300"],
    }
    small["train"] += ["--seen_problems", "allow"]  # one set serves warm-up and training
    return main([*arguments, *common, "--disable_tqdm", "true", "--max_steps", "2", *small[command], *changes])
