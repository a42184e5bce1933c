"""The step: from problems to the updates of a rollout batch, as values that are passed on.

    problems -> sample -> verify -> decide -> rows -> micro-batches -> weighted sum over tokens -> backward

What waits for a failure is sampled and verified after the rest, and joined with it. All up to the rows is here, all
from the rows on is `sgpo.engine.update`; `sgpo.training.trainer` calls both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sgpo import distributed
from sgpo.means import Means
from sgpo.methods.method import Method
from sgpo.methods.records import (
    Decision,
    ProblemRollouts,
    Scorer,
    TrainingSequence,
    UpdateContext,
    check_rows,
    expert_rollouts,
    with_importance,
)
from sgpo.problems import Problem
from sgpo.prompts import AUTONOMOUS, encode_prompts
from sgpo.rewards import Rewards, score
from sgpo.rewards.metrics import logged_metrics
from sgpo.rewards.rollouts import reward_batch, with_scores
from sgpo.sampling.records import Sampler, SampleRequest, SamplingConfig, decode
from sgpo.training.metrics import verdict_metrics
from sgpo.verification import count_verdicts


@dataclass(frozen=True)
class Update:
    """What one optimizer update learns from.

    Example: ``decide_updates(groups, method, options, context, 2)[0].rows``
    """

    groups: list[ProblemRollouts]
    decisions: list[Decision]  # one for each of the groups
    rows: list[TrainingSequence]  # of all decisions


def own_share(problems: Sequence[Problem], updates: int) -> list[Problem]:
    """This process's part of the problems of each update, which are equal parts of the rollout batch."""
    return [p for part in parts_of(problems, updates) for p in distributed.share(part)]


def parts_of(items: Sequence[Any], count: int) -> Iterator[Sequence[Any]]:
    size = len(items) // count
    return (items[start * size : (start + 1) * size] for start in range(count))


def sample_groups(
    problems: Sequence[Problem],
    method: Method,
    options: Any,
    sampler: Sampler,
    tokenizer: Any,
    sampling: SamplingConfig,
    *,
    system_prompt: str,
    seed: int,
) -> list[ProblemRollouts]:
    """The groups of all problems, in one call of the engine, without what waits for the verdict on them."""
    prompts: list[dict[str, list[int]]] = [{} for _ in problems]
    for name, prompt in method.all_prompts.items():
        messages = {place: m for place, p in enumerate(problems) if (m := prompt(p, system_prompt)) is not None}
        for place, ids in zip(messages, encode_prompts(tokenizer, [*messages.values()]), strict=True):
            prompts[place][name] = ids
    groups = [
        ProblemRollouts(problem, own, {}, expert_rollouts(method.solutions_of(problem), tokenizer))
        for problem, own in zip(problems, prompts, strict=True)
    ]
    waiting = method.waiting(options)
    counts = [
        {name: count for name, count in method.sample_counts(problem, options).items() if name not in waiting}
        for problem in problems
    ]
    return with_samples(groups, counts, [*method.all_prompts], sampler, sampling, seed=seed)


def sample_after_verdict(
    groups: Sequence[ProblemRollouts],
    method: Method,
    options: Any,
    sampler: Sampler,
    sampling: SamplingConfig,
    *,
    seed: int,
) -> list[ProblemRollouts]:
    """The same problems with what waited, and nothing else, in one call of the engine.

    Where no autonomous completion is correct, the prompts that waited are sampled; elsewhere the bare one, as often.
    """
    waiting = method.waiting(options)
    counts = []
    for group in groups:
        all_counts = method.sample_counts(group.problem, options)
        own = {name: count for name, count in all_counts.items() if name in waiting}
        solved = any(rollout.correct for rollout in group.autonomous)
        counts.append({AUTONOMOUS: sum(own.values())} if own and solved else own)
    bare = [replace(group, experts=[]) for group in groups]
    return with_samples(bare, counts, [*method.all_prompts], sampler, sampling, seed=seed)


def joined(groups: Sequence[ProblemRollouts], later: Sequence[ProblemRollouts]) -> list[ProblemRollouts]:
    """Of each problem all rollouts, those of a prompt in one group."""
    return [
        replace(group, groups={name: [*group.groups.get(name, []), *more.groups.get(name, [])] for name in names})
        for group, more in zip(groups, later, strict=True)
        for names in [dict.fromkeys([*group.groups, *more.groups])]
    ]


def with_samples(
    groups: Sequence[ProblemRollouts],
    counts: Sequence[Mapping[str, int]],
    names: Sequence[str],
    sampler: Sampler,
    sampling: SamplingConfig,
    *,
    seed: int,
) -> list[ProblemRollouts]:
    """So many completions of the prompts of each, in one call: prompt by prompt, and in each problem by problem."""
    places = [(place, name) for name in names for place, count in enumerate(counts) if name in count]
    requests = [SampleRequest(groups[place].prompts[name], counts[place][name]) for place, name in places]
    sampled = dict(zip(places, sampler.sample(requests, sampling, seed=seed), strict=True))
    return [
        replace(group, groups={name: sampled[place, name] for name in counts[place]})
        for place, group in enumerate(groups)
    ]


def verify_groups(
    groups: Sequence[ProblemRollouts], rewards: Rewards, tokenizer: Any, columns: Sequence[str], trainer_state: Any
) -> tuple[list[ProblemRollouts], Means]:
    """The same groups with a reward for every rollout, and whether it is correct; a truncated one gets 0, and is not.

    Args:
        columns: those of the whole data set, handed to the reward functions.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    problems = [group.problem for group in groups for _ in group.rollouts]
    if not rollouts:  # of a process that has none; reward functions need not know of such
        return list(groups), Means()
    batch = reward_batch(rollouts, problems, decode(rollouts, tokenizer), columns, trainer_state)
    with count_verdicts() as verdicts:
        scores = score(rewards, batch, truncated=[rollout.truncated for rollout in rollouts])
    judged = iter(with_scores(rollouts, scores))
    found = [group.with_rollouts([next(judged) for _ in group.rollouts]) for group in groups]
    return found, Means.joined([verdict_metrics(verdicts), logged_metrics(scores.metrics)])


def decide_updates(
    groups: Sequence[ProblemRollouts], method: Method, options: Any, context: UpdateContext, updates: int
) -> list[Update]:
    """What each update of a rollout batch learns from its part of the groups.

    The first update is made by the policy that sampled: its ratio is 1, and needs no second forward pass, unless it is
    to be compared with what the sampler thought.
    """
    found = []
    for number, part in enumerate(parts_of(groups, updates)):
        decisions = method.decide(part, options, context)
        if len(decisions) != len(part):
            raise ValueError(f"the method made {len(decisions)} decisions about {len(part)} problems")
        rows = [row for decision in decisions for row in decision.rows]
        check_rows(rows, options)
        if number > 0 or options.importance_cap is not None:
            rows = with_old_logprobs(rows, context.policy, options.importance_cap)
        found.append(Update(list(part), decisions, rows))
    return found


def with_old_logprobs(
    rows: Sequence[TrainingSequence], policy: Scorer, importance_cap: float | None
) -> list[TrainingSequence]:
    """Rows of a later update: pi_old is the policy before the first, recomputed by the training engine."""
    rows = [row for row in rows if row.contributes]
    scores = iter(policy([(row.prompt_ids, row.completion_ids) for row in rows if row.lacks_old_logprobs]))
    scored = [replace(row, old_logprobs=next(scores).logprobs) if row.lacks_old_logprobs else row for row in rows]
    return scored if importance_cap is None else [with_importance(row, importance_cap) for row in scored]
