"""What a method is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

from sgpo.problems import Problem
from sgpo.training.method_arguments import MethodArguments
from sgpo.training.objectives import TERMS
from sgpo.training.rollouts import ProblemRollouts, Rollout, TrainingSequence

# (prompt ids, completion ids) of several sequences -> log-probability of each completion token under the policy that
# sampled, without gradients.
Scorer = Callable[[Sequence[tuple[list[int], list[int]]]], list[list[float]]]


@dataclass(frozen=True)
class Assembly:
    """The training sequences of one update, and what was decided of each problem (empty for methods without it)."""

    sequences: list[TrainingSequence]
    alphas: list[float] = field(default_factory=list)
    targets: list[bool] = field(default_factory=list)  # whether the problem has a distillation target
    distilled: list[list[Rollout]] = field(default_factory=list)  # g+, where alpha is above 0
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


def pass_rate(rollouts: Sequence[Rollout]) -> float:
    """Share of the completions that are correct. An empty group has rate 0."""
    return sum(rollout.correct for rollout in rollouts) / len(rollouts) if rollouts else 0.0
