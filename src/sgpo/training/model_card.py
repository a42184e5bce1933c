"""The README.md of a trained model: what it is, what it was made of, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from sgpo import __version__
from sgpo.models.adapters import describe_adapter, has_adapter, is_adapter

PAPER = "https://huggingface.co/papers/2606.24064"
SHOWN = ("learning_rate", "lr_scheduler_type", "seed")
SHOWN_OF_RL = ("problems_per_rollout", "updates_per_rollout", "max_completion_length", "temperature", "top_p")
WAYS = {
    "sft": "fine-tuned on a strong model's responses, the warm-up of Strategy-Guided Policy Optimization",
    "sgpo": "trained with Strategy-Guided Policy Optimization: it practised with strategies, and answers without",
    "grpo": "trained with GRPO on problems with checkable answers",
}
CITATION = f"## Citation\n\n[Strategy-Guided Policy Optimization]({PAPER}), arXiv:2606.24064."
PACKAGES = ("torch", "transformers", "trl", "datasets", "tokenizers")
SHOWN_METRICS = ("reward/autonomous", "reward/guided", "eval_loss", "loss")


def write_model_card(folder: Path, trainer: Any) -> Path:
    """README.md beside the weights."""
    method = getattr(trainer.args, "method", "sft")
    base = trainer.base_model
    adapter = trainer.model.active_peft_config if has_adapter(trainer.model) else None
    if adapter is not None:
        base = adapter.base_model_name_or_path
    known = base if base and not Path(base).exists() else None  # a folder of this machine says nothing elsewhere
    name = Path(trainer.args.output_dir).resolve().name
    head = ModelCardData(
        base_model=known,
        library_name="transformers" if adapter is None else "peft",
        model_name=name,
        tags=["sgpo", method] if adapter is None else ["sgpo", method, adapter.peft_type.value.lower()],
        pipeline_tag="text-generation",
    )
    parts = [
        f"---\n{head.to_yaml()}\n---",
        f"# {name}",
        _introduction(method, Path(base).name if base else None, adapter),
        usage(trainer.hub_model_id or name, adapter, trainer.args.system_prompt),
        "## Training\n\n" + _training(trainer),
        versions_section(versions_of_training(trainer.model)),
        CITATION,
    ]
    path = folder / "README.md"
    path.write_text("\n\n".join(parts) + "\n")
    return path


def _introduction(method: str, base: str | None, adapter: Any) -> str:
    of = f"`{base}`" if base else "a causal language model"
    if adapter is not None:
        of = f"an adapter ({describe_adapter(adapter)}) of {of}"
    return f"This is {of}, {way_of(method)}."


def way_of(method: str) -> str:
    return WAYS.get(method, f"trained with {method}")


def usage(name: str, adapter: Any = None, system_turn: str | None = None) -> str:
    """The section that shows how to ask the model, and with which system turn if it is known and not empty."""
    said = f"The model was trained with this system turn, and expects it: {system_turn!r}"
    turn = f"\n\n{said}" if system_turn else ""
    base = adapter.base_model_name_or_path if adapter is not None else None
    if base is not None and is_adapter(base):
        return (
            "## Use\n\nThe base is an adapter itself. This merges the chain into one model:\n\n```python\n"
            f'from sgpo.models.weights import load_weights\n\nmodel = load_weights("{name}")\n```{turn}'
        )
    needs = "" if adapter is None else "This needs the package peft, and loads the base model too.\n\n"
    return (
        f"## Use\n\n{needs}```python\nfrom transformers import pipeline\n\n"
        f'generate = pipeline("text-generation", model="{name}")\n'
        'question = [{"role": "user", "content": "What is 2 + 3 * 4?"}]\n'
        f'print(generate(question, max_new_tokens=512)[0]["generated_text"][-1]["content"])\n```{turn}'
    )


def _training(trainer: Any) -> str:
    args, state = trainer.args, trainer.state
    names = SHOWN + (SHOWN_OF_RL if hasattr(args, "method") else ())
    rows = {name: _text(getattr(args, name)) for name in names}
    if hasattr(args, "method"):  # the options that it knows, and no others
        rows |= {each.name: _text(getattr(trainer.options, each.name)) for each in fields(trainer.options)}
    rows = {"updates": f"{state.global_step}", "processes": f"{args.world_size}"} | rows
    rows |= data_rows(trainer.data)
    parts = [
        rows_as_table(rows),
        "All options of the run are in `config.yaml`, which `sgpo train` and `sgpo sft` take with `--config`.",
    ]
    if measured := _measured(state.log_history):
        parts.append("At the end of training (newest values):\n\n" + rows_as_table(measured))
    return "\n\n".join(parts)


def _measured(history: list[dict[str, Any]]) -> dict[str, str]:
    newest: dict[str, Any] = {}
    for line in history:
        newest |= line
    return {
        name: f"{value:.4g}"
        for name, value in newest.items()
        if name in SHOWN_METRICS or name.startswith(("eval_avg_at_", "eval_standard_error"))
    }


def data_rows(found: Mapping[str, Any]) -> dict[str, str]:
    """Args: found: what data.json holds, see `sgpo.problems.inspection.describe_problems`."""
    rows = {}
    for entry, data in found.items():
        if data:
            source = f" of `{Path(data['source']).name}`" if data["source"] else ""
            rows[f"{entry} problems"] = f"{data['problems']}{source}, fingerprint `{data['fingerprint']}`"
    return rows


def versions_of_training(model: Any) -> dict[str, str]:
    """The versions of this package and of those that train a model, by name."""
    return versions_of((*PACKAGES, "peft") if has_adapter(model) else PACKAGES)


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """The version of this package, then those of others, by name."""
    return {"sgpo": __version__, **{name: version(name) for name in packages}}


def versions_section(versions: Mapping[str, str]) -> str:
    return "## Versions\n\n" + rows_as_table(dict(versions))


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))


def rows_as_table(rows: dict[str, str]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])
