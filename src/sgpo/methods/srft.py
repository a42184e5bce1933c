"""SRFT (arXiv:2506.19767), as HPT's authors implement it: SFT and RL in one step, weighed by entropies.

    L = k exp(-H_e) (-log pi)  + (-A_e f(pi))      the expert's tokens, f of LUFFY
        - c exp(H_i) log pi                        tokens of a correct completion
        + log pi                                   tokens of another one
        - 0.001 H

H_i is the mean entropy of a completion's tokens, a constant; k = 0.5, c = 0.1. The group is that of LUFFY, and A_e the
expert's reward minus the group's mean. Completions are weighed by being correct or not, with no ratio and no advantage.
How tokens are weighed is said in `sgpo.methods.expert`: the first term is a mean over the expert tokens of the update,
as in HPT, the others sum / L_max.

Source: compute_token_on_off_policy_srft_loss in hpt/verl/verl/mix_src/mix_core_alg.py, and mix_actor.py, of
TsinghuaC3I/Unify-Post-Training at ae332f5 (offline_loss_type srft, srft_type paper). There H is that of the present
policy; here that of the policy that sampled, which in the first update of a rollout batch is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sgpo.methods.expert import ExpertOptions, bonus_per_token, count_tokens
from sgpo.methods.grpo import outcome
from sgpo.methods.luffy import samples
from sgpo.methods.method import Method, Work
from sgpo.methods.options import negative, without_ratios
from sgpo.methods.records import Decision, ProblemRollouts, TrainingSequence, UpdateContext
from sgpo.methods.weights import group_advantages, share_of_token
from sgpo.sampling.records import Rollout, lengths_of, rewards_of


@dataclass
class SRFTOptions(ExpertOptions):
    """Those of methods with an expert, and what its tokens and correct completions weigh."""

    srft_sft_coefficient: float = field(default=0.5, metadata={"help": "k: SFT on the expert's response."})
    srft_rl_coefficient: float = field(default=0.1, metadata={"help": "c: correct completions; wrong ones have 1."})

    def refusals(self) -> Iterator[str]:
        yield from super().refusals()
        yield from negative(self, "srft_sft_coefficient", "srft_rl_coefficient")
        if self.num_samples < 3:
            yield "srft has one completion less than the others: G1 + G2 must be at least 3"
        yield from without_ratios(self)


def decide(groups: Sequence[ProblemRollouts], options: SRFTOptions, update: UpdateContext) -> list[Decision]:
    """Of each problem one group, the expert's response among them."""
    mixed = [[*group.autonomous, *group.experts[:1]] for group in groups]
    pairs = [(group.prompt_ids, o.completion_ids) for group, some in zip(groups, mixed, strict=True) for o in some]
    entropies = iter([float(scores.entropies.double().mean()) for scores in update.policy(pairs)])
    bonus = bonus_per_token(mixed, options, update)
    expert_tokens = update.total(count_tokens([group.experts[:1] for group in groups]))
    return [
        Decision(
            srft_rows(group, some, [next(entropies) for _ in some], options, update.num_problems, expert_tokens, bonus),
            f"{outcome(group)}; {'with' if group.experts else 'without'} an expert's response",
            metrics={"imitated_share": float(bool(group.experts))},
        )
        for group, some in zip(groups, mixed, strict=True)
    ]


def srft_rows(
    group: ProblemRollouts,
    rollouts: Sequence[Rollout],
    entropies: Sequence[float],
    options: SRFTOptions,
    num_problems: int,
    expert_tokens: int,
    bonus: float,
) -> list[TrainingSequence]:
    """One row for each completion, two for the expert's response.

    Args:
        rollouts: the completions, then the expert's response if there is one.
        entropies: mean entropy of the tokens of each, nats.
        expert_tokens: of the responses of all problems of the update.
        bonus: of `bonus_per_token`.
    """
    shares = share_of_token(lengths_of(rollouts), completions=len(rollouts), num_problems=num_problems).tolist()
    per_token = [1 / options.max_completion_length] * len(shares) if options.like_authors else shares
    bonuses = [bonus if options.like_authors else options.entropy_coefficient * share for share in shares]
    rows = []
    for o, entropy, weight, of_entropy in zip(group.autonomous, entropies, per_token, bonuses, strict=False):
        sign = options.srft_rl_coefficient * math.exp(entropy) if o.correct else -1.0
        rows.append(group.row("policy_gradient", o, sign * weight, entropy_bonus=of_entropy))
    for expert in group.experts[:1]:
        advantage = float(group_advantages(rewards_of(rollouts), std=not options.like_authors)[-1])
        rows.append(group.row("shaped", expert, advantage * per_token[-1], entropy_bonus=bonuses[-1]))
        mean = 1 / (expert_tokens if options.like_authors else num_problems * len(expert.completion_ids))
        weight = options.srft_sft_coefficient * math.exp(-entropies[-1]) * mean
        rows.append(group.row("likelihood", expert, weight))
    return rows


def work(options: SRFTOptions) -> Work:
    """The completions, and the response in two rows, none with a ratio; scored for entropies is each once."""
    sampled = options.num_samples - 1
    return Work(sampled, learnt=sampled + 2, ratios=0, scored=sampled + 1)


METHOD = Method(SRFTOptions, samples, decide, uses=("response",), work=work)
