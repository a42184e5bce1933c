"""Strategy-Guided Policy Optimization: GRPO on the autonomous group, clipped distillation of the strategy's effect.

    L = 1/B sum_problems ( -J + alpha L_KD ),     L_KD = 1/|g+| sum_t w_t d_t                     (Eq. 1, 3-6)

g+ is the correct guided completion that the unguided policy finds likeliest; alpha is 0 where there is none. A
truncated completion is never a target. Advantages come from rewards; p_auto, p_guide and the weight of Eq. 8, whose R
is 1 or 0, from what is correct. The paper's ablations and variants are options: `target_selection`, `alpha_rule`,
`distillation`, `train_autonomous`, and `delta` without bound. `guidance: after_failure` is not the paper's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sgpo.methods.grpo import outcome, surrogate_rows
from sgpo.methods.method import Method, Work, with_guidance
from sgpo.methods.options import ClipOptions, negative, not_among
from sgpo.methods.records import Decision, ProblemRollouts, TokenScores, UpdateContext
from sgpo.methods.weights import adaptive_weight, group_advantage_weight, pass_rate, select_target, target_weights
from sgpo.prompts import GUIDED
from sgpo.sampling.records import Rollout, correct_of, lengths_of

TERM_OF = {
    "forward_kl": "distillation",
    "reverse_kl": "reverse_distillation",
    "likelihood": "target_likelihood",
}
CHOICES = {
    "alpha_rule": ["pass_rate", "fixed", "group_advantage"],
    "target_selection": ["sum", "mean", "all"],
    "distillation": list(TERM_OF),
    "guidance": ["always", "after_failure"],
    "without_strategy": ["autonomous", "drop"],
}


@dataclass
class SGPOOptions(ClipOptions):
    """Defaults are those of the paper (section 4 and Appendix E)."""

    delta: float = field(default=1.0, metadata={"help": "Tokens of larger divergence are left out (Eq. 5), nats."})
    alpha_scale: float = field(default=0.5, metadata={"help": "a0 of the adaptive weight (Eq. 6)."})
    alpha_smoothing: float = field(default=0.1, metadata={"help": "gamma of the adaptive weight (Eq. 6)."})
    alpha_max: float = field(default=0.8, metadata={"help": "a_max of the adaptive weight (Eq. 6)."})
    alpha_rule: str = field(
        default="pass_rate",
        metadata={"help": "'pass_rate' (Eq. 6), 'fixed', or the target's 'group_advantage' (Eq. 8)."},
    )
    alpha_fixed: float = field(default=1.0, metadata={"help": "The weight of alpha_rule: fixed."})
    target_selection: str = field(
        default="sum",
        metadata={"help": "g+ by the 'sum' of log-probabilities (Eq. 4) or their 'mean' a token; or 'all' (Eq. 2)."},
    )
    distillation: str = field(
        default="forward_kl",
        metadata={"help": "'forward_kl' (Eq. 3), 'reverse_kl', or 'likelihood': SFT on the target's tokens."},
    )
    train_autonomous: bool = field(default=True, metadata={"help": "Whether the autonomous group enters the loss."})
    guidance: str = field(
        default="always",
        metadata={"help": "'always' or 'after_failure'."},
    )
    without_strategy: str = field(
        default="autonomous",
        metadata={"help": "Without one: G1 + G2 'autonomous' samples, or 'drop'."},
    )

    def refusals(self) -> Iterator[str]:
        yield from super().refusals()
        yield from not_among(self, CHOICES)
        if self.num_guided == 0:
            yield "num_guided must be at least 1 for sgpo; without guided completions use method: grpo"
        if self.guidance == "after_failure" and not self.train_autonomous:
            yield "guidance: after_failure samples more autonomous completions, and train_autonomous: false learns none"
        if not self.delta > 0:
            yield "delta must be positive; for no clipping write delta: .inf"
        yield from negative(self, "alpha_scale", "alpha_max", "alpha_fixed")
        if not self.alpha_smoothing > 0:
            yield "alpha_smoothing must be positive: it divides where no autonomous completion is correct"


def decide(groups: Sequence[ProblemRollouts], options: SGPOOptions, update: UpdateContext) -> list[Decision]:
    """Of each problem the autonomous group, and the target that its strategy led to."""
    alphas = [alpha(group, options) for group in groups]
    targets = select_targets(groups, alphas, options, update)
    return [
        decision(group, weight, some, options, update.num_problems)
        for group, weight, some in zip(groups, alphas, targets, strict=True)
    ]


def decision(
    group: ProblemRollouts, weight: float, targets: list[Rollout], options: SGPOOptions, num_problems: int
) -> Decision:
    rows = surrogate_rows(group, num_problems) if options.train_autonomous else []
    weights = target_weights(weight, lengths_of(targets), num_problems=num_problems)
    for target, per_token in zip(targets, weights.tolist(), strict=True):
        rows.append(group.row(TERM_OF[options.distillation], target, per_token))
    has_target = bool(candidates(group))
    metrics = {"alpha": weight, "target_share": float(has_target)}
    metrics |= {"alpha_with_target": weight} if has_target else {}
    return Decision(rows, _reason(group, weight, targets), weight, targets, metrics)


def candidates(group: ProblemRollouts) -> list[Rollout]:
    """C: the guided completions that are correct, which a truncated one never is."""
    return [rollout for rollout in group.guided if rollout.correct]


def alpha(group: ProblemRollouts, options: SGPOOptions) -> float:
    """The weight by `alpha_rule`, and 0 where C is empty."""
    if not candidates(group):
        return 0.0
    if options.alpha_rule == "fixed":
        return options.alpha_fixed
    alone = correct_of(group.autonomous)
    if options.alpha_rule == "group_advantage":  # R is 1 for every candidate, so it needs no selection
        return float(group_advantage_weight(alone, a_max=options.alpha_max))
    return float(
        adaptive_weight(
            pass_rate(alone),
            pass_rate(correct_of(group.guided)),
            a0=options.alpha_scale,
            gamma=options.alpha_smoothing,
            a_max=options.alpha_max,
        )
    )


def select_targets(
    groups: Sequence[ProblemRollouts], alphas: Sequence[float], options: SGPOOptions, update: UpdateContext
) -> list[list[Rollout]]:
    """g+ of each problem (Eq. 4), or all of C (Eq. 2); none where alpha is 0.

    All candidates of the update are scored in one call.
    """
    sets = [candidates(group) if weight > 0 else [] for group, weight in zip(groups, alphas, strict=True)]
    if options.target_selection == "all":
        return sets
    # A set of one needs no score.
    pairs = [(group, rollout) for group, some in zip(groups, sets, strict=True) if len(some) > 1 for rollout in some]
    scores = iter(update.policy([(group.prompt_ids, rollout.completion_ids) for group, rollout in pairs]))
    return [some if len(some) < 2 else [_likeliest(some, [next(scores) for _ in some], options)] for some in sets]


def _likeliest(some: list[Rollout], scores: Sequence[TokenScores], options: SGPOOptions) -> Rollout:
    lengths = lengths_of(some)
    sums = lengths.double().new_tensor([score.logprobs.double().sum() for score in scores])
    return some[select_target(sums / lengths if options.target_selection == "mean" else sums)]


def _reason(group: ProblemRollouts, weight: float, targets: Sequence[Rollout]) -> str:
    if not group.guided:
        return f"{outcome(group)}; {'no guidance needed' if group.problem.strategy else 'no strategy'}"
    said = f"{outcome(group)}, {len(candidates(group))} of {len(group.guided)} guided ones"
    if targets:
        return f"{said}: {len(targets)} distilled with alpha {weight:.2f}"
    return f"{said}: the strategy helps too little" if candidates(group) else f"{said}: no target"


def work(options: SGPOOptions) -> Work:
    """The autonomous group and one target; scored are the guided completions, and the teacher's side of the target.

    With guidance after a failure all of it at once, as no problem has it: all completions are autonomous, or there is a
    target.
    """
    sampled, guided = options.num_samples, options.num_guided
    alone = sampled if after_failure(options) else options.num_autonomous
    calls = 1 + bool(after_failure(options))
    return Work(sampled=sampled, learnt=alone + 1, ratios=alone, scored=guided + 1, taught=1, calls=calls)


def after_failure(options: SGPOOptions) -> tuple[str, ...]:
    return (GUIDED,) if options.guidance == "after_failure" else ()


METHOD = Method(SGPOOptions, with_guidance, decide, uses=("strategy",), work=work, after_failure=after_failure)
