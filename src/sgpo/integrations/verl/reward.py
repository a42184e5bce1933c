"""The verifier as a reward function of veRL: ``reward.custom_reward_function.path=pkg://sgpo.integrations.verl.reward``."""

from __future__ import annotations

from typing import Any

from sgpo.verification import verify


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **_: Any
) -> dict[str, float]:
    r"""1 for a completion whose last ``\boxed{...}`` equals the answer, else 0: as reward, and as what is correct.

    A function of your own returns a number, or such a dict; ``acc`` says what is correct, and is 1 for that.
    """
    correct = float(verify(solution_str, ground_truth).correct)
    return {"score": correct, "acc": correct}
