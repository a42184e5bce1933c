"""A checkpoint of the quickstart: its greedy answers, and its distributions along an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sgpo.evaluation.evaluate import conversations_of, evaluation_of, sample_completions
from sgpo.methods.terms import token_logprobs
from sgpo.models.checkpoint import open_checkpoint
from sgpo.models.modes import evaluation_mode
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
    """A checkpoint that answers problems, and its logits along one. Example: ``LoadedPolicy("runs/quickstart/sft")``"""

    def __init__(self, folder: str | Path) -> None:
        _, self.tokenizer = open_checkpoint(str(folder))
        self.model = load_weights(str(folder))

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

    @torch.no_grad()
    def logits(self, problem: Problem, ids: Sequence[int], *, guided: bool = False) -> Tensor:
        """Those from which each token of an answer would be drawn. [T] -> [T, V]"""
        (prompt,) = self._prompts([problem], guided)
        with evaluation_mode(self.model):
            return self.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]

    def probabilities(self, problem: Problem, ids: Sequence[int], *, guided: bool = False) -> Tensor:
        """Of the tokens of an answer, each given those before it, at temperature 1. [T] -> [T]"""
        return token_logprobs(self.logits(problem, ids, guided=guided), torch.tensor(ids)).exp()

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    def _prompts(self, problems: Sequence[Problem], guided: bool) -> list[list[int]]:
        return encode_prompts(self.tokenizer, conversations_of(problems, SYSTEM_PROMPT, guided=guided))
