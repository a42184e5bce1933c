"""What a reward function gets, and whether that is what it asks for; docs/rewards.md has the table.

A function is called with keywords, as by TRL: those of `GIVEN`, and a list for every column of the problems. One with
``**columns`` gets all of them, another one those that it names.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sgpo.problems import Problem
from sgpo.rewards.chosen import Rewards
from sgpo.rewards.functions import RewardFunction, bare

GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_metric", "log_extra")
FIELDS = ("id", "answer", "response", "strategy")  # of a problem; its prompt is given as `prompts`
GOLD = "solution"  # the name that TRL's functions have for the answer
_MESSAGES = re.compile(r"[\w.]*(list|sequence)\[[\w.]*(list|sequence)\[", re.IGNORECASE)


def column_names(problems: Sequence[Problem]) -> list[str]:
    """The columns of a data set as reward functions get them, also those that most of its problems lack."""
    return list(dict.fromkeys([*FIELDS, GOLD, *sorted({name for problem in problems for name in problem.extra})]))


def reward_columns(problems: Sequence[Problem], names: Sequence[str]) -> dict[str, list[Any]]:
    """A value for each problem under each name, None where it has none."""
    return {name: [_value(problem, name) for problem in problems] for name in names}


def _value(problem: Problem, name: str) -> Any:
    if name in FIELDS:
        return getattr(problem, name)
    return problem.extra.get(name, problem.answer if name == GOLD else None)


def check_signatures(rewards: Rewards, columns: Collection[str], data: str) -> None:
    """Refuse, before anything is sampled, a function that could not be called.

    Args:
        columns: of the problems; `data` says which problems they are, such as "training problems".

    Raises:
        ValueError: a required parameter that is no column and not given, or a column with the name of what is given.
    """
    if clashes := [name for name in columns if name in GIVEN]:
        raise ValueError(f"the {data} have a column {clashes[0]!r}, which reward functions are given: rename it")
    for name, function in zip(rewards.names, rewards.functions, strict=True):
        needed = [each.name for each in _parameters(function) or [] if _is_required(each)]
        if missing := [each for each in needed if each not in GIVEN and each not in columns]:
            raise ValueError(
                f"reward function {name} needs {missing[0]!r}, which is no column of the {data} "
                f"({', '.join(columns)}) and not given ({', '.join(GIVEN)}): add the column, or give the parameter a "
                "default"
            )


def accepted(function: RewardFunction, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that the function takes."""
    parameters = _parameters(function)
    if parameters is None or any(each.kind is each.VAR_KEYWORD for each in parameters):
        return dict(arguments)
    named = {each.name for each in parameters}
    return {name: value for name, value in arguments.items() if name in named}


def takes_messages(function: RewardFunction) -> bool:
    """Whether prompts and completions are lists of chat messages to the function, as to those of ``trl.rewards``.

    It says so by the annotation of its parameter: ``completions: list[list[dict[str, str]]]``.
    """
    for parameter in _parameters(bare(function)) or []:
        if parameter.name == "completions":
            annotation = parameter.annotation
            return bool(_MESSAGES.match(annotation if isinstance(annotation, str) else str(annotation)))
    return False


def _parameters(function: Any) -> list[inspect.Parameter] | None:
    """None for a function of C that does not tell."""
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:
        return None


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_KEYWORD,
        parameter.VAR_POSITIONAL,
    )
