"""The documents that the base model is pretrained on, in exactly the format of `sgpo.prompts`.

    notebook    the bare problem in the student's dialect; each decision right with the family's skill
    worksheet   a card in front, followed with the family's fidelity, be it right or not
    expert      as a notebook, and
    advised     as a worksheet, in the expert's dialect
    drill       computations alone

So the base model knows every way to work, is unsure which one to take, follows a card without trusting it, and can
write in both dialects. Training begins with the *textbook*, in which there are more cards and drills.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from sgpo.miniworld.cards import Card, card_of
from sgpo.miniworld.families import FAMILIES
from sgpo.miniworld.families.arithmetic import ARITHMETIC, fused, result_in, written
from sgpo.miniworld.families.composed import Composed
from sgpo.miniworld.families.puzzles import Family, Puzzle, State, valid_options
from sgpo.miniworld.solutions import Policy, Solution, expert_dialect, own_dialect, work_out
from sgpo.prompts import Messages, guided_messages, response_messages, student_messages

PRETRAINING_DEPTHS = (2, 3, 3, 4, 4)
FAVOURITE = 0.6  # how often a family's first route is taken
STRAYING = 0.50  # of decisions at which another valid option than the route's is taken, where the route is left open
OPEN = 0.7  # of right cards, those that leave the route open
MISTAKES = (0.55, 0.30, 0.15)  # of wrong decisions, by the family's mistakes in order
CARDS = {"right": 0.55, "mistaken": 0.12, "foreign": 0.33}
LONGEST = {1: 0.4, 2: 0.4, 3: 0.2}  # computations in one, of documents in the expert's dialect
EAGERNESS = 0.5  # with which each of them is fused
FUSED_DRILLS = 0.2
DOCUMENTS_A_PUZZLE = 3
MOST_REPEATED = 100  # puzzles drawn in a row that were there before: then the family has hardly any others
EXPERT_ERRORS = 0.02  # share of the expert's responses in the sets

Document = tuple[Messages, Messages]
MIXTURE: Mapping[str, float] = {"notebook": 0.32, "worksheet": 0.36, "expert": 0.135, "advised": 0.145, "drill": 0.04}
TEXTBOOK: Mapping[str, float] = {"notebook": 0.05, "worksheet": 0.62, "expert": 0.04, "advised": 0.10, "drill": 0.19}


# Deciding


def right_policy(puzzle: Puzzle, rng: random.Random, route: int) -> Policy:
    """Every decision right, along a route wherever it is not blocked."""

    def choose(state: State) -> str:
        family, part = part_at(puzzle, state)
        option, valid = family.routes[route].rule(part), valid_options(state)
        return option if option in valid else rng.choice(valid)

    return choose


def part_at(puzzle: Puzzle, state: State) -> tuple[Family, State]:
    """The family whose rules apply, and the state that they look at; they differ in composed puzzles only."""
    if isinstance(state, Composed):
        return FAMILIES[puzzle.family], state.first
    return FAMILIES[puzzle.then or puzzle.family], state


def notebook_policy(puzzle: Puzzle, rng: random.Random) -> Policy:
    """Right with the family's skill, else a typical mistake; what cannot be right any more goes on by the rules."""
    route = 0 if rng.random() < FAVOURITE else 1

    def choose(state: State) -> str:
        family, part = part_at(puzzle, state)
        if rng.random() < family.skill_in(part):
            return _right(family, part, state, route, rng)
        wrong = [name for name in state.moves() if name not in valid_options(state)]
        (mistake,) = rng.choices(family.mistakes, MISTAKES[: len(family.mistakes)])
        option = mistake.rule(part)
        if option in wrong:
            return option
        return rng.choice(wrong) if wrong else _right(family, part, state, route, rng)

    return choose


def _right(family: Family, part: State, state: State, route: int, rng: random.Random) -> str:
    option, valid = family.routes[route].rule(part), valid_options(state)
    if option in valid and rng.random() >= STRAYING:
        return option
    if valid:
        return rng.choice(valid)
    return option if option in state.moves() else rng.choice(list(state.moves()))


def worksheet_policy(puzzle: Puzzle, card: Card, rng: random.Random) -> Policy:
    """As the card says, with the family's fidelity; a card of another family is ignored."""
    family, otherwise = FAMILIES[puzzle.family], notebook_policy(puzzle, rng)
    if card.family != family.name:
        return otherwise
    way, is_open = rng.choice(card.ways), len(card.ways) > 1
    is_right = way in family.routes

    def choose(state: State) -> str:
        if rng.random() >= family.fidelity:
            return otherwise(state)
        option, valid = way.rule(state), valid_options(state)
        if is_right and valid and (option not in valid or (is_open and rng.random() < STRAYING)):
            return rng.choice(valid)
        return option if option in state.moves() else otherwise(state)

    return choose


def worked_out(puzzle: Puzzle, make_policy: Callable[[], Policy]) -> Solution:
    """A wrong path can get stuck (7/3 in integers): then one starts again."""
    solution = None
    while solution is None:
        solution = work_out(puzzle.start, make_policy())
    return solution


def right_solution(puzzle: Puzzle, rng: random.Random) -> Solution:
    """A solution without a mistake, along any route."""
    return worked_out(puzzle, lambda: right_policy(puzzle, rng, rng.randrange(2)))


def notebook_solution(puzzle: Puzzle, rng: random.Random) -> Solution:
    """A solution with the typical mistakes, carried through to its end; right where they come to nothing."""
    return worked_out(puzzle, lambda: notebook_policy(puzzle, rng))


def expert_solution(puzzle: Puzzle, rng: random.Random, errors: float = EXPERT_ERRORS) -> Solution:
    """The expert's work: right but for a share of `errors`, which are worked out as in a notebook."""
    solve = notebook_solution if rng.random() < errors else right_solution
    return solve(puzzle, rng)


# Writing


def notebook(puzzle: Puzzle, rng: random.Random) -> Document:
    return student_messages(puzzle.text), response_messages(own_dialect(notebook_solution(puzzle, rng), rng))


def expert_notebook(puzzle: Puzzle, rng: random.Random) -> Document:
    solution = notebook_solution(puzzle, rng)
    return student_messages(puzzle.text), response_messages(_in_expert_dialect(puzzle, solution, rng))


def worksheet(puzzle: Puzzle, rng: random.Random) -> Document:
    card, solution = _advised_solution(puzzle, rng)
    return guided_messages(puzzle.text, card.text), response_messages(own_dialect(solution, rng))


def advised(puzzle: Puzzle, rng: random.Random) -> Document:
    card, solution = _advised_solution(puzzle, rng)
    return guided_messages(puzzle.text, card.text), response_messages(_in_expert_dialect(puzzle, solution, rng))


def _advised_solution(puzzle: Puzzle, rng: random.Random) -> tuple[Card, Solution]:
    family = FAMILIES[puzzle.family]
    (kind,) = rng.choices(tuple(CARDS), tuple(CARDS.values()))
    card = card_of(kind, family, rng, OPEN)
    return card, worked_out(puzzle, lambda: worksheet_policy(puzzle, card, rng))


def _in_expert_dialect(puzzle: Puzzle, solution: Solution, rng: random.Random) -> str:
    (longest,) = rng.choices(tuple(LONGEST), tuple(LONGEST.values()))
    return expert_dialect(puzzle.text, solution, rng, longest, EAGERNESS)


def drill(rng: random.Random) -> Document:
    """Eight computations, a fifth of them fused."""
    equalities = [_equality(rng) for _ in range(8)]
    terms = ", ".join(equality.partition("=")[0] for equality in equalities)
    return student_messages(f"Drill: {terms}"), response_messages(" ".join(equalities))


def _equality(rng: random.Random) -> str:
    while True:
        first = _computation(rng, rng.randint(1, 99) if rng.random() < 0.8 else rng.randint(-60, 0))
        if rng.random() >= FUSED_DRILLS:
            return first
        second = _computation(rng, result_in(first))
        if equality := fused(first, second):
            return equality


def _computation(rng: random.Random, value: int) -> str:
    while True:
        method = rng.choice(tuple(ARITHMETIC))
        operand = rng.randint(2, 12) if method in ("multiply", "divide") else rng.randint(1, 60)
        if method == "divide":
            operand = rng.choice([n for n in range(1, 13) if value % n == 0])
        if computation := written(method, value, operand):
            return computation


WRITERS: Mapping[str, Callable[[Puzzle, random.Random], Document]] = {
    "notebook": notebook,
    "worksheet": worksheet,
    "expert": expert_notebook,
    "advised": advised,
    "drill": lambda puzzle, rng: drill(rng),
}


def split_of(text: str) -> str:
    """train, dev or test, by a hash of the problem's text: disjoint whatever the seeds (80 / 10 / 10 per cent)."""
    bucket = hashlib.sha256(text.encode()).digest()[0] % 10
    return {0: "test", 1: "dev"}.get(bucket, "train")


def puzzles(seed: str, split: str, families: Sequence[str], depths: Sequence[int]) -> Iterator[Puzzle]:
    """An endless stream of puzzles of one split, the families in turn; none again before a family's are used up."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        for name in families:
            repeated = 0
            puzzle = FAMILIES[name].sample(rng, rng.choice(depths))
            while split_of(puzzle.text) != split or (puzzle.text in seen and repeated < MOST_REPEATED):
                repeated += puzzle.text in seen
                puzzle = FAMILIES[name].sample(rng, rng.choice(depths))
            seen.add(puzzle.text)
            yield puzzle


def pretraining_documents(seed: int, textbook_documents: int = 0) -> Iterator[Document]:
    """An endless stream of (prompt, response): so many from the textbook, then of the mixture; of training puzzles."""
    rng, written_so_far = random.Random(f"documents {seed}"), 0
    for puzzle in puzzles(f"pretraining {seed}", "train", tuple(FAMILIES), PRETRAINING_DEPTHS):
        for _ in range(DOCUMENTS_A_PUZZLE):
            mixture = TEXTBOOK if written_so_far < textbook_documents else MIXTURE
            (kind,) = rng.choices(tuple(mixture), tuple(mixture.values()))
            yield WRITERS[kind](puzzle, rng)
            written_so_far += 1
