"""`sgpo plan`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from sgpo.errors import usage_errors
from sgpo.planning.devices import Assumptions, Machine, gpu_specs


@dataclass(frozen=True)
class PlanArguments:
    """What is planned, and for which machine."""

    recipe: str = field(metadata={"help": "Folder of recipes, such as qwen2.5-7b, or one recipe: qwen2.5-7b/sgpo."})
    gpus: int = field(default=1, metadata={"help": "How many, each with a process."})
    gpu: str = field(default="h100", metadata={"help": "h100, h200, a100, l40s, l4 or rtx4090."})
    memory: float | None = field(default=None, metadata={"help": "GB of each GPU; default: that of the model of GPU."})
    sharding: str | None = field(default=None, metadata={"help": "none or fsdp2; default: fsdp2 with several GPUs."})
    stages: list[str] = field(
        default_factory=list, metadata={"help": "Of a folder; default: strategies, sft, sgpo and eval."}
    )
    change: list[str] = field(default_factory=list, metadata={"help": "KEY=VALUE in place of the recipe's, several."})
    model: str | None = field(default=None, metadata={"help": "Whose shape is taken; default: that of the recipe."})
    sft_problems: int | None = field(default=None, metadata={"help": "Default: that of the folder's prepare.yaml."})
    rl_problems: int | None = field(default=None, metadata={"help": "Default: that of the folder's prepare.yaml."})
    json: bool = field(default=False, metadata={"help": "Print JSON."})


@dataclass(frozen=True)
class PriceArguments:
    """Prices in US dollars; the defaults are examples."""

    gpu_price: float = field(default=2.0, metadata={"help": "Of a GPU for an hour."})
    price_in: float = field(default=0.28, metadata={"help": "Of a million tokens to the strong model."})
    price_out: float = field(default=0.42, metadata={"help": "Of a million tokens from the strong model."})


def plan(what: PlanArguments, money: PriceArguments, assumed: Assumptions) -> None:
    """Print memory, tokens, requests, hours and cost of each stage."""
    from sgpo.planning.advice import remedies
    from sgpo.planning.plan import plan_stage
    from sgpo.planning.report import data_of, sums_of, text_of
    from sgpo.planning.scenario import SHARDINGS, parsed_changes, scenarios

    with usage_errors():
        specs = gpu_specs(what.gpu)
        if what.gpus < 1:
            raise ValueError(f"--gpus is {what.gpus}; it must be at least 1")
        if what.sharding not in (None, *SHARDINGS):
            raise ValueError(f"--sharding is {what.sharding!r}; choose one of {', '.join(SHARDINGS)}")
        machine = Machine(specs, what.gpus, what.memory or specs.memory)
        found = scenarios(
            what.recipe,
            machine,
            sharding=what.sharding,
            stages=what.stages,
            model=what.model,
            changes=parsed_changes(what.change),
            problems={"sft": what.sft_problems, "train": what.rl_problems},
            assumed=assumed,
        )
        prices = (money.price_in, money.price_out)
        plans = [(each, plan_stage(each, gpu_price=money.gpu_price, prices=prices)) for each in found.values()]
        advice = [remedies(each) if each.kind != "strategies" else [] for each in found.values()]
    both = list(zip(plans, advice, strict=True))
    if what.json:
        print(json.dumps([data_of(given, planned, texts) for (given, planned), texts in both], indent=2))
        return
    each = f"{what.gpus} x {what.gpu}, {machine.memory:g} GB each"
    print(f"{what.recipe} on {each}; estimates from formulas, docs/planning.md\n")
    for (given, planned), texts in both:
        print(text_of(given, planned, texts), end="\n\n")
    print(sums_of([planned for _, planned in plans]))
