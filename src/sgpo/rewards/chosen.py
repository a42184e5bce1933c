"""The reward functions of a run, what each weighs, and which of them say what is correct.

Advantages come from the weighted sum of all rewards. What is *correct* is another question: one function answers it, by
an unweighted reward of 1 or more. So a reward for the format or the length of a completion changes what is preferred,
and never makes a wrong answer a target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sgpo.rewards.functions import RewardFunction, bare, math_reward, name_of


@dataclass(frozen=True)
class Rewards:
    """Made by `choose_rewards`.

    Example: ``Rewards((math_reward, short_reward), (1.0, 0.2), ("math_reward", "short_reward"), ("math_reward",))``
    """

    functions: tuple[RewardFunction, ...]
    weights: tuple[float, ...]
    names: tuple[str, ...]  # no two alike
    correctness: tuple[str, ...]  # of names: of each completion, the first of these that applies says if it is correct

    @property
    def ask_verifier(self) -> bool:
        """Whether answers are parsed, so that golds have to be such as can be."""
        return any(bare(function) is math_reward for function in self.functions)


def choose_rewards(
    functions: RewardFunction | Sequence[RewardFunction],
    weights: Sequence[float] | None = None,
    correctness: str | Sequence[str] = (),
) -> Rewards:
    """The functions with their weights (default 1 each), and the names of those that say what is correct.

    Args:
        correctness: names of reward functions; default: `math_reward` if it is among them, or the only one.

    Raises:
        ValueError: no function, something else than functions, weights that do not fit, or no telling what is correct.
    """
    some = [functions] if callable(functions) or isinstance(functions, str) else list(functions)
    if not some:
        raise ValueError("at least one reward function is needed, for example sgpo.rewards:math_reward")
    for each in some:
        if not callable(each):
            raise ValueError(f"a reward function must be a function, not {each!r}; sgpo.rewards.load_reward loads one")
        if any(base.__module__.startswith("torch.nn.") for base in type(each).__mro__):
            raise ValueError(f"a reward model ({type(each).__name__}) is no reward function: give one that asks it")
    given = [1.0] * len(some) if weights is None else list(weights)
    if len(given) != len(some):
        raise ValueError(f"{len(some)} reward functions need as many reward_weights, not {len(given)}")
    if not all(math.isfinite(weight) for weight in given):
        raise ValueError(f"reward_weights are {given}; they must be finite")
    names = _numbered([name_of(each) for each in some])
    asked = [correctness] if isinstance(correctness, str) else list(correctness)
    return Rewards(tuple(some), tuple(given), tuple(names), tuple(_judges(some, names, asked)))


def _numbered(names: Sequence[str]) -> list[str]:
    """Functions of one name are told apart: f, f_2."""
    counts = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [name if count == 1 else f"{name}_{count}" for name, count in zip(names, counts, strict=True)]


def _judges(functions: Sequence[RewardFunction], names: Sequence[str], asked: Sequence[str]) -> list[str]:
    if unknown := [name for name in asked if name not in names]:
        raise ValueError(
            f"correctness names {unknown[0]}, which is none of the reward functions: they are {', '.join(names)}"
        )
    if asked:
        return list(asked)
    verifiers = [name for name, each in zip(names, functions, strict=True) if bare(each) is math_reward]
    if verifiers or len(names) == 1:
        return [*verifiers, *names][:1]
    raise ValueError(
        f"which of the reward functions {', '.join(names)} says what is correct? Name the one that gives 1 to a "
        f"correct completion, such as  correctness: {names[0]}  or add sgpo.rewards:math_reward, whose weight may be 0"
    )


VERIFIER = choose_rewards(math_reward)
