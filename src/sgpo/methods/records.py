"""The records of one training step, from what was sampled to what is optimised.

ProblemRollouts   both groups of one problem
TrainingSequence  one row of the update: tokens, a loss term, one weight a token
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

from sgpo.methods.arguments import MethodArguments
from sgpo.methods.terms import TERMS
from sgpo.problems import Problem
from sgpo.sampling.records import Rollout


@dataclass(frozen=True)
class ProblemRollouts:
    """What the policy answered to one problem: G1 autonomous rollouts and G2 guided ones."""

    problem: Problem
    prompt_ids: list[int]  # unguided prompt
    guided_prompt_ids: list[int] | None  # None if the problem has no strategy
    autonomous: list[Rollout]
    guided: list[Rollout] = field(default_factory=list)
    expert: Rollout | None = None  # the strong model's response, for methods that learn from it

    @property
    def rollouts(self) -> list[Rollout]:
        """All of them: autonomous, guided, expert."""
        return [*self.autonomous, *self.guided, *([self.expert] if self.expert else [])]

    def with_rollouts(self, rollouts: Sequence[Rollout]) -> ProblemRollouts:
        """Others in the places of `rollouts`."""
        first, last = len(self.autonomous), len(self.autonomous) + len(self.guided)
        expert = rollouts[last] if self.expert else None
        return replace(self, autonomous=list(rollouts[:first]), guided=list(rollouts[first:last]), expert=expert)

    def row(self, term: str, rollout: Rollout, weight: float, *, entropy_bonus: float = 0.0) -> TrainingSequence:
        """All tokens of a rollout with the same weight, after the unguided prompt, with what the term computes with.

        The token ids are reused as they are, never decoded and encoded again. Raises KeyError for an unknown term.
        """
        return TrainingSequence(
            term=term,
            prompt_ids=self.prompt_ids,
            completion_ids=rollout.completion_ids,
            weights=[weight] * len(rollout.completion_ids),
            teacher_prompt_ids=self.guided_prompt_ids if TERMS[term].has_teacher else None,
            sampler_logprobs=rollout.sampler_logprobs if TERMS[term].has_ratio else None,
            entropy_bonus=entropy_bonus,
        )


@dataclass(frozen=True)
class TrainingSequence:
    """One row of the update. Its loss is ``sum_t weights[t] * term(token t)``; all normalisation is in the weights."""

    term: str  # a key of sgpo.methods.terms.TERMS
    prompt_ids: list[int]
    completion_ids: list[int]
    weights: list[float]  # one a completion token
    # Log pi_old of each completion token, of a term with a ratio; None: pi_old is the policy that samples.
    old_logprobs: list[float] | None = None
    teacher_prompt_ids: list[int] | None = None  # distillation: the prompt of the fixed side (with the strategy)
    sampler_logprobs: list[float] | None = None  # of a term with a ratio: those of the rollout, if an engine sampled it
    entropy_bonus: float = 0.0  # the entropy of each token times this is subtracted from the loss

    @property
    def contributes(self) -> bool:
        """Whether the row adds anything to the loss; one that does not costs no forward pass."""
        return any(self.weights) or self.entropy_bonus != 0

    @property
    def lacks_old_logprobs(self) -> bool:
        """Whether log pi_old is still to be computed, once the policy is no longer the one that sampled."""
        return TERMS[self.term].has_ratio and self.old_logprobs is None


def expert_rollout(problem: Problem, tokenizer: Any) -> Rollout | None:
    """The strong model's response as if the policy had written it, with the token that ends a completion."""
    if not problem.response:
        return None
    ids = response_ids(problem.response, tokenizer)
    return Rollout(ids, sampler_logprobs=None, truncated=False)


def response_ids(response: str, tokenizer: Any) -> list[int]:
    """The tokens of a completion with this text."""
    return [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def with_importance(row: TrainingSequence, cap: float) -> TrainingSequence:
    """Weights times min(cap, pi_old / pi_sampler) of each token: the sampling engine has not quite the same policy.

    By token, not by sequence: under nucleus sampling the ratio of a whole sequence is far from 1 whatever the engine. A
    row that no engine sampled, such as an expert's, stays as it is.
    """
    if row.sampler_logprobs is None or row.old_logprobs is None:
        return row
    ratios = [
        min(cap, math.exp(min(ours - theirs, 80.0)))
        for ours, theirs in zip(row.old_logprobs, row.sampler_logprobs, strict=True)
    ]
    return replace(row, weights=[weight * ratio for weight, ratio in zip(row.weights, ratios, strict=True)])


# (prompt ids, completion ids) of several sequences -> log-probability of each completion token under the policy that
# sampled, without gradients.
Scorer = Callable[[Sequence[tuple[list[int], list[int]]]], list[list[float]]]


@dataclass(frozen=True)
class Assembly:
    """The training sequences of one update, and what was decided of each problem (empty for methods without it)."""

    sequences: list[TrainingSequence]
    alphas: list[float] = field(default_factory=list)
    has_target: list[bool] = field(default_factory=list)  # whether C is not empty: there is a correct guided completion
    targets: list[list[Rollout]] = field(default_factory=list)  # g+, where alpha is above 0
    imitated: list[bool] = field(default_factory=list)  # whether the expert's response is learnt from


class Assemble(Protocol):
    def __call__(
        self,
        groups: Sequence[ProblemRollouts],
        scorer: Scorer,
        config: MethodArguments,
        *,
        num_problems: int | None = None,
    ) -> Assembly:
        """`num_problems` is B, the problems of the update in all processes; default: those of `groups`."""
        ...


# Options of every method: whatever is sampled has group sizes, a length and, with a ratio, its correction.
COMMON_OPTIONS = ("num_autonomous", "num_guided", "max_completion_length", "importance_cap")
OPTIONS = tuple(each.name for each in fields(MethodArguments) if each.name != "method")


@dataclass(frozen=True)
class Method:
    """Example: ``Method(group_sizes, assemble, uses=("strategy",), options=("delta",))``

    Raises:
        ValueError: uses or options that there are not.
    """

    group_sizes: Callable[[Problem, MethodArguments], tuple[int, int]]  # autonomous, guided
    assemble: Assemble
    uses: tuple[str, ...] = ()  # of a problem, beyond prompt and answer: "strategy", "response"
    options: tuple[str, ...] = ()  # of `MethodArguments`, beyond those of every method; others are refused

    def __post_init__(self) -> None:
        if unknown := set(self.uses) - {"strategy", "response"}:
            raise ValueError(f"a method uses 'strategy' or 'response' of a problem, not {sorted(unknown)}")
        if wrong := [name for name in self.options if name not in OPTIONS]:
            raise ValueError(f"a method's options are of {', '.join(OPTIONS)}, not {wrong[0]}")

    @property
    def known_options(self) -> set[str]:
        """Those of every method, its own, and what is done for methods that use strategies."""
        return {*COMMON_OPTIONS, *self.options, *(["without_strategy"] if "strategy" in self.uses else [])}


def check_sequences(sequences: Sequence[TrainingSequence]) -> None:
    """Raises ValueError for rows that do not have what their term computes with: the loss would be another one."""
    for row in sequences:
        if row.term not in TERMS:
            raise ValueError(f"a method made a row of term {row.term!r}; the terms are {', '.join(TERMS)}")
        wants, has = TERMS[row.term].has_teacher, row.teacher_prompt_ids is not None
        if wants != has:
            raise ValueError(f"a row of term {row.term} {'needs' if wants else 'has no use for'} teacher_prompt_ids")
        if row.old_logprobs is not None and not TERMS[row.term].has_ratio:
            raise ValueError(f"a row of term {row.term} has no ratio, so no use for old_logprobs")
        for name in ("old_logprobs", "sampler_logprobs"):
            values, tokens = getattr(row, name), len(row.completion_ids)
            if values is not None and len(values) != tokens:
                raise ValueError(f"a row of term {row.term} has {len(values)} {name} for {tokens} completion tokens")
        if has and row.entropy_bonus:
            raise ValueError(f"a row of term {row.term} cannot have an entropy bonus")
