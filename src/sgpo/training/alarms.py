"""Warnings during training: what goes wrong in silence, with its cause and what to do.

Each looks at the lines of the log, as `metrics.jsonl` has them, and is said once until what it warns of was over.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

from sgpo.verification import TIMEOUT

logger = logging.getLogger(__name__)

MAX_TRUNCATED = 0.5  # share of completions
MAX_TIMEOUTS = 0.05  # share of the verifier's verdicts
MAX_MISMATCH = 0.1  # nats a token
NO_REWARD_LINES = 10  # in a row
ENTROPY_SHARE = 0.1  # of that of the first lines
ENTROPY_LINES = 5  # that are averaged, at the start and now

Metrics = Mapping[str, float]


class Alarms(TrainerCallback):
    """Watches the log of the main process."""

    def __init__(self, max_completion_length: int, delta: float) -> None:
        self.max_completion_length, self.delta = max_completion_length, delta
        self.raised: set[str] = set()
        self.without_reward = 0
        self.first_entropies: list[float] = []
        self.last_entropies: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs is not None and "loss" in logs:
            for name, text in self.check(logs).items():
                if text is None:
                    self.raised.discard(name)
                elif name not in self.raised:
                    self.raised.add(name)
                    with tqdm.external_write_mode():  # above the bar of the run
                        logger.warning("update %d: %s", state.global_step, text)

    def check(self, line: Metrics) -> dict[str, str | None]:
        """What is to be said of each thing that the line tells about; None: nothing."""
        return {
            **self._truncation(line),
            **self._rewards(line),
            **self._mask(line),
            **self._entropy(line),
            **_timeouts(line),
            **_mismatch(line),
        }

    def _truncation(self, line: Metrics) -> dict[str, str | None]:
        share = line.get("truncated/autonomous")
        if share is None:
            return {}
        return {
            "truncated": f"{share:.0%} of the completions hit max_completion_length ({self.max_completion_length}) and "
            "got no reward, whatever they were about to say. Raise max_completion_length, or start from a model that "
            "ends its answers (a warm-up with sgpo sft teaches it)"
            if share > MAX_TRUNCATED
            else None
        }

    def _rewards(self, line: Metrics) -> dict[str, str | None]:
        rewards = [line[name] for name in ("reward/autonomous", "reward/guided") if name in line]
        if not rewards:
            return {}
        self.without_reward = 0 if any(rewards) else self.without_reward + 1
        return {
            "rewards": f"all rewards were 0 in the last {self.without_reward} lines of the log, so nothing is learnt. "
            "Read some completions (output_dir/completions): if the answers are right, the reward function or the "
            "column of answers is wrong; if they are not, take easier problems or a better model"
            if self.without_reward >= NO_REWARD_LINES
            else None
        }

    def _mask(self, line: Metrics) -> dict[str, str | None]:
        share = line.get("divergence_masked_share")
        if share is None:
            return {}
        return {
            "masked": f"delta ({self.delta}) masks every token of every target: the strategy changes the distributions "
            f"by {line['divergence']:.3g} nats a token, and nothing is distilled. Raise delta, or look whether "
            "the strategies give the answer away"
            if share == 1.0
            else None
        }

    def _entropy(self, line: Metrics) -> dict[str, str | None]:
        if "entropy" not in line:
            return {}
        if len(self.first_entropies) < ENTROPY_LINES:
            self.first_entropies.append(line["entropy"])
            return {}
        self.last_entropies = [*self.last_entropies, line["entropy"]][-ENTROPY_LINES:]
        first = sum(self.first_entropies) / ENTROPY_LINES
        now = sum(self.last_entropies) / len(self.last_entropies)
        return {
            "entropy": f"the entropy has fallen from {first:.3g} to {now:.3g} nats a token: completions of a group "
            "become equal, and equal rewards teach nothing. Lower learning_rate or alpha_max, raise eps_high, or stop "
            "at an earlier checkpoint"
            if len(self.last_entropies) == ENTROPY_LINES and now < ENTROPY_SHARE * first
            else None
        }


def _timeouts(line: Metrics) -> dict[str, str | None]:
    share = line.get("verdicts/timeout")
    if share is None:
        return {}
    return {
        "timeouts": f"{share:.0%} of the answers were not compared within the verifier's {TIMEOUT:g} s (or its memory "
        "limit) and got no reward. If the machine is busy, leave the verifier some cores; if it is not, read the "
        "answers in the boxes: the policy may be learning to write what cannot be computed"
        if share > MAX_TIMEOUTS
        else None
    }


def _mismatch(line: Metrics) -> dict[str, str | None]:
    gap = line.get("sampler_mismatch")
    if gap is None:
        return {}
    return {
        "mismatch": f"the sampling engine's log-probabilities differ from the training engine's by {gap:.3g} nats a "
        "token: completions are weighed as if another policy had written them. Sample in the precision of training, "
        "look whether weights are handed over before each rollout batch, or set importance_cap: 2.0"
        if gap > MAX_MISMATCH
        else None
    }
