"""The symbolic teacher, and the documents that the base model is pretrained on.

The teacher writes the full solution of a puzzle (the strong-model response) and its strategy in three parts without
any computation. Pretraining sees two kinds of documents, both in exactly the format of `sgpo.prompts`:

    notebooks    the bare problem; at each decision the right method with probability `NOTEBOOK_SKILL`, otherwise a
                 typical misconception, carried through honestly to its end
    worksheets   a strategy in front, which the solution follows (`FIDELITY`), be the strategy right or not

So the base model knows every procedure, is unsure which one to take, and follows a strategy without trusting it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sgpo.miniworld.families import (
    FAMILIES,
    Puzzle,
    State,
    Step,
    answer,
    finished,
    options,
    right_method,
    typical_misconceptions,
)
from sgpo.prompts import Messages, guided_messages, response_messages, student_messages
from sgpo.strategies.record import LETTERS, Strategy

NOTEBOOK_SKILL = 0.45
TYPICAL = 0.95  # of the wrong choices, the share that is the most typical misconception
FIDELITY = 0.98
PRETRAINING_DEPTHS = (2, 3, 3, 4, 4, 5, 5, 6)

Policy = Callable[[State], str]


@dataclass(frozen=True)
class Solution:
    """A worked solution: the methods taken, what was computed, and the answer it ended at."""

    methods: tuple[str, ...]
    computations: tuple[str, ...]
    answer: str

    @property
    def text(self) -> str:
        steps = " ".join(
            f"({letter}) {method}: {computation}"
            for letter, method, computation in zip(LETTERS, self.methods, self.computations, strict=False)
        )
        return f"{steps} \\boxed{{{self.answer}}}"


def work_out(puzzle: Puzzle, policy: Policy) -> Solution | None:
    """Work a puzzle out, the policy choosing the method at each decision; None if no method works out any more."""
    state, methods, computations = puzzle.start, [], []
    while not finished(state):
        if not options(state):
            return None
        method = policy(state)
        step: Step = options(state)[method]
        methods.append(method)
        computations.append(step.computation)
        state = step.state
    return Solution(tuple(methods), tuple(computations), answer(state))


def _until_finished(puzzle: Puzzle, make_policy: Callable[[], Policy]) -> Solution:
    """A wrong path can get stuck (7/3 in integers): then the student starts again."""
    solution = None
    while solution is None:
        solution = work_out(puzzle, make_policy())
    return solution


def teacher_solution(puzzle: Puzzle) -> Solution:
    return _until_finished(puzzle, lambda: right_method)


def instance_strategy(puzzle: Puzzle, methods: Sequence[str]) -> str:
    """The strategy of one instance: problem type, principle, and its methods in order; no computation."""
    return _strategy(puzzle, methods)


def type_strategy(puzzle: Puzzle) -> str:
    """The strategy of the problem type: the rule that decides, with nothing of this instance."""
    return _strategy(puzzle, FAMILIES[puzzle.family].rule)


def _strategy(puzzle: Puzzle, steps: Sequence[str]) -> str:
    family = FAMILIES[puzzle.family]
    return Strategy(family.problem_type, family.principle, tuple(steps)).text


# Students of the pretraining documents


def notebook_policy(puzzle: Puzzle, rng: random.Random, skill: float = NOTEBOOK_SKILL) -> Policy:
    """Right with probability `skill` at each decision, otherwise mostly the typical misconception."""

    def choose(state: State) -> str:
        possible = options(state)
        right = right_method(state)
        if right in possible and (len(possible) == 1 or rng.random() < skill):
            return right
        wrong = [method for method in possible if method != right]
        typical = next((m for m in typical_misconceptions(puzzle, state) if m in wrong), None)
        return typical if typical and rng.random() < TYPICAL else rng.choice(wrong)

    return choose


def follow(methods: Sequence[str], rng: random.Random, otherwise: Policy) -> Policy:
    """Follow a list of methods, but for rare slips and where a method does not work out."""
    upcoming = iter(methods)

    def choose(state: State) -> str:
        method = next(upcoming)
        if method in options(state) and rng.random() < FIDELITY:
            return method
        return otherwise(state)

    return choose


def notebook(puzzle: Puzzle, rng: random.Random) -> tuple[Messages, Messages]:
    solution = _until_finished(puzzle, lambda: notebook_policy(puzzle, rng))
    return student_messages(puzzle.text), response_messages(solution.text)


def worksheet(puzzle: Puzzle, rng: random.Random) -> tuple[Messages, Messages]:
    """Half of the strategies are right, the others whatever a notebook would have done."""
    skilled = notebook_policy(puzzle, rng)
    right = rng.random() < 0.5
    followed = teacher_solution(puzzle) if right else _until_finished(puzzle, lambda: skilled)
    solution = _until_finished(puzzle, lambda: follow(followed.methods, rng, otherwise=skilled))
    methods = followed.methods
    return guided_messages(puzzle.text, instance_strategy(puzzle, methods)), response_messages(solution.text)


def split_of(text: str) -> str:
    """train, dev or test, by a hash of the problem's text: disjoint whatever the seeds (80 / 10 / 10 per cent)."""
    bucket = hashlib.sha256(text.encode()).digest()[0] % 10
    return {0: "test", 1: "dev"}.get(bucket, "train")


def puzzles(seed: str, split: str, families: Sequence[str], depths: Sequence[int]) -> Iterator[Puzzle]:
    """An endless stream of distinct puzzles of one split, the families in turn."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        for name in families:
            puzzle = FAMILIES[name].sample(rng, rng.choice(depths))
            while puzzle.text in seen or split_of(puzzle.text) != split:
                puzzle = FAMILIES[name].sample(rng, rng.choice(depths))
            seen.add(puzzle.text)
            yield puzzle


def pretraining_documents(seed: int) -> Iterator[tuple[Messages, Messages]]:
    """An endless stream of (prompt, response), half notebooks, half worksheets, of puzzles of the training split."""
    rng = random.Random(f"documents {seed}")
    for puzzle in puzzles(f"pretraining {seed}", "train", tuple(FAMILIES), PRETRAINING_DEPTHS):
        yield (notebook if rng.random() < 0.5 else worksheet)(puzzle, rng)
