"""Strategy-Guided Policy Optimization: GRPO on the autonomous group, clipped distillation of the strategy's effect.

    L = 1/B sum_problems ( -J + alpha L_KD ),     L_KD = 1/|g+| sum_t w_t d_t                     (Eq. 1, 3-6)

g+ is the correct guided completion that the unguided policy finds likeliest; alpha is 0 where there is none. A
truncated completion is never a target. Advantages come from rewards; p_auto, p_guide and the weight of Eq. 8, whose R
is 1 or 0, from what is correct. The paper's ablations and variants are options: `target_selection`, `alpha_rule`,
`distillation`, `train_autonomous`, and `delta` without bound.
"""

from __future__ import annotations

from collections.abc import Sequence

from sgpo.methods import grpo
from sgpo.methods.arguments import MethodArguments
from sgpo.methods.grpo import surrogate_rows
from sgpo.methods.records import Assembly, ProblemRollouts, Scorer, TrainingSequence
from sgpo.methods.weights import (
    adaptive_weight,
    group_advantage_weight,
    pass_rate,
    select_target,
    select_target_per_token,
)
from sgpo.problems import Problem
from sgpo.sampling.records import Rollout

OPTIONS = (
    *grpo.OPTIONS,
    "delta",
    "alpha_scale",
    "alpha_smoothing",
    "alpha_max",
    "alpha_rule",
    "alpha_fixed",
    "target_selection",
    "distillation",
    "train_autonomous",
)
TERM_OF = {
    "forward_kl": "distillation",
    "reverse_kl": "reverse_distillation",
    "likelihood": "target_likelihood",
}


def group_sizes(problem: Problem, config: MethodArguments) -> tuple[int, int]:
    if problem.strategy:
        return config.num_autonomous, config.num_guided
    return grpo.group_sizes(problem, config)


def assemble(
    groups: Sequence[ProblemRollouts], scorer: Scorer, config: MethodArguments, *, num_problems: int | None = None
) -> Assembly:
    problems = num_problems or len(groups)
    alphas = [alpha(group, config) for group in groups]
    targets = select_targets(groups, alphas, scorer, config)
    sequences: list[TrainingSequence] = []
    for group, weight, chosen in zip(groups, alphas, targets, strict=True):
        if config.train_autonomous:
            sequences += surrogate_rows(group, num_problems=problems)
        for target in chosen:
            per_token = weight / (problems * len(chosen) * len(target.completion_ids))
            sequences.append(group.row(TERM_OF[config.distillation], target, per_token))
    return Assembly(sequences, alphas, [bool(candidates(group)) for group in groups], targets)


def candidates(group: ProblemRollouts) -> list[Rollout]:
    """C: the guided completions that are correct, which a truncated one never is."""
    return [rollout for rollout in group.guided if rollout.correct]


def alpha(group: ProblemRollouts, config: MethodArguments) -> float:
    """The weight by `alpha_rule`, and 0 where C is empty."""
    if not candidates(group):
        return 0.0
    if config.alpha_rule == "fixed":
        return config.alpha_fixed
    if config.alpha_rule == "group_advantage":  # R is 1 for every candidate, so it needs no selection
        return group_advantage_weight(1.0, [float(r.correct) for r in group.autonomous], a_max=config.alpha_max)
    return adaptive_weight(
        pass_rate(group.autonomous),
        pass_rate(group.guided),
        a0=config.alpha_scale,
        gamma=config.alpha_smoothing,
        a_max=config.alpha_max,
    )


def select_targets(
    groups: Sequence[ProblemRollouts], alphas: Sequence[float], scorer: Scorer, config: MethodArguments
) -> list[list[Rollout]]:
    """g+ of each problem (Eq. 4), or all of C (Eq. 2); none where alpha is 0.

    All candidates of the update are scored in one call.
    """
    sets = [candidates(group) if weight > 0 else [] for group, weight in zip(groups, alphas, strict=True)]
    if config.target_selection == "all":
        return sets
    # A set of one needs no score.
    asked = [(group, rollout) for group, some in zip(groups, sets, strict=True) if len(some) > 1 for rollout in some]
    scores = iter(scorer([(group.prompt_ids, rollout.completion_ids) for group, rollout in asked]))
    return [some if len(some) < 2 else [_best(some, [sum(next(scores)) for _ in some], config)] for some in sets]


def _best(some: list[Rollout], sums: list[float], config: MethodArguments) -> Rollout:
    if config.target_selection == "mean":
        return some[select_target_per_token(sums, [len(rollout.completion_ids) for rollout in some])]
    return some[select_target(sums)]
