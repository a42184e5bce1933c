"""`sgpo plan`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from sgpo.errors import usage_errors


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


@dataclass(frozen=True)
class AssumedArguments:
    """What is assumed: replace it by what your runs say."""

    completion_tokens: int = field(default=2048, metadata={"help": "Mean of an answer in RL (length/autonomous)."})
    eval_tokens: int = field(default=2048, metadata={"help": "Mean of an answer in the evaluation."})
    prompt_tokens: int = field(default=200, metadata={"help": "Mean of a prompt."})
    strategy_tokens: int = field(default=100, metadata={"help": "Mean of a strategy."})
    response_tokens: int = field(default=4000, metadata={"help": "Mean of a strong model's response."})
    longest_prompt: int = field(default=1024, metadata={"help": "Tokens of the longest prompt, its strategy included."})
    utilisation: float = field(default=0.35, metadata={"help": "Share of the GPU's rate of products in training."})
    bandwidth_share: float = field(default=0.5, metadata={"help": "Share of its memory's bandwidth in sampling."})
    eager_layer: float = field(
        default=0.001, metadata={"help": "Seconds of a layer in a step of the transformers sampler, at least."}
    )
    reserve: float = field(default=0.06, metadata={"help": "Share of its memory that is not for the process."})


def plan(what: PlanArguments, money: PriceArguments, assumed: AssumedArguments) -> None:
    """Print memory, tokens, requests, hours and cost of each stage."""
    from sgpo.planning.advice import remedies
    from sgpo.planning.devices import Assumptions, Machine, gpu_specs
    from sgpo.planning.plan import plan_stage
    from sgpo.planning.report import data_of, sums_of, text_of
    from sgpo.planning.scenario import SHARDINGS, parsed_changes, scenarios

    with usage_errors():
        specs = gpu_specs(what.gpu)
        if what.gpus < 1:
            raise ValueError(f"--gpus is {what.gpus}; it must be at least 1")
        if what.sharding not in (None, *SHARDINGS):
            raise ValueError(f"--sharding is {what.sharding!r}; choose one of {', '.join(SHARDINGS)}")
        found = scenarios(
            what.recipe,
            Machine(specs, what.gpus, what.memory or specs.memory),
            sharding=what.sharding,
            stages=what.stages,
            model=what.model,
            changes=parsed_changes(what.change),
            problems={"sft": what.sft_problems, "train": what.rl_problems},
            assumed=Assumptions(**dataclasses.asdict(assumed)),
        )
        prices = (money.price_in, money.price_out)
        plans = [(each, plan_stage(each, gpu_price=money.gpu_price, prices=prices)) for each in found.values()]
        advice = [remedies(each) if each.kind != "strategies" else [] for each in found.values()]
    both = list(zip(plans, advice, strict=True))
    if what.json:
        print(json.dumps([data_of(given, planned, texts) for (given, planned), texts in both], indent=2))
        return
    memory = what.memory or specs.memory
    print(f"{what.recipe} on {what.gpus} x {what.gpu}, {memory:g} GB each; estimates from formulas, docs/planning.md\n")
    for (given, planned), texts in both:
        print(text_of(given, planned, texts), end="\n\n")
    print(sums_of([planned for _, planned in plans]))
