"""The records of one update, from what was sampled to what is optimised.

ProblemRollouts   what the policy answered to one problem, by the prompt that it answered to
TrainingSequence  one row of the update: tokens, a loss term, what each token weighs
Decision          what a method made of one problem: its rows, and why
UpdateContext     what a method may ask for beyond the rollouts
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from sgpo.methods.terms import TERMS
from sgpo.methods.weights import importance_weights
from sgpo.problems import Problem
from sgpo.prompts import AUTONOMOUS, GUIDED
from sgpo.sampling.records import Rollout
from sgpo.tokenizers import turn_end_id

if TYPE_CHECKING:  # methods are loaded without torch, see sgpo.methods.options
    from torch import Tensor


@dataclass(frozen=True)
class ProblemRollouts:
    """What the policy answered to one problem: a group of rollouts for each named prompt.

    Example: ``ProblemRollouts(problem, {"autonomous": [5, 17], "guided": [5, 3, 17]}, {"autonomous": [...]})``
    """

    problem: Problem
    prompts: Mapping[str, list[int]]  # the tokens of each; "guided" only if the problem has a strategy
    groups: Mapping[str, list[Rollout]]  # "autonomous", "guided", and a method's own
    experts: list[Rollout] = field(default_factory=list)  # the strong model's, for methods that learn from them

    @property
    def autonomous(self) -> list[Rollout]:
        return self.groups.get(AUTONOMOUS, [])

    @property
    def guided(self) -> list[Rollout]:
        return self.groups.get(GUIDED, [])

    @property
    def prompt_ids(self) -> list[int]:
        """The unguided prompt, after which nearly all is learnt."""
        return self.prompts[AUTONOMOUS]

    @property
    def rollouts(self) -> list[Rollout]:
        """All of them: group by group, then the experts'."""
        return [*(rollout for group in self.groups.values() for rollout in group), *self.experts]

    def with_rollouts(self, rollouts: Sequence[Rollout]) -> ProblemRollouts:
        """Others in the places of `rollouts`."""
        others = iter(rollouts)
        groups = {name: [next(others) for _ in group] for name, group in self.groups.items()}
        return replace(self, groups=groups, experts=[next(others) for _ in self.experts])

    def row(
        self,
        term: str,
        rollout: Rollout,
        weights: float | Tensor,
        *,
        entropy_bonus: float = 0.0,
        prompt: str = AUTONOMOUS,
        teacher: str = GUIDED,
    ) -> TrainingSequence:
        """A rollout after a prompt, with what the term computes with.

        The token ids are reused as they are, never decoded and encoded again.

        Args:
            weights: of all tokens alike, or [T] of each.
            prompt: of the policy; unguided, as at inference, if nothing else is said.
            teacher: the prompt of the fixed side, for a term that has one.

        Raises KeyError for an unknown term.
        """
        return TrainingSequence(
            term=term,
            prompt_ids=self.prompts[prompt],
            completion_ids=rollout.completion_ids,
            weights=weights,
            teacher_prompt_ids=self.prompts.get(teacher) if TERMS[term].has_teacher else None,
            sampler_logprobs=rollout.sampler_logprobs if TERMS[term].has_ratio else None,
            entropy_bonus=entropy_bonus,
        )


@dataclass(frozen=True)
class TrainingSequence:
    """One row of the update. Its loss is ``sum_t weights[t] * term(token t)``; all normalisation is in the weights.

    Example: ``TrainingSequence("likelihood", prompt_ids=[5, 17], completion_ids=[9, 2], weights=0.25)``
    """

    term: str  # a key of sgpo.methods.terms.TERMS
    prompt_ids: list[int]
    completion_ids: list[int]
    weights: float | Tensor  # of all completion tokens alike, or [T] of each
    # [T] log pi_old of each completion token, of a term with a ratio; None: pi_old is the policy that samples.
    old_logprobs: Tensor | None = None
    teacher_prompt_ids: list[int] | None = None  # of a divergence: the prompt of the fixed side
    sampler_logprobs: Tensor | None = None  # [T] of a term with a ratio: the rollout's, if an engine sampled it
    entropy_bonus: float = 0.0  # the entropy of each token times this is subtracted from the loss

    @property
    def contributes(self) -> bool:
        """Whether the row adds anything to the loss; one that does not costs no forward pass."""
        weighs = self.weights != 0 if isinstance(self.weights, int | float) else bool(self.weights.any())
        return weighs or self.entropy_bonus != 0

    @property
    def lacks_old_logprobs(self) -> bool:
        """Whether log pi_old is still to be computed, once the policy is no longer the one that sampled."""
        return TERMS[self.term].has_ratio and self.old_logprobs is None


@dataclass(frozen=True)
class Decision:
    """What a method made of one problem. What is logged, and what the table of completions shows, comes from here.

    Example: ``Decision(rows, "2 of 4 guided completions are correct", alpha=0.5, targets=[rollout])``
    """

    rows: list[TrainingSequence]
    reason: str  # in words
    alpha: float | None = None  # what the targets weigh; None for methods without
    targets: list[Rollout] = field(default_factory=list)  # rollouts that the policy is drawn to by a row of their own
    metrics: Mapping[str, float] = field(default_factory=dict)  # the mean over the problems that have one is logged


class TokenScores(NamedTuple):
    """Of the tokens of one completion. Without gradients."""

    logprobs: Tensor  # [T] nats
    entropies: Tensor  # [T] of the distribution in each token's place, nats


# (prompt ids, completion ids) of several sequences -> the scores of each
Scorer = Callable[[Sequence[tuple[list[int], list[int]]]], list[TokenScores]]


def _nothing(_: Any) -> Any:
    raise ValueError("nobody gave the method a policy to ask")


def _no_reference(_: Any) -> Any:
    raise ValueError('the method asks the reference policy: name it among what it uses, uses=("reference",)')


@dataclass(frozen=True)
class UpdateContext:
    """What a method may ask for beyond the rollouts, when it decides about the problems of one update.

    Example: ``UpdateContext(num_problems=64)``
    """

    num_problems: int  # B, of all processes: every weight is divided by it
    policy: Scorer = _nothing  # the policy that sampled
    reference: Scorer = _no_reference  # the policy before training, for a method that uses it
    # Lives as long as the run, and in its checkpoints: values that JSON has. It is each process's own, and a checkpoint
    # keeps that of the first, so what goes into it is to be `total`, or otherwise alike in all.
    state: dict[str, Any] = field(default_factory=dict)
    total: Callable[[int], int] = int  # the sum of a number over all processes, each of which has to ask
    tokenizer: Any = None  # for a method that asks about texts of its own
    system_prompt: str | None = None  # of its prompts


def expert_rollouts(responses: Sequence[str], tokenizer: Any) -> list[Rollout]:
    """A strong model's responses as if the policy had written them."""
    ids = [response_ids(response, tokenizer) for response in responses]
    return [Rollout(each, sampler_logprobs=None, truncated=False) for each in ids]


def response_ids(response: str, tokenizer: Any) -> list[int]:
    """The tokens of a completion with this text, with the one that ends it."""
    return [*tokenizer(response, add_special_tokens=False)["input_ids"], turn_end_id(tokenizer)]


def with_importance(row: TrainingSequence, cap: float) -> TrainingSequence:
    """A row weighed by `importance_weights`; one that no engine sampled, such as an expert's, stays as it is."""
    if row.sampler_logprobs is None or row.old_logprobs is None:
        return row
    importance = importance_weights(row.old_logprobs.cpu(), row.sampler_logprobs, cap=cap)
    if not isinstance(row.weights, int | float):
        importance = importance.to(row.weights.device)
    return replace(row, weights=row.weights * importance)


def check_rows(rows: Sequence[TrainingSequence], options: Any) -> None:
    """Raises ValueError for rows that lack what their term computes with: the loss would be another one."""
    import torch

    for row in rows:
        if row.term not in TERMS:
            raise ValueError(f"a method made a row of term {row.term!r}; the terms are {', '.join(TERMS)}")
        term = TERMS[row.term]
        if missing := [name for name in term.options if not hasattr(options, name)]:
            raise ValueError(f"a row of term {row.term} reads {missing[0]}, which the method's options lack")
        wants, has = term.has_teacher, row.teacher_prompt_ids is not None
        if wants != has:
            raise ValueError(f"a row of term {row.term} {'needs' if wants else 'has no use for'} teacher_prompt_ids")
        if row.old_logprobs is not None and not term.has_ratio:
            raise ValueError(f"a row of term {row.term} has no ratio, so no use for old_logprobs")
        for name in ("weights", "old_logprobs", "sampler_logprobs"):
            values, tokens = getattr(row, name), len(row.completion_ids)
            if values is None or (name == "weights" and isinstance(values, int | float)):
                continue
            if not isinstance(values, torch.Tensor) or values.ndim != 1:
                either = "a number for all tokens alike or " if name == "weights" else ""
                raise ValueError(f"{name} of a row of term {row.term} are {either}a tensor [T], not {values}")
            if len(values) != tokens:
                raise ValueError(f"a row of term {row.term} has {len(values)} {name} for {tokens} completion tokens")
        if has and row.entropy_bonus:
            raise ValueError(f"a row of term {row.term} cannot have an entropy bonus")
