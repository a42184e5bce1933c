"""The same training on veRL and by `sgpo train`: does the reward rise alike?

    python benchmarks/verl_run.py sgpo QUICKSTART OUTPUT --seeds 1 2 3 4 5
    python benchmarks/verl_run.py verl QUICKSTART OUTPUT --seeds 1 2    # in veRL's environment (constraints/verl.txt)
    python benchmarks/verl_run.py picture OUTPUT docs/images/verl-run.png

QUICKSTART is the output of `sgpo quickstart`: both start from its warm-up, on its problems with their strategies. 30
rollout batches of 8 problems, 8 autonomous and 4 guided completions each, two updates of a rollout batch, a constant
learning rate, on CPUs, in float32. The order of the problems differs, so single batches cannot be compared: the picture
shows means of five.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sgpo.command_runner import Command, run_commands
from sgpo.problems import load_problems
from sgpo.reports.dynamics import read_metrics

ROOT = Path(__file__).resolve().parents[1]
BATCHES, PROBLEMS, UPDATES, RATE, LENGTH = 30, 8, 2, 2e-4, 192
CURVES = {"reward/autonomous": "reward, unguided", "reward/guided": "reward, guided", "alpha": "alpha"}
WINDOW = 5


def train(quickstart: Path, output: Path, seeds: Sequence[int]) -> None:
    options: dict[str, Any] = {
        "config": ROOT / "src" / "sgpo" / "recipes" / "miniworld" / "sgpo.yaml",
        "model": quickstart / "sft",
        "problems": quickstart / "strategies.jsonl",
        "eval_problems": quickstart / "miniworld" / "dev.jsonl",
        "problems_per_rollout": PROBLEMS,
        "updates_per_rollout": UPDATES,
        "max_steps": BATCHES * UPDATES,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "max_completion_length": LENGTH,
        "use_cpu": True,
        "disable_tqdm": True,
        "overwrite": True,
    }
    names = {f"sgpo-{seed}": seed for seed in seeds}
    commands = {
        name: Command("train", {**options, "output_dir": output / name, "seed": seed}) for name, seed in names.items()
    }
    run_commands(commands, output / "logs", lambda ended: None)
    for name in names:
        updates = [line for line in read_metrics(output / name / "metrics.jsonl") if "reward/autonomous" in line]
        batches = [updates[start : start + UPDATES] for start in range(0, len(updates), UPDATES)]
        write(output, name, [{curve: mean(batch, curve) for curve in CURVES} for batch in batches])


def mean(lines: Sequence[dict[str, float]], name: str) -> float:
    return float(np.mean([line[name] for line in lines if name in line]))


def train_on_verl(quickstart: Path, output: Path, seeds: Sequence[int]) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from verl_runs import Run

    for seed in seeds:
        run = Run(output / f"verl-{seed}", reward=None, problems=load_problems(str(quickstart / "strategies.jsonl")))
        status = run.start(
            "sgpo.num_autonomous=8",
            "sgpo.num_guided=4",
            "sgpo.delta=1.0",
            f"actor_rollout_ref.model.path={(quickstart / 'sft').resolve()}",
            f"data.train_batch_size={PROBLEMS}",
            f"data.seed={seed}",
            "data.max_prompt_length=320",
            f"data.max_response_length={LENGTH}",
            f"actor_rollout_ref.rollout.max_model_len={320 + LENGTH}",
            f"actor_rollout_ref.actor.ppo_mini_batch_size={PROBLEMS // UPDATES}",
            "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4096",
            f"actor_rollout_ref.actor.optim.lr={RATE}",
            "++actor_rollout_ref.actor.optim.override_optimizer_config.eps=1e-8",
            f"trainer.total_training_steps={BATCHES}",
            f"trainer.save_freq={BATCHES}",
        ).wait(minutes=60)
        assert status == 0, run.said[-3000:]
        metrics = run.metrics()
        curves = [{name: metrics[step][f"sgpo/{name}"] for name in CURVES} for step in sorted(metrics)]
        write(output, f"verl-{seed}", curves)


def write(output: Path, name: str, curves: Sequence[dict[str, float]]) -> None:
    (output / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in curves))


def picture(output: Path, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(CURVES), figsize=(11, 3.2), sharex=True, layout="constrained")
    for kind, color in {"sgpo": "C0", "verl": "C1"}.items():
        runs = [read_metrics(file) for file in sorted(output.glob(f"{kind}-*.jsonl"))]
        for axis, name in zip(axes, CURVES, strict=True):
            label = f"{'sgpo train' if kind == 'sgpo' else 'veRL'}, {len(runs)} seeds"
            for run in runs:
                values = [line[name] for line in run]
                smooth = np.convolve(values, np.ones(WINDOW) / WINDOW, mode="valid")
                axis.plot(np.arange(len(smooth)) + WINDOW, smooth, color=color, alpha=0.75, linewidth=1.2, label=label)
                label = "_"
            ends = [np.mean([line[name] for line in run[-2 * WINDOW :]]) for run in runs]
            print(f"{kind} {name}: last {2 * WINDOW} batches {np.round(ends, 3).tolist()}, mean {np.mean(ends):.3f}")
    for axis, title in zip(axes, CURVES.values(), strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(f"rollout batch (means of {WINDOW})")
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in ("sgpo", "verl"):
        sub = kinds.add_parser(kind)
        sub.add_argument("quickstart", type=Path)
        sub.add_argument("output", type=Path)
        sub.add_argument("--seeds", type=int, nargs="+", default=[1])
    sub = kinds.add_parser("picture")
    sub.add_argument("output", type=Path)
    sub.add_argument("path", type=Path)
    options = parser.parse_args()
    if options.kind == "picture":
        picture(options.output, options.path)
    else:
        options.output.mkdir(parents=True, exist_ok=True)
        run = train if options.kind == "sgpo" else train_on_verl
        run(options.quickstart.resolve(), options.output.resolve(), options.seeds)


if __name__ == "__main__":
    main()
