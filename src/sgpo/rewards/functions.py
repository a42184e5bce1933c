"""What a reward function is, and the one that asks the verifier."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sgpo.user_code import load_object
from sgpo.verification import verify_many

RewardFunction = Callable[..., Sequence[float | None]]
Completion = str | Sequence[Mapping[str, Any]]


def math_reward(
    completions: Sequence[Completion], answer: Sequence[str], *, after_think: bool = True, **columns: Any
) -> list[float | None]:
    r"""Return 1.0 for each completion whose last ``\boxed{...}`` equals its answer, else 0.0.

    Where a completion has ``</think>``, only what follows the last one is judged; to judge all of it, use
    ``functools.partial(math_reward, after_think=False)``.

    Raises ``ValueError`` when the lengths differ or a gold answer cannot be parsed.
    """
    if not isinstance(after_think, bool):
        raise ValueError(
            "math_reward's after_think must be true or false; give the data's column of that name another one"
        )
    if len(completions) != len(answer):
        raise ValueError(f"math_reward got {len(completions)} completions but {len(answer)} answers")
    pairs = [(completion_text(completion), gold) for completion, gold in zip(completions, answer, strict=True)]
    return [1.0 if verdict.correct else 0.0 for verdict in verify_many(pairs, after_think=after_think)]


def completion_text(completion: Completion) -> str:
    """Return a completion's text: itself, or the content of its last assistant message.

    Raises ``ValueError`` for messages without an assistant's or with content that is not text.
    """
    if isinstance(completion, str):
        return completion
    for message in reversed(completion):
        if message.get("role") == "assistant":
            content = message.get("content")
            if not isinstance(content, str):
                raise ValueError(f"the assistant message's content must be text, not {content!r}")
            return content
    raise ValueError(f"a completion of chat messages needs an assistant message: {completion!r}")


def bare(function: Any) -> Any:
    """The function within `functools.partial`."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def name_of(function: RewardFunction) -> str:
    """What a function is called in metrics, options and messages; an object that can be called has its type's name."""
    return getattr(bare(function), "__name__", type(bare(function)).__name__)


def load_reward(name: str) -> RewardFunction:
    """Return the function that ``package.module:function`` or ``path/to/file.py:function`` names.

    Raises ``ValueError`` that says what is missing. The file or module is executed, as by ``import``;
    exceptions that it raises itself travel unchanged.
    """
    function = load_object(name, "reward", "function")
    if not callable(function):
        raise ValueError(f"reward {name!r} is no function, but a {type(function).__name__}")
    return function
