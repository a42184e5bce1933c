"""A checkpoint of the quickstart: its greedy answers, and its distributions along an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sgpo.engine.update import add_head_task
from sgpo.evaluation.evaluate import conversations_of, evaluation_of, sample_completions
from sgpo.inspection.measure import TokenMeasures, answer_logprobs, measure_tokens
from sgpo.models.checkpoint import open_checkpoint
from sgpo.models.weights import load_weights
from sgpo.problems import Problem
from sgpo.prompts import SYSTEM_PROMPT, encode_prompts
from sgpo.sampling.records import SamplingConfig
from sgpo.sampling.transformers import TransformersSampler


@dataclass(frozen=True)
class GreedyAnswer:
    """A greedy answer. Example: ``GreedyAnswer("24/4=6 \\\\boxed{6}", correct=True, ids=[12, 4, 7, 2])``"""

    text: str
    correct: bool
    ids: list[int]  # with the end-of-sequence token, unless truncated


class LoadedPolicy:
    """A checkpoint that answers problems, and what it makes of one. Example: ``LoadedPolicy("runs/quickstart/sft")``"""

    def __init__(self, folder: str | Path) -> None:
        _, self.tokenizer = open_checkpoint(str(folder))
        self.model = load_weights(str(folder))
        add_head_task(self.model)

    def answers(self, problems: Sequence[Problem], max_new_tokens: int, *, guided: bool = False) -> list[GreedyAnswer]:
        """Greedy ones, judged by the verifier."""
        prompts = self._prompts(problems, guided)
        sampler, greedy = TransformersSampler.of(self.model, self.tokenizer), SamplingConfig(max_new_tokens, 0.0)
        completions = sample_completions(sampler, self.tokenizer, problems, prompts, greedy, k=1, seed=0)
        samples = evaluation_of(problems, completions).samples
        return [
            GreedyAnswer(sample.completion, sample.correct, completion.ids or [])
            for sample, (completion,) in zip(samples, completions, strict=True)
        ]

    def measures(self, problem: Problem, ids: Sequence[int]) -> TokenMeasures:
        """What the problem's strategy does to the distributions along an answer."""
        bare, guided = (self._prompts([problem], guided)[0] for guided in (False, True))
        return measure_tokens(self.model, bare, guided, ids)

    def probabilities(self, problem: Problem, ids: Sequence[int]) -> Tensor:
        """Of the tokens of an answer, each given those before it, without the strategy, at temperature 1. [T] -> [T]"""
        return answer_logprobs(self.model, self._prompts([problem], False)[0], ids).exp()

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    def _prompts(self, problems: Sequence[Problem], guided: bool) -> list[list[int]]:
        return encode_prompts(self.tokenizer, conversations_of(problems, SYSTEM_PROMPT, guided=guided))
