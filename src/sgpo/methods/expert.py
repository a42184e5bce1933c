"""What LUFFY, HPT, SRFT and AMPO share: a group, an expert's response as a row of it, and an entropy bonus.

Their authors' code weighs tokens in a way of its own (docs/method.md), which is the default; ``normalization: grpo``
weighs them as GRPO does here. With B problems, G rows of a problem and a row of |o| tokens:

                      advantage A          a token of the group     entropy bonus a token
    authors           R - mean             A / L_max                c / (tokens of all rows of the update)
    grpo              (R - mean) / std     A / (B G |o|)            c / (B G |o|)

L_max is the largest length of a completion, c the entropy coefficient. Of several responses the first is learnt from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sgpo.methods.options import MethodOptions, negative, not_among
from sgpo.methods.records import ProblemRollouts, TrainingSequence, UpdateContext
from sgpo.methods.weights import group_advantages, share_of_token
from sgpo.sampling.records import Rollout, lengths_of, rewards_of


@dataclass
class ExpertOptions(MethodOptions):
    """Of the methods that learn from an expert's response."""

    normalization: str = field(
        default="authors",
        metadata={"help": "Tokens are weighed as the method's 'authors' do, or as 'grpo' does here."},
    )
    entropy_coefficient: float = field(default=0.001, metadata={"help": "Entropy bonus."})

    def refusals(self) -> Iterator[str]:
        yield from super().refusals()
        yield from not_among(self, {"normalization": ["authors", "grpo"]})
        yield from negative(self, "entropy_coefficient")

    @property
    def like_authors(self) -> bool:
        return self.normalization == "authors"


def bonus_per_token(learnt: Sequence[Sequence[Rollout]], options: ExpertOptions, update: UpdateContext) -> float:
    """The authors' entropy bonus: a mean over the tokens of all rows, in all processes. 0 under ``grpo``.

    Args:
        learnt: the rollouts of each problem that become rows.
    """
    if not options.like_authors:
        return 0.0
    return options.entropy_coefficient / max(1, update.total(count_tokens(learnt)))


def count_tokens(learnt: Sequence[Sequence[Rollout]]) -> int:
    return sum(len(rollout.completion_ids) for rollouts in learnt for rollout in rollouts)


def group_rows(
    group: ProblemRollouts,
    rollouts: Sequence[Rollout],
    options: ExpertOptions,
    num_problems: int,
    bonus: float,
    *,
    term: str = "ratio",
) -> list[TrainingSequence]:
    """One row for each rollout of the group; that of an expert is shaped.

    Args:
        bonus: of `bonus_per_token`.
        term: of the others: "ratio", which is not clipped, or "surrogate".
    """
    advantages = group_advantages(rewards_of(rollouts), std=not options.like_authors)
    shares = share_of_token(lengths_of(rollouts), completions=len(rollouts), num_problems=num_problems)
    weights = advantages / options.max_completion_length if options.like_authors else advantages * shares
    bonuses = shares.new_full(shares.shape, bonus) if options.like_authors else options.entropy_coefficient * shares
    return [
        group.row("shaped" if any(o is e for e in group.experts) else term, o, weight, entropy_bonus=of_entropy)
        for o, weight, of_entropy in zip(rollouts, weights.tolist(), bonuses.tolist(), strict=True)
    ]
