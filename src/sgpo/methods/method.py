"""What a method is: its options, what it samples, what it decides, and the work that this makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sgpo.methods.options import MethodOptions
from sgpo.methods.records import Decision, ProblemRollouts, UpdateContext
from sgpo.problems import Problem
from sgpo.prompts import AUTONOMOUS, GUIDED, PROMPTS, PromptOf

USES = ("strategy", "response", "responses", "reference")
Decide = Callable[[Sequence[ProblemRollouts], Any, UpdateContext], list[Decision]]


@dataclass(frozen=True)
class Work:
    """What a problem costs, in rows, where it has all that the method uses and nothing is left out; for `sgpo plan`.

    Example: ``Work(sampled=12, learnt=9, ratios=8, scored=5, taught=1)``
    """

    sampled: int  # completions
    learnt: int  # rows that go forward and backward
    ratios: int  # of them with a ratio to pi_old: forward once more in all updates of a rollout batch but the first
    scored: int = 0  # passes forward alone: a choice among completions, entropies, the teacher's side of a divergence
    taught: int = 0  # of the learnt rows those with a teacher, whose logits need memory too
    calls: int = 1  # of the engine in a rollout batch, each of which waits for its longest completion


def nothing_waits(options: MethodOptions) -> tuple[str, ...]:
    """All completions are sampled in one call."""
    return ()


def work_of_group(options: MethodOptions) -> Work:
    """G1 + G2 completions of the bare prompt, which are all learnt, by a ratio."""
    return Work(sampled=options.num_samples, learnt=options.num_samples, ratios=options.num_samples)


@dataclass(frozen=True)
class Method:
    """Example: ``Method(SGPOOptions, samples, decide, uses=("strategy",))``

    Raises:
        ValueError: options that are none, or something used or named that cannot be.
    """

    options: type[MethodOptions]
    samples: Callable[[Problem, Any], Mapping[str, int]]  # (problem, options) -> completions of each named prompt
    decide: Decide  # (groups of one update, options, context) -> a decision for each problem, in order
    # Of a problem, beyond prompt and answer: "strategy", "response" (the first solution) or "responses" (all of them);
    # and "reference", the policy before training.
    uses: tuple[str, ...] = ()
    prompts: Mapping[str, PromptOf] = field(default_factory=dict)  # beside "autonomous" and "guided"
    state: Callable[[Any], dict[str, Any]] | None = None  # (options) -> what a run begins with, see `UpdateContext`
    # (options) -> the part of the way that the teacher of divergences goes towards the policy after each rollout batch:
    # 0 leaves it as the policy before training. At 1, and without this, it is the present policy, and needs no copy.
    teacher_update_rate: Callable[[Any], float] | None = None
    work: Callable[[Any], Work] = work_of_group  # (options) -> what a problem costs
    # (options) -> prompts that are sampled only where no autonomous completion is correct; elsewhere the bare prompt is
    # sampled in their place.
    after_failure: Callable[[Any], tuple[str, ...]] = nothing_waits

    def __post_init__(self) -> None:
        if unknown := set(self.uses) - set(USES):
            raise ValueError(f"a method uses {', '.join(USES[:-1])} or {USES[-1]}, not {', '.join(sorted(unknown))}")
        if not (isinstance(self.options, type) and issubclass(self.options, MethodOptions)):
            raise ValueError(f"a method's options are a dataclass derived from MethodOptions, not {self.options!r}")
        if taken := [name for name in self.prompts if name in (*PROMPTS, "expert")]:  # groups by name in what is logged
            raise ValueError(f"a prompt of a method cannot be called {taken[0]}: that one is there already")

    @property
    def all_prompts(self) -> Mapping[str, PromptOf]:
        """Those that every problem has, if the method uses what they need; then its own."""
        shared = {name: prompt for name, prompt in PROMPTS.items() if name != GUIDED or "strategy" in self.uses}
        return {**shared, **self.prompts}

    @property
    def has_experts(self) -> bool:
        """Whether it learns from a strong model's solutions."""
        return "response" in self.uses or "responses" in self.uses

    def teacher_rate(self, options: Any) -> float:
        """`teacher_update_rate` of these options."""
        return 1.0 if self.teacher_update_rate is None else self.teacher_update_rate(options)

    def copies(self, options: Any) -> int:
        """Frozen copies of the policy beside it: the reference, and a teacher that is not the present policy."""
        return ("reference" in self.uses) + (self.teacher_rate(options) != 1)

    def solutions_of(self, problem: Problem) -> tuple[str, ...]:
        """Those of a problem that it learns from."""
        return problem.responses if "responses" in self.uses else problem.responses[: "response" in self.uses]

    def waiting(self, options: Any) -> tuple[str, ...]:
        """The prompts of `after_failure`. Raises ValueError for one that no problem can have, and for the bare one."""
        names = self.after_failure(options)
        if wrong := [name for name in names if name not in self.all_prompts or name == AUTONOMOUS]:
            others = ", ".join(name for name in self.all_prompts if name != AUTONOMOUS)
            raise ValueError(
                f"the method lets the prompt {wrong[0]!r} wait for a failure; it may be of {others or 'none'}"
            )
        return names

    def sample_counts(self, problem: Problem, options: Any) -> dict[str, int]:
        """Completions of each prompt, those of none left out.

        Raises ValueError for a prompt that the problem does not have.
        """
        prompts = self.all_prompts
        counts = {name: count for name, count in self.samples(problem, options).items() if count}
        for name in counts:
            if name not in prompts or prompts[name](problem, None) is None:
                raise ValueError(
                    f"the method samples the prompt {name!r}, which problem {problem.id} does not have; its prompts "
                    f"are {', '.join(prompts)}"
                )
        return {name: counts[name] for name in prompts if name in counts}


def check_state(method: Method, state: Mapping[str, Any]) -> None:
    """Raises ValueError for a state that a checkpoint would not give back as it is."""
    if method.state is None and state:
        raise ValueError(
            f"the method keeps {', '.join(map(str, state))} in update.state, which no checkpoint holds unless the "
            "method says so: Method(..., state=state), where state(options) is what a run begins with"
        )
    if (wrong := next(_unlike_json(state, "state"), None)) is not None:
        raise ValueError(
            f"the method keeps {wrong}, which JSON would not give back as it is: checkpoints hold texts, whole "
            "numbers, floats, True, False, None, lists, and dicts whose keys are texts"
        )


def _unlike_json(value: Any, place: str) -> Iterator[str]:
    """What JSON does not have, or gives back as something else."""
    if isinstance(value, dict):
        yield from (f"{place} with the key {key!r}" for key in value if not isinstance(key, str))
        for key, each in value.items():
            yield from _unlike_json(each, f"{place}[{key!r}]")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _unlike_json(each, f"{place}[{number}]")
    elif not (value is None or isinstance(value, str | int | float)):
        yield f"a {type(value).__name__} in {place}"


def all_autonomous(problem: Problem, options: MethodOptions) -> dict[str, int]:
    """G1 + G2 completions of the bare prompt."""
    return {AUTONOMOUS: options.num_samples}


def with_guidance(problem: Problem, options: MethodOptions) -> dict[str, int]:
    """G1 completions of the bare prompt and G2 with the strategy; without a strategy as many of the bare prompt."""
    if problem.strategy:
        return {AUTONOMOUS: options.num_autonomous, GUIDED: options.num_guided}
    return all_autonomous(problem, options)
