"""What an evaluation will ask, checked before weights are loaded or a request is paid for.

read the sets -> open the model or the server -> drop or refuse problems -> cap the length -> EvaluationPlan
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sgpo.evaluation.arguments import EvalArguments, check_arguments, read_sets
from sgpo.evaluation.benchmarks import NONE_SHIPPED, ProblemSet, ShippedSets, partly_guided
from sgpo.evaluation.card import check_card
from sgpo.evaluation.engines import EvaluationEngine, EvaluationRequest
from sgpo.evaluation.models import Model, http_engine
from sgpo.problems import Problem
from sgpo.problems.inspection import STRUCTURE, describe_problems, inspect, too_long, unparsed_golds
from sgpo.prompts import AUTONOMOUS, PROMPTS
from sgpo.sampling.records import SamplingConfig
from sgpo.tokenizers import PromptLengths


@dataclass(frozen=True)
class SetEvaluation:
    """One set under one way of sampling. Example: ``SetEvaluation(problems, EvaluationRequest(...), greedy=False)``"""

    problems: ProblemSet
    asked: EvaluationRequest
    greedy: bool = False


class EvaluationPlan:
    """All that is known before the first answer.

    Args:
        shipped: the sets that come with the package, by name.

    Raises:
        ValueError: what cannot be evaluated; the message says what to write instead.
    """

    def __init__(self, args: EvalArguments, shipped: ShippedSets = NONE_SHIPPED) -> None:
        check_arguments(args)
        if args.card:
            check_card(args.model)
        self.args = args
        sampling = SamplingConfig(
            args.max_completion_length, args.temperature, args.top_p
        )  # refuses what is no sampling
        sets = read_sets(args, shipped)
        self.model = None if args.sampler == "http" else Model(args)
        self.server = http_engine(args) if args.sampler == "http" else None
        self.sets: list[SetEvaluation] = []
        for each in sets:
            usable, limit = _usable(each, args, self.model)
            limited = replace(sampling, max_new_tokens=limit)
            k = 1 if args.temperature == 0 else args.k_of(each)
            asked = EvaluationRequest(limited, k, args.seed, args.system_prompt, args.guided)
            self.sets.append(SetEvaluation(usable, asked))
            if args.greedy:
                greedy = replace(asked, k=1, sampling=replace(limited, temperature=0.0))
                self.sets.append(SetEvaluation(usable, greedy, greedy=True))

    @property
    def identity(self) -> dict[str, Any]:
        """Which model in which engine."""
        return dict(self.server.identity) if self.server is not None else self._model.identity(self.args)

    def engine(self) -> EvaluationEngine:
        """Loads the weights, or asks whether the server is there: up to here nothing was expensive.

        Raises:
            EngineError: vLLM does not start.
            NotReadyError: the server is not there, refuses the key, or has no such model.
        """
        if self.server is None:
            return self._model.engine(self.args)
        self.server.check()
        return self.server

    @property
    def _model(self) -> Model:
        assert self.model is not None
        return self.model


def _usable(each: ProblemSet, args: EvalArguments, model: Model | None) -> tuple[ProblemSet, int]:
    """The problems that can be evaluated on, and how many tokens their completions may have."""
    problems = list(each.problems)[: args.limit]
    checks = {**STRUCTURE, "gold not parsed": unparsed_golds}
    prompts = PROMPTS if args.guided else {AUTONOMOUS: PROMPTS[AUTONOMOUS]}
    lengths = PromptLengths(model.tokenizer, args.system_prompt, prompts) if model else None
    if model and lengths and model.positions is not None:
        checks["prompt too long"] = too_long(lengths, model.positions - 1, f"the model's context of {model.positions}")
    found = inspect(problems, each.name, args.bad_rows, checks)
    whole, found = found, _with_strategy(found, each.name, args) if args.guided else found
    data = describe_problems(found, each.source)
    print(f"{each.name}: {data['problems']} problems, fingerprint {data['fingerprint']}")
    usable = replace(each, problems=found, of=whole if len(found) < len(whole) else None)
    if said := partly_guided(usable):
        print(said)
    limit = args.max_completion_length
    if model and lengths:
        limit = _limit(limit, max(lengths(found)), model.positions, args.tokens_at_once)
    return usable, limit


def _with_strategy(problems: list[Problem], name: str, args: EvalArguments) -> list[Problem]:
    """Raises ValueError if there are none, or fewer than all where all are required."""
    found = [problem for problem in problems if problem.strategy]
    if not found:
        raise ValueError(
            f"a guided evaluation needs strategies, and no problem of {name} has one: fill the column 'strategy', name "
            "it by --columns strategy=NAME, or leave guided out"
        )
    if missing := [problem.id for problem in problems if not problem.strategy] if args.require_strategies else []:
        raise ValueError(
            f"{name}: {len(missing)} of {len(problems)} problems have no strategy, e.g. {missing[0]}: fill the column "
            f"'strategy', or leave require_strategies out to evaluate the other {len(found)}"
        )
    return found


def _limit(asked: int, longest_prompt: int, positions: int | None, at_once: int) -> int:
    """The tokens a completion may have: one number for all problems of a set, so that all are asked the same."""
    limit = asked if positions is None else min(asked, positions - longest_prompt)
    if limit < asked:
        print(
            f"  max_completion_length is {limit}, not {asked}: the model has {positions} positions, and the longest "
            f"prompt {longest_prompt} tokens"
        )
    if limit + longest_prompt > at_once:
        raise ValueError(
            f"sampler_batch_tokens ({at_once}) is below the longest prompt, {longest_prompt} tokens, and "
            f"max_completion_length ({limit}) together; set it to {limit + longest_prompt} or more, or lower "
            "max_completion_length"
        )
    return limit
