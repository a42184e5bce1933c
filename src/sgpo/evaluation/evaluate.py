"""avg@k of a policy on problems with checkable answers (section 4.2 of arXiv:2606.24064).

    problems -> conversations -> k completions each -> verdicts -> Evaluation

`evaluate` does all of it with a sampler, as validation during training does. `sgpo eval` takes the completions from an
engine that remembers them (`sgpo.evaluation.engines`) and scores them by the same `evaluation_of`.

The prompt is the unguided one; the guided one can be asked for, to see how good the strategies are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from sgpo.distributed import unshare
from sgpo.evaluation.statistics import draws_of_pass, majority, pass_at, standard_error
from sgpo.problems import Problem
from sgpo.prompts import SYSTEM_PROMPT, Messages, encode_prompts, guided_messages, student_messages
from sgpo.rewards import VERIFIER, Batch, Rewards, check_signatures, column_names, reward_columns, score
from sgpo.rewards.metrics import add_rewards, logged_metrics
from sgpo.sampling.records import Sampler, SampleRequest, SamplingConfig, Watch, decode
from sgpo.verification import Status, Verdict, count_verdicts, normalise, verify_many


@dataclass(frozen=True)
class SampledCompletion:
    """What an engine answered. Example: ``SampledCompletion("... \\\\boxed{7}", truncated=False, length=212)``"""

    text: str
    truncated: bool
    length: int  # tokens
    reasoning: str | None = None  # where a server keeps it apart from the answer
    ids: list[int] | None = None  # the tokens, where the engine tells


@dataclass(frozen=True)
class Sample:
    """One completion of an evaluation problem, judged."""

    problem: Problem
    completion: str
    reward: float
    correct: bool  # which a truncated one is not
    truncated: bool
    length: int  # tokens
    verdict: Verdict | None = None  # None: other rewards than `math_reward` alone
    reasoning: str | None = None
    rewards: Mapping[str, float | None] = field(default_factory=dict)  # of each function


@dataclass(frozen=True)
class Evaluation:
    """k samples of each problem, problem by problem."""

    samples: list[Sample]
    k: int
    verdicts: dict[Status, int] = field(default_factory=dict)  # how many answers the verifier judged in which way
    logged: Mapping[str, list[float]] = field(default_factory=dict)  # by reward functions, with log_metric

    @property
    def problems(self) -> list[Problem]:
        return [sample.problem for sample in self.samples[:: self.k]]

    @property
    def groups(self) -> list[list[Sample]]:
        return [self.samples[start : start + self.k] for start in range(0, len(self.samples), self.k)]

    @property
    def rates(self) -> list[float]:
        """Share of correct answers among the k samples of each problem."""
        return [sum(sample.correct for sample in group) / self.k for group in self.groups]

    @property
    def average(self) -> float:
        """avg@k."""
        return sum(self.rates) / len(self.rates)

    @property
    def standard_error(self) -> float:
        """Standard error of the average over problems; 0 for a single problem."""
        return standard_error(self.rates)

    @property
    def pass_at(self) -> dict[int, float]:
        """pass@j for j = 1, 2, 4, ... and k, mean over problems."""
        counts = [sum(sample.correct for sample in group) for group in self.groups]
        return {j: sum(pass_at(j, correct, self.k) for correct in counts) / len(counts) for j in draws_of_pass(self.k)}

    @property
    def majority(self) -> float | None:
        """maj@k, mean over problems; truncated and unparsed answers do not vote. None without verdicts."""
        if any(sample.verdict is None for sample in self.samples):
            return None
        groups = [[(_vote(sample), sample.correct) for sample in group] for group in self.groups]
        return sum(map(majority, groups)) / len(groups)

    @property
    def reward(self) -> float:
        return sum(sample.reward for sample in self.samples) / len(self.samples)

    @property
    def truncated(self) -> float:
        return sum(sample.truncated for sample in self.samples) / len(self.samples)

    @property
    def length(self) -> float:
        return sum(sample.length for sample in self.samples) / len(self.samples)

    def by(self, column: str) -> dict[str, float]:
        """The average for each value of a further column of the problems."""
        groups: dict[str, list[bool]] = {}
        for sample in self.samples:
            groups.setdefault(str(sample.problem.extra.get(column)), []).append(sample.correct)
        return {name: sum(correct) / len(correct) for name, correct in sorted(groups.items())}

    @classmethod
    def joined(cls, parts: Sequence[Evaluation]) -> Evaluation:
        """That of all problems, of which each part has every n-th."""
        samples = [sample for group in unshare([part.groups for part in parts]) for sample in group]
        counted: dict[Status, int] = {}
        logged: dict[str, list[float]] = {}
        for part in parts:
            for status, number in part.verdicts.items():
                counted[status] = counted.get(status, 0) + number
            for name, values in part.logged.items():
                logged.setdefault(name, []).extend(values)
        return cls(samples, parts[0].k, counted, logged)

    def metrics(self) -> dict[str, float]:
        """Averages over samples or problems; of the verdicts the shares, where the verifier was asked."""
        majority = self.majority
        means = logged_metrics(self.logged)
        add_rewards(means, [sample.rewards for sample in self.samples])
        return {
            f"avg_at_{self.k}": self.average,
            "standard_error": self.standard_error,
            f"pass_at_{self.k}": self.pass_at[self.k],
            **({} if majority is None else {f"majority_at_{self.k}": majority}),
            "reward": self.reward,
            "truncated": self.truncated,
            "length": self.length,
            "problems": len(self.rates),
            **{f"verdicts/{status}": count / sum(self.verdicts.values()) for status, count in self.verdicts.items()},
            **means.values(),
        }


def _vote(sample: Sample) -> str | None:
    if sample.truncated or sample.verdict is None or sample.verdict.extracted is None:
        return None
    return normalise(sample.verdict.extracted) or None


# ---------------------------------------------------------------------- what is asked


def conversations_of(problems: Sequence[Problem], system_prompt: str, *, guided: bool) -> list[Messages]:
    """Raises ValueError for a guided evaluation of a problem without a strategy."""
    if not guided:
        return [student_messages(problem.prompt, system_prompt) for problem in problems]
    if missing := [problem.id for problem in problems if not problem.strategy]:
        raise ValueError(f"a guided evaluation needs strategies; {len(missing)} problems have none, e.g. {missing[0]}")
    return [guided_messages(problem.prompt, problem.strategy or "", system_prompt) for problem in problems]


def problem_seed(seed: int, problem: Problem) -> int:
    """The seed of a problem's samples: it follows from the evaluation's and the problem's text, not from its place.

    So a part of a set gets the samples that the whole set would get, and a resumed evaluation those of one that was
    never stopped. 31 bits, which all servers take.
    """
    return int.from_bytes(sha256(f"{seed}\0{problem.prompt}".encode(errors="surrogatepass")).digest()[:4]) >> 1


# ---------------------------------------------------------------------- sampling and scoring


def evaluate(
    sampler: Sampler,
    tokenizer: Any,
    problems: Sequence[Problem],
    sampling: SamplingConfig,
    *,
    k: int = 4,
    seed: int = 0,
    guided: bool = False,
    system_prompt: str = SYSTEM_PROMPT,
    rewards: Rewards = VERIFIER,
    columns: Sequence[str] | None = None,
    trainer_state: Any = None,
) -> Evaluation:
    """Sample each problem k times and score the answers; a truncated completion is not correct.

    Args:
        columns: that reward functions get; default: those of the problems.
        trainer_state: what reward functions get under this name.

    Raises:
        ValueError: no problems, k < 1, a guided evaluation of a problem without a strategy, or reward functions that
            need what there is not.
    """
    if not problems or k < 1:
        raise ValueError(f"an evaluation needs problems and k of at least 1, not {len(problems)} and k = {k}")
    columns = column_names(problems) if columns is None else columns
    check_signatures(rewards, columns, "evaluation problems")
    prompts = encode_prompts(tokenizer, conversations_of(problems, system_prompt, guided=guided))
    completions = sample_completions(sampler, tokenizer, problems, prompts, sampling, k=k, seed=seed)
    return evaluation_of(problems, completions, rewards, columns, trainer_state)


def sample_completions(
    sampler: Sampler,
    tokenizer: Any,
    problems: Sequence[Problem],
    prompts: Sequence[list[int]],
    sampling: SamplingConfig,
    *,
    k: int,
    seed: int,
    watch: Watch | None = None,
) -> list[list[SampledCompletion]]:
    """k completions of each prompt, in one call of the sampler."""
    seeds = [problem_seed(seed, problem) for problem in problems]
    requests = [SampleRequest(ids, k, own) for ids, own in zip(prompts, seeds, strict=True)]
    groups = sampler.sample(requests, sampling, seed=seed, watch=watch)
    texts = iter(decode([rollout for group in groups for rollout in group], tokenizer))
    return [
        [SampledCompletion(next(texts), r.truncated, len(r.completion_ids), ids=r.completion_ids) for r in group]
        for group in groups
    ]


def evaluation_of(
    problems: Sequence[Problem],
    completions: Sequence[Sequence[SampledCompletion]],
    rewards: Rewards = VERIFIER,
    columns: Sequence[str] | None = None,
    trainer_state: Any = None,
) -> Evaluation:
    """Judge the completions of each problem, as many of each; a truncated one is not correct, whatever it says."""
    answers = [(problem, each) for problem, group in zip(problems, completions, strict=True) for each in group]
    with count_verdicts() as counted:
        logged: dict[str, list[float]] = {}
        if rewards == VERIFIER:
            samples = _verified(answers)
        else:
            columns = column_names(problems) if columns is None else columns
            samples, logged = _scored(answers, rewards, columns, trainer_state)
    return Evaluation(samples, len(completions[0]), counted.as_dict() if counted.total else {}, logged)


def _verified(answers: Sequence[tuple[Problem, SampledCompletion]]) -> list[Sample]:
    """With the verdicts, where the verifier alone decides."""
    verdicts = verify_many((completion.text, problem.answer) for problem, completion in answers)
    rights = [verdict.correct and not c.truncated for (_, c), verdict in zip(answers, verdicts, strict=True)]
    (name,) = VERIFIER.names
    return [
        Sample(p, c.text, float(r), r, c.truncated, c.length, verdict, c.reasoning, {name: float(verdict.correct)})
        for (p, c), r, verdict in zip(answers, rights, verdicts, strict=True)
    ]


def _scored(
    answers: Sequence[tuple[Problem, SampledCompletion]], rewards: Rewards, columns: Sequence[str], trainer_state: Any
) -> tuple[list[Sample], dict[str, list[float]]]:
    """The samples, and what the reward functions logged as metrics; of their columns no table is kept."""
    problems, completions = [problem for problem, _ in answers], [completion for _, completion in answers]
    ids = [completion.ids for completion in completions if completion.ids is not None]
    batch = Batch(
        [problem.prompt for problem in problems],
        [completion.text for completion in completions],
        reward_columns(problems, columns),
        ids if len(ids) == len(completions) else None,
        trainer_state,
    )
    scores = score(rewards, batch, truncated=[completion.truncated for completion in completions])
    samples = []
    for place, (problem, c) in enumerate(answers):
        of_functions = {name: values[place] for name, values in scores.of_functions.items()}
        reward, correct = scores.rewards[place], scores.correct[place]
        samples.append(Sample(problem, c.text, reward, correct, c.truncated, c.length, None, c.reasoning, of_functions))
    return samples, scores.metrics
