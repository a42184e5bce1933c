"""The idea, seen on one problem: where a strategy changes the model's mind, and what training keeps of the change.

    development problems -> greedy answers of the warm-up, with and without the strategy -> the helped ones
    -> the helped one with the largest divergence -> the most changed tokens of its guided answer
    -> their probabilities without the strategy, before and after training

A problem is *helped* if its strategy is a right one of the mini-world and the warm-up answers wrongly without it and
rightly with it. The choice looks at the warm-up alone, so it favours neither method. No model was trained on
development problems. The divergence is that of training (Eq. 3), its mean over the tokens that of Eq. 5 without a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sgpo.problems import Problem

if TYPE_CHECKING:  # the quickstart begins without waiting for torch
    from torch import Tensor

    from sgpo.inspection.measure import TokenMeasures
    from sgpo.quickstart.policy import GreedyAnswer, LoadedPolicy

WARM_UP, TRAINED = "sft", ("grpo", "sgpo")
POLICIES = (WARM_UP, *TRAINED)
GUIDED_WARM_UP = f"{WARM_UP}-guided"
VIEWS = (WARM_UP, GUIDED_WARM_UP, *TRAINED)  # of a token: each gives it a probability
MOST_CHANGED = 5  # tokens of an answer that are shown


@dataclass(frozen=True)
class Case:
    """A development problem as the warm-up answers it, without the strategy and with it."""

    problem: Problem
    unguided: GreedyAnswer
    guided: GreedyAnswer

    @property
    def right_strategy(self) -> bool:
        """Whether the mini-world gave it a right card; a tenth of the cards is mistaken or of another family."""
        return self.problem.extra["card"] == "right"

    @property
    def helped(self) -> bool:
        return self.right_strategy and self.guided.correct and not self.unguided.correct


def possible_cases(cases: Sequence[Case]) -> list[Case]:
    """The helped problems; where there is none, those with a right strategy."""
    return [case for case in cases if case.helped] or [case for case in cases if case.right_strategy]


@dataclass(frozen=True)
class TokenChange:
    """A token of a guided answer, and what the strategy and the training did to its probability.

    Example: ``TokenChange(place=1, before="(a) ", token="undo", unguided="expand", divergence=2.4,
    probability={"sft": 0.08, "sft-guided": 0.91, "grpo": 0.12, "sgpo": 0.66})``
    """

    place: int  # in the answer, from 0
    before: str  # the text of the answer up to it
    token: str
    unguided: str  # what the warm-up finds most probable in this place without the strategy
    divergence: float  # KL(guided || unguided) of the warm-up, nats
    probability: dict[str, float]  # by the views, at temperature 1; all but "sft-guided" without the strategy


def largest(divergences: Sequence[Tensor]) -> int:
    """The place of the answer whose mean over its tokens is the largest; the first of equals."""
    means = [float(divergence.mean()) for divergence in divergences]
    return means.index(max(means))


def changes_of(policies: Mapping[str, LoadedPolicy], case: Case, measures: TokenMeasures) -> list[TokenChange]:
    """The most changed tokens of the guided answer, in the order of the answer.

    Args:
        measures: of the guided answer, under the warm-up.
    """
    warm_up, problem, ids = policies[WARM_UP], case.problem, case.guided.ids
    places = sorted(measures.divergence.topk(min(MOST_CHANGED, len(ids))).indices.tolist())
    probabilities = {name: policies[name].probabilities(problem, ids) for name in TRAINED}
    probabilities |= {WARM_UP: measures.bare.logprobs.exp(), GUIDED_WARM_UP: measures.guided.logprobs.exp()}
    unguided = measures.bare.top_ids[:, 0].tolist()
    return [
        TokenChange(
            place,
            warm_up.decode(ids[:place]),
            warm_up.decode(ids[place : place + 1]),
            warm_up.decode(unguided[place : place + 1]),
            float(measures.divergence[place]),
            {name: float(probabilities[name][place]) for name in VIEWS},
        )
        for place in places
    ]


def average_of(changes: Sequence[TokenChange]) -> dict[str, Any]:
    """Means over tokens."""
    return {
        "tokens": len(changes),
        "divergence": sum(change.divergence for change in changes) / len(changes),
        "probability": {name: sum(c.probability[name] for c in changes) / len(changes) for name in VIEWS},
    }


def find_idea(problems: Sequence[Problem], policies: Mapping[str, LoadedPolicy], max_new_tokens: int) -> dict[str, Any]:
    """What summary.json holds under "idea".

    Args:
        problems: the development problems, with strategies and the mini-world's columns `card` and `family`.
        policies: by the names of `POLICIES`.

    Returns:
        ``problems`` (counts; ``helped`` is 0 if there was no such problem to choose), ``problem``, ``answers`` (greedy,
        by view), ``divergence`` (mean over the tokens of the guided answer, nats), ``tokens`` (the most changed, see
        `TokenChange`) and ``average`` (over the most changed tokens of all problems that could have been chosen).
    """
    unguided = {name: policy.answers(problems, max_new_tokens) for name, policy in policies.items()}
    guided = policies[WARM_UP].answers(problems, max_new_tokens, guided=True)
    cases = [Case(*each) for each in zip(problems, unguided[WARM_UP], guided, strict=True)]
    possible = possible_cases(cases)
    measured = [policies[WARM_UP].measures(case.problem, case.guided.ids) for case in possible]
    divergences = [measures.divergence for measures in measured]
    changes = [changes_of(policies, *pair) for pair in zip(possible, measured, strict=True)]
    number = largest(divergences)
    chosen = possible[number]
    place = cases.index(chosen)
    answers = {name: of_policy[place] for name, of_policy in unguided.items()} | {GUIDED_WARM_UP: chosen.guided}
    return {
        "problems": _counts(cases, unguided),
        "problem": _described(chosen.problem),
        "answers": {name: {"text": answers[name].text, "correct": answers[name].correct} for name in VIEWS},
        "divergence": float(divergences[number].mean()),
        "tokens": [asdict(change) for change in changes[number]],
        "average": average_of([change for of_case in changes for change in of_case]),
    }


def _counts(cases: Sequence[Case], unguided: Mapping[str, Sequence[GreedyAnswer]]) -> dict[str, Any]:
    helped = [place for place, case in enumerate(cases) if case.helped]
    return {
        "all": len(cases),
        "right_strategy": sum(case.right_strategy for case in cases),
        "helped": len(helped),
        "solved_after": {name: sum(unguided[name][place].correct for place in helped) for name in TRAINED},
    }


def _described(problem: Problem) -> dict[str, Any]:
    return {
        "id": problem.id,
        "family": problem.extra["family"],
        "prompt": problem.prompt,
        "answer": problem.answer,
        "strategy": problem.strategy,
    }
