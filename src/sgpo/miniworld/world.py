"""Writing the mini-world as a user's own data would lie there: `sgpo miniworld create`.

    base/                 the shipped base model, in the Hugging Face format
    sft.jsonl             problems with an expert's response, for the warm-up
    rl.jsonl  dev.jsonl   problems with a strategy (a card) and four responses of the expert
    test.jsonl            held-out problems like them
    test_deeper.jsonl     6 operations; no document of pretraining has more than 4
    test_wording.jsonl    cards in wordings that stand nowhere else
    test_blocked.jsonl    the family's favourite route leaves the integers from -99 to 99
    test_composed.jsonl   two families in a row, with the cards of both
    test_unseen.jsonl     families without SFT or RL problems

Held-out problems are told apart by a hash of their text (`documents.split_of`), so no seed can mix them with training
or pretraining problems. Every row has the columns family, depth, card (right; of a tenth mistaken or foreign) and
foreign_strategy, a card of another family, which is a control.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path

from sgpo.miniworld.cards import Card, card, card_of, foreign_card, right_card
from sgpo.miniworld.documents import OPEN, expert_solution, puzzles, split_of
from sgpo.miniworld.families import FAMILIES, TRAINED_FAMILIES, UNSEEN_FAMILIES
from sgpo.miniworld.families.composed import sample_composed
from sgpo.miniworld.families.puzzles import Puzzle, Rule, is_blocked
from sgpo.miniworld.solutions import expert_dialect
from sgpo.problems import Problem, save_problems
from sgpo.strategies.record import Strategy

VERSION = 2
BASES = Path(__file__).parent / "bases"  # base models of the package, by strength and seed of the pretraining
SHIPPED_SEED = 101  # of the base model that is taken where none is named
BASE_MODEL = BASES / f"base-{SHIPPED_SEED}"
DEPTHS, DEEPER_DEPTHS, COMPOSED_DEPTHS = (2, 3, 4), (6,), ((2, 2), (2, 3), (3, 2))
DEEPER_FAMILIES = tuple(name for name in TRAINED_FAMILIES if name != "systems")  # two equations have four decisions
BLOCKED_FAMILIES = ("equation", "story", "powers", "units")
MISLEADING = {"mistaken": 0.05, "foreign": 0.05}  # share of the cards
RESPONSES = 4  # of the expert to a problem
EVALUATION_SPLITS = ("dev", "test", "test_deeper", "test_wording", "test_blocked", "test_composed", "test_unseen")


@dataclass(frozen=True)
class Strength:
    """Width and depth of a base model."""

    hidden: int
    layers: int


STRENGTHS = {"base": Strength(128, 4), "large": Strength(192, 5)}


@dataclass(frozen=True)
class Sizes:
    """How many problems each set has."""

    sft: int = 400
    rl: int = 800
    dev: int = 240
    test: int = 600
    test_deeper: int = 300
    test_wording: int = 300
    test_blocked: int = 300
    test_composed: int = 300
    test_unseen: int = 300

    @classmethod
    def only(cls, **sizes: int) -> Sizes:
        """These sets, and no others. Example: ``Sizes.only(rl=30)``"""
        return cls(**{field.name: sizes.get(field.name, 0) for field in fields(cls)})


def create_world(output_dir: str | Path, *, seed: int = 0, sizes: Sizes | None = None, base: Path = BASE_MODEL) -> Path:
    """Write the base model and the problem sets; returns the folder. The same seed gives the same problems."""
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    shutil.copytree(base, output / "base", dirs_exist_ok=True)
    for name, problems in problem_sets(seed, sizes or Sizes()).items():
        save_problems(problems, output / f"{name}.jsonl")
    return output


def problem_sets(seed: int, sizes: Sizes) -> dict[str, list[Problem]]:
    """The sets of the module's docstring. SFT and RL problems are disjoint: they come from one stream."""
    training = list(islice(_stream("train", seed), sizes.sft + sizes.rl))
    deeper = _stream("test", seed, DEEPER_FAMILIES, DEEPER_DEPTHS)
    blocked = (p for p in _stream("test", seed, BLOCKED_FAMILIES) if is_blocked(p.start, _favourite(p)))
    sets = {
        "sft": _problems("sft", seed, training[: sizes.sft], responses=1),
        "rl": _problems("rl", seed, training[sizes.sft :]),
        "dev": _problems("dev", seed, islice(_stream("dev", seed), sizes.dev)),
        "test": _problems("test", seed, islice(_stream("test", seed), sizes.test)),
        "test_deeper": _problems("test_deeper", seed, islice(deeper, sizes.test_deeper)),
        "test_wording": _problems(
            "test_wording", seed, islice(_stream("test", seed), sizes.test_wording), held_out=True
        ),
        "test_blocked": _problems("test_blocked", seed, islice(blocked, sizes.test_blocked)),
        "test_composed": _composed_problems(seed, sizes.test_composed),
        "test_unseen": _problems(
            "test_unseen", seed, islice(_stream("test", seed, UNSEEN_FAMILIES), sizes.test_unseen)
        ),
    }
    return {name: list(problems) for name, problems in sets.items()}


def evaluation_sets() -> dict[str, Callable[[], list[Problem]]]:
    """The sets of seed 0 that `sgpo eval --benchmarks` knows by name, such as ``miniworld/test``."""
    return {f"miniworld/{split}": partial(_evaluation_set, split) for split in EVALUATION_SPLITS}


def _evaluation_set(split: str) -> list[Problem]:
    return problem_sets(0, Sizes.only(**{split: getattr(Sizes(), split)}))[split]


def _stream(
    split: str, seed: int, families: Sequence[str] = TRAINED_FAMILIES, depths: Sequence[int] = DEPTHS
) -> Iterator[Puzzle]:
    return puzzles(f"{split} {seed} {families} {depths}", split, families, depths)


def _favourite(puzzle: Puzzle) -> Rule:
    return FAMILIES[puzzle.family].routes[0].rule


def _problems(
    name: str, seed: int, some: Iterator[Puzzle] | list[Puzzle], responses: int = RESPONSES, held_out: bool = False
) -> Iterator[Problem]:
    for number, puzzle in enumerate(some):
        identifier = f"{name}-{seed}-{number}"
        rng = random.Random(identifier)
        if held_out:
            kind, chosen = "right", right_card(FAMILIES[puzzle.family], rng, OPEN, held_out=True)
        else:
            kind, chosen = _card(puzzle, rng)
        yield _problem(identifier, puzzle, puzzle.family, chosen.strategy, kind, rng, responses)


def _composed_problems(seed: int, count: int) -> Iterator[Problem]:
    rng, seen = random.Random(f"test {seed} composed"), set[str]()
    while len(seen) < count:
        puzzle = sample_composed(rng, rng.choice(COMPOSED_DEPTHS))
        names = puzzle.family, puzzle.then
        if puzzle.text in seen or split_of(puzzle.text) != "test":
            continue
        identifier = f"test_composed-{seed}-{len(seen)}"
        seen.add(puzzle.text)
        first, second = (card(FAMILIES[name], FAMILIES[name].routes[:1], rng).strategy for name in names)
        both = Strategy(
            f"{first.problem_type}, {second.problem_type}",
            f"{first.strategy}, then {second.strategy}",
            first.steps + second.steps,
        )
        yield _problem(identifier, puzzle, "-".join(names), both, "right", random.Random(identifier), RESPONSES)


def _card(puzzle: Puzzle, rng: random.Random) -> tuple[str, Card]:
    share = rng.random()
    kind = "mistaken" if share < MISLEADING["mistaken"] else "foreign" if share < sum(MISLEADING.values()) else "right"
    return kind, card_of(kind, FAMILIES[puzzle.family], rng, OPEN)


def _problem(
    identifier: str, puzzle: Puzzle, family: str, strategy: Strategy, kind: str, rng: random.Random, responses: int
) -> Problem:
    solutions = [expert_solution(puzzle, rng) for _ in range(responses)]
    texts = [expert_dialect(puzzle.text, solution, rng) for solution in solutions]
    return Problem(
        id=identifier,
        prompt=puzzle.text,
        answer=str(puzzle.start.truth()),
        response=texts[0],
        more_responses=tuple(texts[1:]),
        strategy=strategy.text,
        extra={
            "family": family,
            "depth": len(solutions[0].steps),
            "card": kind,
            "foreign_strategy": foreign_card(FAMILIES[puzzle.family], rng, OPEN).text,
        },
    )
