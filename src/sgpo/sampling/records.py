"""What every sampler takes and gives: requests, and rollouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # methods are loaded without torch, see sgpo.methods.options
    from torch import Tensor

Watch = Callable[[int, int], None]  # called now and then with how many more completions have ended, and more tokens


@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn.

    Example: ``SamplingConfig(max_new_tokens=96, temperature=1.0, top_p=0.95)``. ValueError if out of range.
    """

    max_new_tokens: int  # the end-of-sequence token counts
    temperature: float = 1.0  # 0 takes the most probable token
    top_p: float = 0.95  # 1 keeps the whole vocabulary

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; set it to 1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; set it to 0 (greedy) or a positive number")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; set it above 0 and at most 1 (1 = no filter)")


@dataclass(frozen=True)
class SampleRequest:
    """A prompt and how many completions of it are wanted.

    Example: ``SampleRequest(prompt_ids=[5, 17, 9], count=8)`` ValueError if either is empty.
    """

    prompt_ids: list[int]
    count: int
    seed: int | None = None  # of these completions alone, whatever else is asked for with them; None: of the call

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError("prompt_ids is empty; give one token or more, such as the beginning of sequence")
        if self.count < 1:
            raise ValueError(f"count is {self.count}; ask for 1 completion or more, or leave the request out")


class Sampler(Protocol):
    """An engine that samples from the current policy."""

    def sample(
        self, requests: Sequence[SampleRequest], sampling: SamplingConfig, *, seed: int, watch: Watch | None = None
    ) -> list[list[Rollout]]:
        """``count`` rollouts, of reward 0, for each request, in order; equal seeds give equal rollouts.

        An engine that cannot seed single requests may disregard ``SampleRequest.seed``, and says so where it is made.
        One that learns nothing before the end may disregard ``watch``, which only the evaluation gives.
        """
        ...


@dataclass(frozen=True)
class Rollout:
    """One sampled completion.

    Example: ``Rollout([17, 4, 2], torch.tensor([-0.1, -0.7, 0.0]), truncated=False, reward=1.2, correct=True)``

    Raises:
        ValueError: a truncated completion that is called correct.
    """

    completion_ids: list[int]  # with the end-of-sequence token, unless truncated
    # [T] on the CPU: log-probability of each token, full vocabulary, temperature 1, nats; None where no engine sampled.
    sampler_logprobs: Tensor | None = field(compare=False)
    truncated: bool  # hit the length limit: reward 0, and never a distillation target
    reward: float = 0.0  # the weighted sum of the reward functions, for advantages
    correct: bool = False  # what the correctness function says, for pass rates and targets
    rewards: Mapping[str, float | None] = field(default_factory=dict)  # of each function, None where it does not apply
    logged: Mapping[str, Any] = field(default_factory=dict)  # by reward functions, for the table of completions

    def __post_init__(self) -> None:
        if self.correct and self.truncated:
            raise ValueError("a truncated completion is not correct, whatever it says")


def decode(rollouts: Sequence[Rollout], tokenizer: Any) -> list[str]:
    """The texts of the completions, without special tokens."""
    if not rollouts:
        return []  # of nothing the tokenizer makes one empty text
    return tokenizer.batch_decode([rollout.completion_ids for rollout in rollouts], skip_special_tokens=True)


def rewards_of(rollouts: Sequence[Rollout]) -> Tensor:
    """float64 [G]"""
    import torch

    return torch.tensor([rollout.reward for rollout in rollouts], dtype=torch.float64)


def correct_of(rollouts: Sequence[Rollout]) -> Tensor:
    """bool [G]"""
    import torch

    return torch.tensor([rollout.correct for rollout in rollouts], dtype=torch.bool)


def lengths_of(rollouts: Sequence[Rollout]) -> Tensor:
    """Tokens of each completion. int64 [G]"""
    import torch

    return torch.tensor([len(rollout.completion_ids) for rollout in rollouts], dtype=torch.int64)
