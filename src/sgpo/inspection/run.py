"""From options to a page: `sgpo inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgpo.engine.update import add_head_task
from sgpo.evaluation.evaluate import conversations_of, evaluation_of, sample_completions
from sgpo.inspection.answers import ChosenAnswer
from sgpo.inspection.measure import answer_logprobs, measure_tokens
from sgpo.inspection.page import InspectedAnswer, inspection_page
from sgpo.methods.records import response_ids
from sgpo.models.checkpoint import context_length, floating_type, open_checkpoint, say_loading
from sgpo.models.weights import load_weights
from sgpo.problems import Problem
from sgpo.prompts import encode_prompts
from sgpo.sampling.records import SamplingConfig
from sgpo.sampling.transformers import TransformersSampler
from sgpo.tokenizers import check_tokenizer


@dataclass(frozen=True)
class InspectedModel:
    """A model of transformers with its tokenizer. Example: ``InspectedModel.load("runs/sft")``"""

    name: str
    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, name: str, dtype: str | None = None) -> InspectedModel:
        """On the GPU if there is one. Raises ValueError for a model that cannot be read, or whose head is unusual."""
        config, tokenizer = open_checkpoint(name)
        dtype = dtype or floating_type(config)
        check_tokenizer(tokenizer)
        say_loading(name, config, dtype)
        model = load_weights(name, dtype).to("cuda" if torch.cuda.is_available() else "cpu")
        add_head_task(model)
        return cls(name, model.eval(), tokenizer)

    def prompts(self, problem: Problem, system_prompt: str | None) -> tuple[list[int], list[int]]:
        """Without and with the strategy."""
        bare, guided = (conversations_of([problem], system_prompt or "", guided=guided) for guided in (False, True))
        first, second = encode_prompts(self.tokenizer, [*bare, *guided])
        return first, second

    def check_length(self, prompt: Sequence[int], ids: Sequence[int]) -> None:
        """Raises ValueError for what is longer than the model's context."""
        limit, length = context_length(self.model.config), len(prompt) + len(ids)
        if limit is not None and length > limit:
            raise ValueError(
                f"prompt and answer have {length} tokens, {self.name} has a context of {limit}: give a shorter answer"
            )


def given_answer(model: InspectedModel, problem: Problem, text: str, fact: str) -> ChosenAnswer:
    """An answer that is there as a text."""
    facts = [fact, *([f"reference {problem.answer}"] if problem.answer else [])]
    return ChosenAnswer(problem, response_ids(text, model.tokenizer), problem.id, facts)


def own_answers(
    model: InspectedModel, problems: Sequence[Problem], system_prompt: str | None, max_new_tokens: int
) -> list[ChosenAnswer]:
    """The greedy answers of the model with the strategy in its prompt, as long as its context has room for them.

    Raises ValueError for a prompt that fills the context.
    """
    prompts = [model.prompts(problem, system_prompt)[1] for problem in problems]
    limit, longest = context_length(model.model.config), max(map(len, prompts))
    if limit is not None:
        model.check_length(max(prompts, key=len), [0])
        max_new_tokens = min(max_new_tokens, limit - longest)
    sampler, greedy = TransformersSampler.of(model.model, model.tokenizer), SamplingConfig(max_new_tokens, 0.0)
    completions = sample_completions(sampler, model.tokenizer, problems, prompts, greedy, k=1, seed=0)
    judged = [problem for problem in problems if problem.answer]
    groups = [group for problem, group in zip(problems, completions, strict=True) if problem.answer]
    correct = {s.problem.id: s.correct for s in evaluation_of(judged, groups).samples} if judged else {}
    found = []
    for problem, (completion,) in zip(problems, completions, strict=True):
        facts = ["greedy answer with the strategy"]
        if problem.id in correct:
            facts += ["correct" if correct[problem.id] else "wrong", f"reference {problem.answer}"]
        if completion.truncated:
            facts.append("cut at the length limit")
        found.append(ChosenAnswer(problem, completion.ids or [], problem.id, facts))
    return found


def inspected(
    model: InspectedModel,
    answers: Sequence[ChosenAnswer],
    *,
    other: InspectedModel | None,
    system_prompt: str | None,
    delta: float,
) -> list[InspectedAnswer]:
    """Measure every token of the answers.

    Args:
        other: a model with the same tokenizer, whose probabilities without the strategy are shown beside.

    Raises:
        ValueError: an answer that is empty or too long, or another model with another tokenizer.
    """
    if other is not None and other.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        raise ValueError(f"{other.name} has another vocabulary than {model.name}: their tokens cannot be compared")
    found = []
    for answer in answers:
        bare, guided = model.prompts(answer.problem, system_prompt)
        model.check_length(max(bare, guided, key=len), answer.ids)
        measures = measure_tokens(model.model, bare, guided, answer.ids)
        after: Tensor | None = None
        if other is not None:
            after = answer_logprobs(other.model, other.prompts(answer.problem, system_prompt)[0], answer.ids)
        problem = answer.problem
        found.append(
            InspectedAnswer(
                answer.label,
                problem.prompt,
                problem.strategy or "",
                answer.facts,
                answer.ids,
                measures,
                after,
                delta,
            )
        )
    return found


def write_page(
    path: Path, answers: Sequence[InspectedAnswer], model: InspectedModel, other: InspectedModel | None
) -> str:
    """Write the page; returns its HTML."""
    from sgpo.files import replacing

    subtitle = f"Model {model.name}" + (f", compared with {other.name}" if other else "")
    text = inspection_page(
        answers, model.tokenizer, subtitle=subtitle, other_label=Path(other.name).name if other else ""
    )
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return text
