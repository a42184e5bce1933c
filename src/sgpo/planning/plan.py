"""The plan of a stage: memory of each rank by part, tokens, requests, hours, cost, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from sgpo.evaluation.arguments import TOKENS_AT_ONCE
from sgpo.evaluation.benchmarks import BENCHMARKS, split_names
from sgpo.planning import memory, work
from sgpo.planning.memory import FLOAT, MicroBatchSize, largest_microbatch
from sgpo.planning.scenario import PlannedFor
from sgpo.training.sft_losses import LOSSES


@dataclass(frozen=True)
class StagePlan:
    """Example: ``plan_stage(scenarios("qwen2.5-7b", machine)["sgpo"], gpu_price=2.0)``"""

    name: str
    phases: dict[str, dict[str, float]]  # of each rank: bytes by part, for each phase of the stage
    ranks: int
    room: float  # bytes of a GPU that are left for them
    tokens: dict[str, float] = field(default_factory=dict)
    hours: dict[str, float] = field(default_factory=dict)  # by phase; of the clock
    requests: int = 0
    disk: float = 0.0  # bytes
    cost: float | None = None  # US dollars
    notes: tuple[str, ...] = ()

    @property
    def peak(self) -> float:
        return peak_of(self.phases)

    @property
    def fits(self) -> bool:
        return self.peak <= self.room

    @property
    def total_hours(self) -> float:
        return sum(self.hours.values())


def plan_stage(given: PlannedFor, *, gpu_price: float, prices: tuple[float, float] = (0.0, 0.0)) -> StagePlan:
    """Args: gpu_price: US dollars an hour. prices: of the strong model, for a million tokens in and out."""
    makers = {"strategies": _strategies, "sft": _sft, "train": _rl, "eval": _evaluation}
    return makers[given.kind](given, gpu_price, prices)


def room_of(given: PlannedFor) -> float:
    """Bytes of a GPU for a rank; vLLM alone leaves its own share."""
    alone = given.kind == "eval" and given.values["sampler"] == "vllm"
    return given.machine.bytes if alone else _unreserved(given)


def _unreserved(given: PlannedFor) -> float:
    return given.machine.bytes * (1 - given.assumed.reserve)


def peak_of(phases: Mapping[str, Mapping[str, float]]) -> float:
    """Bytes of the largest phase; 0 where there is none."""
    return max((sum(parts.values()) for parts in phases.values()), default=0.0)


# ---------------------------------------------------------------------- memory


def phases_of(given: PlannedFor) -> dict[str, dict[str, float]]:
    """Bytes of each rank, by phase and part."""
    if given.kind == "eval":
        return _phases_of_evaluation(given)
    phases = _phases_of_sft(given) if given.kind == "sft" else _phases_of_rl(given)
    if given.copies:
        copies = given.copies * memory.copied_weights(given.how)
        phases = {name: parts | {"copy of the policy": copies} for name, parts in phases.items()}
    return {name: _of_rank(given, name, parts) for name, parts in phases.items()}


def _phases_of_sft(given: PlannedFor) -> dict[str, dict[str, int]]:
    values, prompt = given.values, given.assumed.prompt_tokens
    rows = values["per_device_train_batch_size"]
    longest = min(values["max_length"] or given.shape.context, given.shape.context)
    batch = MicroBatchSize(rows, prompt, max(1, longest - prompt), given.checkpointing)
    return {"update": memory.update_parts(given.how, batch)}


def _phases_of_rl(given: PlannedFor) -> dict[str, dict[str, int]]:
    values, how = given.values, given.how
    phases = {name: memory.update_parts(how, batch) for name, batch in _microbatches(given).items()}
    if values["sampler"] == "transformers":
        at_once = values["sampler_batch_tokens"]
        all_rows = -(-values["problems_per_rollout"] // given.machine.gpus) * given.work.sampled
        count = max(1, min(at_once // given.longest_row, all_rows))
        phases["sampling"] = memory.sampling_parts(how, count * given.longest_row, count)
    elif values["vllm_enable_sleep_mode"]:
        phases["vLLM awake"] = {"weights": memory.weights(how), "Adam's moments": memory.moments(how)}
    return phases


def _microbatches(given: PlannedFor) -> dict[str, MicroBatchSize]:
    """The largest ones of an update: of the rows without a teacher, and of those with one."""
    values, asked = given.values, given.work
    problems = -(-(values["problems_per_rollout"] // values["updates_per_rollout"]) // given.machine.gpus)
    largest = partial(
        largest_microbatch,
        values["max_tokens_per_microbatch"],
        prompt=given.assumed.longest_prompt,
        completion=values["max_completion_length"],
        checkpointing=given.checkpointing,
    )
    found = {}
    if plain := asked.learnt - asked.taught:
        found["update"] = largest(rows=problems * plain)
    if asked.taught:
        found["distillation"] = largest(rows=problems * asked.taught, divergence=True)
    return found


def _of_rank(given: PlannedFor, phase: str, parts: Mapping[str, float]) -> dict[str, float]:
    """With FSDP2 a rank has its part, and for some time whole layers, or for the sampling all weights, in float32."""
    found: dict[str, float] = dict(parts)
    how, shape, ranks = given.how, given.shape, given.machine.gpus
    if given.sharding == "fsdp2":
        for name in ("weights", "gradients", "Adam's moments"):
            if name in found:
                found[name] /= ranks
        size = FLOAT if how.full else how.computed
        if phase == "sampling":
            found["gathered weights"] = size * shape.parameters
        else:
            gradient = FLOAT * (shape.outer_parameters + shape.layer_parameters) if how.full else 0
            found["gathered layers"] = size * (shape.outer_parameters + 2 * shape.layer_parameters) + gradient
    elif ranks > 1:
        found["buckets of gradients"] = memory.gradients(how)
    colocated = given.values.get("sampler") == "vllm" and given.values["vllm_mode"] == "colocate"
    if colocated and (phase == "vLLM awake" or not given.values["vllm_enable_sleep_mode"]):
        found["vLLM's share"] = given.values["vllm_gpu_memory_utilization"] * given.machine.bytes
    return found


def _phases_of_evaluation(given: PlannedFor) -> dict[str, dict[str, float]]:
    """vLLM fills its share of one GPU with weights, keys and values; one row at least has to fit."""
    size, tokens = _type_size(given), _eval_length(given) + given.assumed.longest_prompt
    share = given.values["vllm_gpu_memory_utilization"] if given.values["sampler"] == "vllm" else 1.0
    if given.values["sampler"] == "transformers":
        tokens = max(tokens, given.values["sampler_batch_tokens"] or TOKENS_AT_ONCE["transformers"])
    cache = _cache_of_token(given) * tokens
    parts = {"weights": size * given.shape.parameters, "keys and values": cache}
    return {"sampling": parts | ({"outside vLLM's share": (1 - share) * given.machine.bytes} if share < 1 else {})}


def _type_size(given: PlannedFor) -> int:
    return 4 if given.values.get("dtype") == "float32" else 2


def _cache_of_token(given: PlannedFor) -> int:
    return 2 * given.shape.layers * given.shape.kv_size * _type_size(given)


def _eval_length(given: PlannedFor) -> int:
    return min(given.values["max_completion_length"], given.shape.context - given.assumed.longest_prompt)


# ---------------------------------------------------------------------- stages


def _strategies(given: PlannedFor, gpu_price: float, prices: tuple[float, float]) -> StagePlan:
    asked = work.strategy_requests(_counted(given), given.values["candidates"], given.assumed)
    cost = (asked.prompt_tokens * prices[0] + asked.completion_tokens * prices[1]) / 1e6
    tokens = {"to the strong model": asked.prompt_tokens, "from the strong model": asked.completion_tokens}
    note = "where the server cannot return several samples a request, 6 requests a problem instead of 2"
    return StagePlan(given.name, {}, 0, 0.0, tokens, requests=asked.requests, cost=cost, notes=(note,))


def _sft(given: PlannedFor, gpu_price: float, prices: tuple[float, float]) -> StagePlan:
    values = given.values
    learnt = _counted(given) * (1 - values["validation_share"])
    compares = LOSSES[values["loss"]].compares_with is not None
    tokens = work.sft_tokens(learnt, values["num_train_epochs"], given.assumed, compares=compares)
    seconds = work.training_seconds(given.how, tokens, given.machine, given.assumed, checkpointing=given.checkpointing)
    batch = values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] * given.machine.gpus
    notes = [f"{batch} responses an update"]
    if (gpus := given.machine.gpus) > 1 and (steps := values["gradient_accumulation_steps"]) % gpus == 0:
        notes.append(f"as many as on one GPU with gradient_accumulation_steps: {steps // gpus}")
    counted = {"learnt": tokens.learnt} | ({"forward alone": tokens.only_forward} if compares else {})
    return _on_gpus(given, counted, {"training": seconds}, gpu_price, notes)


def _rl(given: PlannedFor, gpu_price: float, prices: tuple[float, float]) -> StagePlan:
    values, machine, assumed = given.values, given.machine, given.assumed
    problems = given.problems if values["max_steps"] > 0 else _counted(given)
    updates, rollouts = work.updates_of(problems or 0, values)
    visits = rollouts * values["problems_per_rollout"]
    completions = visits * given.work.sampled
    mean = min(assumed.completion_tokens, values["max_completion_length"])
    tokens = work.rl_tokens(given.work, visits, values["updates_per_rollout"], assumed)
    asked = _sampling_of(given, completions, rollouts, mean)
    sampling, tail = work.sampling_seconds(given.shape, asked, machine, assumed)
    training = work.training_seconds(given.how, tokens, machine, assumed, checkpointing=given.checkpointing)
    counted = {"sampled": completions * mean, "learnt": tokens.learnt, "forward alone": tokens.only_forward}
    notes = [f"{updates:,} updates in {rollouts:,} rollout batches"]
    if values["sampler"] == "transformers":
        engine = given.changed(sampler="vllm")
        other, _ = work.sampling_seconds(
            given.shape, _sampling_of(engine, completions, rollouts, mean), machine, assumed
        )
        notes.append(f"with sampler: vllm the sampling takes {other / 3600:,.1f} hours")
    if sampling <= tail:
        notes.append("a rollout batch waits for its longest completion: more GPUs do not shorten the sampling")
    return _on_gpus(given, counted, {"sampling": sampling, "training": training}, gpu_price, tuple(notes))


def _sampling_of(given: PlannedFor, completions: float, rollouts: int, mean: float) -> work.SamplingWork:
    eager = given.assumed.eager_layer * given.shape.layers if given.values["sampler"] == "transformers" else 0.0
    longest = given.values["max_completion_length"]
    return work.SamplingWork(completions, rollouts * given.work.calls, longest, mean, _rows_at_once(given), eager)


def _rows_at_once(given: PlannedFor) -> float:
    """Completions of one GPU that have room for keys and values."""
    mean = given.assumed.prompt_tokens + given.assumed.completion_tokens / 2
    if given.values["sampler"] == "transformers":
        return max(1, given.values["sampler_batch_tokens"] // given.longest_row)
    weights = 2 * given.shape.parameters / given.values["vllm_tensor_parallel_size"]
    share = given.values["vllm_gpu_memory_utilization"] * given.machine.bytes - weights
    return max(1.0, share / (4 * given.shape.layers * given.shape.kv_size * mean))


def _evaluation(given: PlannedFor, gpu_price: float, prices: tuple[float, float]) -> StagePlan:
    values, assumed = given.values, given.assumed
    names = split_names(values["benchmarks"])
    known = [BENCHMARKS[name] for name in names if name in BENCHMARKS]
    samples = sum(each.problems * (values["k"] or each.k) for each in known)
    notes = [f"{samples:,} answers to {sum(each.problems for each in known):,} problems, on one GPU"]
    if own := [name for name in [*names, values["problems"]] if name and name not in BENCHMARKS]:
        notes.append(f"without {', '.join(own)}, whose size is not known")
    mean = min(assumed.eval_tokens, values["max_completion_length"])
    free = _unreserved(given) - 2 * given.shape.parameters
    rows = max(1.0, free / (_cache_of_token(given) * (assumed.prompt_tokens + mean / 2)))
    hours = {}
    if samples:
        asked = work.SamplingWork(samples, len(known), _eval_length(given), mean, rows)
        seconds, _ = work.sampling_seconds(given.shape, asked, replace(given.machine, gpus=1), assumed)
        hours = {"sampling": seconds / 3600}
    cost = sum(hours.values()) * gpu_price
    return StagePlan(
        given.name,
        phases_of(given),
        1,
        room_of(given),
        {"sampled": samples * mean},
        hours,
        cost=cost,
        notes=tuple(notes),
    )


def _on_gpus(
    given: PlannedFor, tokens: dict[str, float], seconds: dict[str, float], gpu_price: float, notes: Sequence[str]
) -> StagePlan:
    hours = {name: each / 3600 for name, each in seconds.items()}
    return StagePlan(
        given.name,
        phases_of(given),
        given.machine.gpus,
        room_of(given),
        tokens,
        hours,
        disk=_disk(given),
        cost=sum(hours.values()) * given.machine.gpus * gpu_price,
        notes=tuple(notes),
    )


def _disk(given: PlannedFor) -> float:
    """Checkpoints, the new one is written before the oldest goes: weights and moments in float32; the final weights."""
    kept = (given.values.get("save_total_limit") or 1) + 1
    return 3 * FLOAT * given.how.trained * kept + FLOAT * given.how.trained


def _counted(given: PlannedFor) -> int:
    if given.problems is None:
        option = "--sft_problems" if given.kind == "sft" else "--rl_problems"
        raise ValueError(f"{given.name}: the number of problems is not known; give {option}")
    return given.problems
