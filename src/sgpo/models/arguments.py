"""The options of an adapter; they have TRL's names."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass
class AdapterArguments:
    """Train an adapter beside frozen weights (LoRA); names and defaults are those of TRL's `ModelConfig`."""

    use_peft: bool = field(default=False, metadata={"help": "Train a new LoRA adapter."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale: lora_alpha / lora_r."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Of the adapter, in sft alone."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Names, one expression, or all-linear."},
    )
    lora_target_parameters: list[str] | None = field(default=None, metadata={"help": "Names of adapted parameters."})
    lora_modules_to_save: list[str] | None = field(default=None, metadata={"help": "Layers that are trained whole."})
    use_rslora: bool = field(default=False, metadata={"help": "Scale: with sqrt(lora_r)."})
    use_dora: bool = field(default=False, metadata={"help": "Train magnitudes too: DoRA."})

    lora_task_type: ClassVar = "CAUSAL_LM"

    def check_adapter_arguments(self) -> None:
        """Raises ValueError for an option without ``use_peft``, or a value out of range."""
        own = [each for each in dataclasses.fields(AdapterArguments) if each.name != "use_peft"]
        changed = [each.name for each in own if getattr(self, each.name) != each.default]
        if changed and not self.use_peft:
            raise ValueError(
                f"{', '.join(changed)}: no effect without use_peft; add use_peft: true, or leave {changed[0]} out"
            )
        for name in ("lora_r", "lora_alpha"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout is {self.lora_dropout}; it must be at least 0 and below 1")
