"""The options of `sgpo eval`, and what is refused about them before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sgpo.errors import Refusals
from sgpo.evaluation.benchmarks import NONE_SHIPPED, ProblemSet, ShippedSets, find_set, own_set, split_names
from sgpo.models.checkpoint import FLOATING_TYPES
from sgpo.problems import columns_from_pairs, load_problems
from sgpo.problems.inspection import check_bad_rows_option
from sgpo.prompts import SYSTEM_PROMPT

SAMPLERS = ("transformers", "vllm", "http")
TOKENS_AT_ONCE = {"transformers": 262_144, "vllm": 2**25}  # vLLM makes its batches itself, and wants much at once


@dataclass
class EvalArguments:
    """What is evaluated on what, and how."""

    model: str = field(metadata={"help": "Folder or Hub name of a checkpoint; with sampler http, the server's name."})
    benchmarks: list[str] = field(
        default_factory=list,
        metadata={"help": "Names such as math500,amc23,aime24,miniworld/test, or files and Hub data sets."},
    )
    problems: str | None = field(default=None, metadata={"help": "One more set: a file or a Hub data set."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder whose files stand for the benchmarks' data."})
    columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Of own sets, where a column has another name: prompt=question answer=final ..."},
    )
    split: str = field(default="train", metadata={"help": "Split of own sets on the Hub."})
    revision: str | None = field(default=None, metadata={"help": "Revision of own sets on the Hub."})
    limit: int | None = field(default=None, metadata={"help": "Take the first so many problems of each set."})
    bad_rows: str = field(default="refuse", metadata={"help": "Rows that cannot be used: 'refuse', or 'drop'."})
    output: str | None = field(
        default=None, metadata={"help": "Folder for answers, samples and summary; what it holds is gone on with."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Delete the evaluation that output holds."})
    card: bool = field(
        default=False, metadata={"help": "Also add the scores to the model card, README.md in the model's folder."}
    )
    k: int | None = field(default=None, metadata={"help": "Samples a problem; default: the benchmark's, or 4."})
    temperature: float = field(default=0.6, metadata={"help": "0 is greedy."})
    top_p: float = field(default=0.95, metadata={"help": "Nucleus."})
    greedy: bool = field(default=False, metadata={"help": "Also one answer a problem at temperature 0."})
    max_completion_length: int = field(default=32_768, metadata={"help": "Tokens, capped at the model's context."})
    guided: bool = field(default=False, metadata={"help": "With the strategy in the prompt: how good strategies are."})
    require_strategies: bool = field(
        default=False, metadata={"help": "guided: refuse sets in which a problem has no strategy."}
    )
    group_by: str | None = field(default=None, metadata={"help": "Also average over each value of this column."})
    system_prompt: str = field(default=SYSTEM_PROMPT, metadata={"help": "System turn; empty for none."})
    chat_template_kwargs: dict[str, Any] = field(
        default_factory=dict, metadata={"help": 'Arguments of the chat template, such as {"enable_thinking": false}.'}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the sampling."})
    sampler: str = field(default="transformers", metadata={"help": f"One of {', '.join(SAMPLERS)}."})
    dtype: str | None = field(
        default=None,
        metadata={"help": f"Of the weights: {', '.join(FLOATING_TYPES)}; default: the checkpoint's."},
    )
    sampler_batch_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Bound on completions x (prompt + completion length) sampled at once; default: 262144, vllm 2^25."
        },
    )
    vllm_gpu_memory_utilization: float = field(
        default=0.9, metadata={"help": "sampler vllm: share of the device's memory."}
    )
    vllm_max_model_length: int | None = field(
        default=None, metadata={"help": "sampler vllm: longest prompt and completion; default: the model's context."}
    )
    pad_token: str | None = field(default=None, metadata={"help": "The token that pads, if the tokenizer has none."})
    base_url: str | None = field(default=None, metadata={"help": "sampler http: http://localhost:8000/v1, ..."})
    concurrency: int = field(default=64, metadata={"help": "sampler http: requests at once, at most."})
    timeout: float = field(default=1800.0, metadata={"help": "sampler http: seconds for one attempt."})
    deadline: float = field(default=7200.0, metadata={"help": "sampler http: seconds for all attempts at a sample."})
    send_seed: bool = field(default=True, metadata={"help": "sampler http: whether requests carry a seed."})
    verbose: bool = field(
        default=False, metadata={"help": "Also the progress bars and deprecation warnings of the libraries beneath."}
    )
    extra_body: dict[str, Any] = field(
        default_factory=dict, metadata={"help": 'sampler http: more fields, {"top_k": 20}.'}
    )

    @property
    def tokens_at_once(self) -> int:
        return self.sampler_batch_tokens or TOKENS_AT_ONCE.get(self.sampler, 0)

    def k_of(self, problems: ProblemSet) -> int:
        return problems.k if self.k is None else self.k


def check_arguments(args: EvalArguments) -> None:
    """Raises ValueError for values that are no choice, out of range, or exclude each other, all of them in one."""
    refusals = Refusals()
    with refusals.collected():
        check_bad_rows_option(args.bad_rows)
    refusals.add(_refusals(args))
    if args.sampler == "vllm":
        from sgpo.sampling.engines import check_vllm, refusals_of_vllm_values

        refusals.add(refusals_of_vllm_values(args, "temperature"))
        with refusals.collected():
            check_vllm("colocate")
    refusals.refuse()


def _refusals(args: EvalArguments) -> Iterator[str]:
    for name, choices in (("sampler", SAMPLERS), ("dtype", (None, *FLOATING_TYPES))):
        if getattr(args, name) not in choices:
            yield f"{name} is {getattr(args, name)!r}; choose one of {', '.join(filter(None, choices))}"
    k = 4 if args.k is None else args.k
    if k < 1 or (args.temperature == 0 and k > 1):
        yield f"k is {k}; it must be at least 1, and 1 with temperature 0, where all samples are equal"
    if not args.benchmarks and args.problems is None:
        yield "there is nothing to evaluate on: give benchmarks, such as math500,aime24, or problems FILE"
    if args.limit is not None and args.limit < 1:
        yield f"limit is {args.limit}; it must be at least 1, or left out for all rows"
    if args.require_strategies and not args.guided:
        yield "require_strategies: no effect without guided; add it, or leave require_strategies out"
    unfit = {"sampler http": args.sampler == "http", "limit": args.limit is not None, "guided": args.guided}
    if args.card and (names := [name for name, given in unfit.items() if given]):
        yield (
            f"card: a model card gets scores of whole sets, without strategies, of a model in a folder; leave out "
            f"{' and '.join(names)}, or card"
        )
    options = {"vllm_gpu_memory_utilization": 0.9, "vllm_max_model_length": None}
    changed = [name for name, default in options.items() if getattr(args, name) != default]
    if args.sampler != "vllm" and changed:
        yield f"{', '.join(changed)}: no effect without sampler vllm; add it, or leave {changed[0]} out"
    if args.sampler != "http" and args.base_url is not None:
        yield f"base_url is for sampler http, not {args.sampler}: add --sampler http, or leave it out"
    if args.sampler == "http" and args.base_url is None:
        yield "sampler http needs base_url, such as http://localhost:8000/v1"
    if args.sampler == "http" and args.chat_template_kwargs:
        yield (
            "chat_template_kwargs: a server writes its prompts itself; hand them on with extra_body "
            f"'{json.dumps({'chat_template_kwargs': args.chat_template_kwargs})}', or leave them out"
        )
    if args.sampler == "http" and args.output is None:
        yield "sampler http needs output: a folder where answers, which may be paid for, are kept"


def read_sets(args: EvalArguments, shipped: ShippedSets = NONE_SHIPPED) -> list[ProblemSet]:
    """The sets with all their rows; which of them cannot be used is decided together with the model.

    Raises:
        ValueError: a set that cannot be found or read, has not the expected number of problems, or repeats a name.
    """
    columns = columns_from_pairs(args.columns) or None

    def load(source: str) -> list[Any]:
        return load_problems(source, split=args.split, revision=args.revision, columns=columns, bad_rows="keep")

    sets = [find_set(name, args.data_dir, load, shipped) for name in split_names(args.benchmarks)]
    if args.problems is not None:
        sets.append(own_set(args.problems, load))
    _check_distinct(sets)
    columns_of_all = sorted({name for each in sets for problem in each.problems for name in problem.extra})
    if args.group_by is not None and args.group_by not in columns_of_all:
        raise ValueError(
            f"group_by: there is no column {args.group_by!r}; the further columns are {', '.join(columns_of_all)}"
        )
    return sets


def _check_distinct(sets: Sequence[ProblemSet]) -> None:
    names = [each.name for each in sets]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two of the sets are called {name!r}: leave one out, or give its file another name")
