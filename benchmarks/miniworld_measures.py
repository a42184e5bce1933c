"""What `miniworld_gates.py` measures of a model's answers and distributions."""

from __future__ import annotations

import random
import re
from typing import Any

import torch

from sgpo.evaluation.evaluate import Evaluation
from sgpo.methods.records import response_ids
from sgpo.methods.terms import token_divergence, token_logprobs
from sgpo.miniworld.documents import right_policy
from sgpo.miniworld.families import FAMILIES
from sgpo.miniworld.families.puzzles import Puzzle, valid_options
from sgpo.miniworld.solutions import OPTION_OF, SPELLINGS, is_expert_dialect
from sgpo.problems import Problem
from sgpo.prompts import encode_prompts, guided_messages, student_messages
from sgpo.strategies.record import LETTERS

_OWN_STEP = re.compile(r"\([a-z]\) (\w+):")
_EXPERT_STEP = re.compile(r", so (?:\w+, wait, )?(\w+(?: and \w+)*):")


def decisions_of(response: str) -> tuple[str, ...]:
    """The options that a response names, in order, whatever the dialect and the spelling."""
    if not is_expert_dialect(response):
        words = _OWN_STEP.findall(response)
    else:
        words = [word for step in _EXPERT_STEP.findall(response) for word in step.split(" and ")]
    return tuple(OPTION_OF.get(word, word) for word in words)


def work_in(completion: str) -> str:
    """What is computed: of the expert's dialect the second line, between the two restatements of the problem."""
    return completion.split("\n")[1] if is_expert_dialect(completion) and "\n" in completion else completion


def computations_in(term: str) -> int:
    """How many computations are one in a term such as 24/4-3."""
    return len(re.findall(r"(?<=[\d)])[-+*/]", term))


def puzzle_of(problem: Problem) -> Puzzle:
    family = FAMILIES[problem.extra["family"]]
    state = family.read(problem.prompt)
    if state is None:
        raise ValueError(f"{problem.prompt!r} is no problem of the family {family.name}")
    return Puzzle(family.name, problem.prompt, state)


def distinct_answers(evaluation: Evaluation) -> tuple[list[list[float]], list[list[float]]]:
    """Of problems with two or more correct answers: how many differ, as texts and as sequences of decisions."""
    correct = [[s.completion for s in group if s.correct] for group in evaluation.groups]
    several = [texts for texts in correct if len(texts) > 1]
    sequences = [[float(len({decisions_of(text) for text in texts}))] for texts in several]
    return [[float(len(set(texts)))] for texts in several], sequences


@torch.no_grad()
def logits_after(student: Any, prompt: list[int], ids: list[int]) -> torch.Tensor:
    """Logits for each of the ids, after the prompt: (ids, vocabulary)."""
    return student.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]


def prompts_of(student: Any, problem: Problem) -> tuple[list[int], list[int]]:
    """Token ids of the unguided and the guided prompt."""
    conversations = [student_messages(problem.prompt), guided_messages(problem.prompt, problem.strategy or "")]
    bare, guided = encode_prompts(student.tokenizer, conversations)
    return bare, guided


def entropies_at_decisions(student: Any, problems: list[Problem]) -> list[tuple[float, float, float, int]]:
    """Along a right solution in the student's dialect, with the card, summed over the decisions of each problem.

    Of the mass on options (summed over spellings): its entropy, the part of it between valid options, the mass of
    wrong ones; and how many decisions there were, of those with more than one option.
    """
    rows = []
    for problem in problems:
        rng = random.Random(problem.id)
        puzzle = puzzle_of(problem)
        policy, state, text = right_policy(puzzle, rng, rng.randrange(2)), puzzle.start, ""
        ids, places = list[int](), list[tuple[int, tuple[str, ...], tuple[str, ...]]]()
        for letter in LETTERS:
            if state.answer() is not None:
                break
            text += f"({letter}) "
            moves, option = state.moves(), policy(state)
            if len(moves) > 1:
                place = len(student.tokenizer(text, add_special_tokens=False)["input_ids"])
                places.append((place, tuple(moves), valid_options(state)))
            text += f"{rng.choice(SPELLINGS[option])}: {' '.join(moves[option].computations)} "
            state = moves[option].state
        ids = student.tokenizer(text.strip(), add_special_tokens=False)["input_ids"]
        probabilities = logits_after(student, prompts_of(student, problem)[1], ids).softmax(-1)
        sums = [_entropy(student, probabilities[place], options, valid) for place, options, valid in places]
        rows.append((*(sum(each[i] for each in sums) for i in range(3)), len(sums)))
    return rows


def _entropy(
    student: Any, probabilities: torch.Tensor, options: tuple[str, ...], valid: tuple[str, ...]
) -> tuple[float, ...]:
    mass = torch.stack([sum(probabilities[_token(student, word)] for word in SPELLINGS[option]) for option in options])
    mass = mass / mass.sum()
    right = mass[[option in valid for option in options]]
    total, total_right = _h(mass), float(right.sum())
    return total, total_right * _h(right / right.sum()), 1 - total_right


def _h(mass: torch.Tensor) -> float:
    return float(-(mass * mass.clamp_min(1e-12).log()).sum())


def _token(student: Any, word: str) -> int:
    (token,) = student.tokenizer(word, add_special_tokens=False)["input_ids"]
    return token


def expert_likelihood(student: Any, problems: list[Problem], answers: Evaluation) -> list[list[float]]:
    """A problem: NLL and tokens of the expert's response; NLL, tokens and number of own correct answers."""
    rows = []
    for problem, group in zip(problems, answers.groups, strict=True):
        bare, _ = prompts_of(student, problem)
        own = [s.completion for s in group if s.correct and not is_expert_dialect(s.completion)]
        expert = [_nll(student, bare, problem.response or "")]
        mine = [_nll(student, bare, text) for text in own]
        rows.append([*expert[0], sum(n for n, _ in mine), sum(t for _, t in mine), len(mine)])
    return rows


def _nll(student: Any, prompt: list[int], text: str) -> tuple[float, float]:
    ids = response_ids(text, student.tokenizer)
    return float(-token_logprobs(logits_after(student, prompt, ids), torch.tensor(ids)).sum()), float(len(ids))


def masses_of_divergence(student: Any, guided: Evaluation) -> list[tuple[list[float], Problem]]:
    """Of each problem's target, the likeliest correct guided answer (Eq. 4): the divergence above 1 nat, and all."""
    rows = []
    for group in guided.groups:
        problem, texts = group[0].problem, {s.completion for s in group if s.correct}
        if not texts:
            continue
        bare, with_strategy = prompts_of(student, problem)
        target = min(sorted(texts), key=lambda text: _nll(student, bare, text)[0])
        ids = response_ids(target, student.tokenizer)
        divergence = token_divergence(logits_after(student, with_strategy, ids), logits_after(student, bare, ids))
        rows.append(([float(divergence[divergence > 1].sum()), float(divergence.sum())], problem))
    return rows
