"""Engines: what answers the problems of an evaluation, and remembers every answer.

    LocalEngine   a `Sampler` on this machine (transformers, vLLM)
    HttpEngine    any OpenAI-compatible server (`sgpo.evaluation.http`)

Both write each answer into a journal (`sgpo.chat.journal`) before it is used. Its key is a hash of the whole request:
model, messages, sampling, seed and number of the sample. So an evaluation that was killed continues where it was, and
the answer to another request is never taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from sgpo.chat.journal import Entry, Journal, keys_of
from sgpo.errors import UnfinishedError
from sgpo.evaluation.evaluate import SampledCompletion, conversations_of, problem_seed, sample_completions
from sgpo.problems import Problem
from sgpo.prompts import encode_prompts
from sgpo.sampling.records import Sampler, SamplingConfig


class Progress(Protocol):
    """What an engine says while it works, of completions and tokens: `sgpo.screen.Meter`."""

    def known(self, count: int) -> None:
        """So many were in the journal."""

    def add(self, count: int, tokens: int = 0) -> None:
        """So many more have ended, after so many more tokens."""


@dataclass(frozen=True)
class EvaluationRequest:
    """What is asked about each problem of a set, beside its text.

    Example: ``EvaluationRequest(SamplingConfig(32_768, 0.6, 0.95), k=4, seed=0, system_prompt="...", guided=False)``
    """

    sampling: SamplingConfig
    k: int
    seed: int
    system_prompt: str
    guided: bool = False


class EvaluationEngine(Protocol):
    """Answers problems. ``identity`` says which model in which engine, and is part of every summary."""

    @property
    def identity(self) -> Mapping[str, Any]: ...

    @property
    def repeatable(self) -> str:
        """What the same seed gives again, in a sentence."""
        ...

    def answer(
        self, problems: Sequence[Problem], asked: EvaluationRequest, journal: Path, progress: Progress
    ) -> list[list[SampledCompletion]]:
        """k completions of each problem, from the journal where it has them. Raises `UnfinishedError`."""
        ...


class LocalEngine:
    """A sampler on this machine.

    Args:
        sampler: of the model, with the tokenizer's ids.
        identity: see `EvaluationEngine`.
        repeatable: see `EvaluationEngine`.
        tokens_at_once: bound on completions x (longest prompt + max_new_tokens) of one call of the sampler; what a
            killed evaluation loses is one call.
    """

    def __init__(
        self, sampler: Sampler, tokenizer: Any, identity: Mapping[str, Any], repeatable: str, tokens_at_once: int
    ) -> None:
        self.sampler, self.tokenizer = sampler, tokenizer
        self.identity, self.repeatable, self.tokens_at_once = identity, repeatable, tokens_at_once

    def answer(
        self, problems: Sequence[Problem], asked: EvaluationRequest, journal: Path, progress: Progress
    ) -> list[list[SampledCompletion]]:
        conversations = conversations_of(problems, asked.system_prompt, guided=asked.guided)
        prompts = encode_prompts(self.tokenizer, conversations)
        parameters = {"engine": dict(self.identity), **asdict(asked.sampling)}
        keys = [
            keys_of(messages, {**parameters, "seed": problem_seed(asked.seed, problem)}, asked.k)
            for problem, messages in zip(problems, conversations, strict=True)
        ]
        with Journal(journal) as answers:
            missing = [i for i, of_problem in enumerate(keys) if any(key not in answers for key in of_problem)]
            progress.known((len(problems) - len(missing)) * asked.k)
            for part in self._parts(missing, [len(ids) for ids in prompts], asked):
                groups = sample_completions(
                    self.sampler,
                    self.tokenizer,
                    [problems[i] for i in part],
                    [prompts[i] for i in part],
                    asked.sampling,
                    k=asked.k,
                    seed=asked.seed,
                    watch=progress.add,
                )
                for i, group in zip(part, groups, strict=True):
                    answers.append(self._entry(*pair, prompts[i]) for pair in zip(keys[i], group, strict=True))
            return [[_completion(answers, key) for key in of_problem] for of_problem in keys]

    def _parts(self, missing: Sequence[int], lengths: Sequence[int], asked: EvaluationRequest) -> list[list[int]]:
        """Problems that are answered in one call, short prompts first; at least one problem."""
        parts: list[list[int]] = []
        for i in sorted(missing, key=lengths.__getitem__):
            width = lengths[i] + asked.sampling.max_new_tokens
            if not parts or (len(parts[-1]) + 1) * asked.k * width > self.tokens_at_once:
                parts.append([])
            parts[-1].append(i)
        return parts

    def _entry(self, key: str, completion: SampledCompletion, prompt_ids: Sequence[int]) -> Entry:
        return Entry(
            key=key,
            model=str(self.identity["model"]),
            prompt_tokens=len(prompt_ids),
            completion_tokens=completion.length,
            requests=1,
            text=completion.text,
            finish_reason="length" if completion.truncated else "stop",
        )


def _completion(answers: Journal, key: str) -> SampledCompletion:
    entry = answers.get(key)
    if entry is None:
        raise UnfinishedError(
            f"a line of the journal {answers.path} is damaged; the same command asks again for what it held"
        )
    return SampledCompletion(
        entry.text or "", entry.finish_reason == "length", entry.completion_tokens, entry.reasoning
    )
