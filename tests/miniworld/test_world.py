"""The mini-world: its sets, and what it writes."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from pathlib import Path

from family_checks import CHECKS
from transformers import AutoTokenizer

from sgpo import verify
from sgpo.miniworld.documents import (
    pretraining_documents,
    puzzles,
    split_of,
)
from sgpo.miniworld.families import (
    FAMILIES,
    TRAINED_FAMILIES,
    UNSEEN_FAMILY,
)
from sgpo.miniworld.world import Sizes, create_world, problem_sets

SIZES = Sizes(sft=36, rl=36, dev=36, test=36, test_deeper=18, test_unseen=18)


def test_sets_are_disjoint_whatever_the_seeds() -> None:
    worlds = [problem_sets(seed, SIZES) for seed in (0, 1, 2)]

    def texts(*names: str) -> set[str]:
        return {problem.prompt for world in worlds for name in names for problem in world[name]}

    training = texts("sft", "rl")
    dev, test = texts("dev"), texts("test", "test_deeper", "test_unseen")
    pretrained = {puzzle.text for puzzle in islice(puzzles("pretraining 0", "train", tuple(FAMILIES), (2, 3, 4)), 1000)}
    held_out = dev | test
    assert not dev & test
    assert not (training | pretrained) & held_out
    assert {split_of(text) for text in training} == {"train"}
    assert {split_of(text) for text in dev} == {"dev"}
    assert {split_of(text) for text in test} == {"test"}
    for world in worlds:
        of_sets = {name: [problem.prompt for problem in problems] for name, problems in world.items()}
        for name, prompts in of_sets.items():
            assert len(set(prompts)) == len(prompts) == getattr(SIZES, name)
        assert not set(of_sets["sft"]) & set(of_sets["rl"])
        assert not set(of_sets["test"]) & set(of_sets["test_deeper"])
    assert len({tuple(p.prompt for p in world["rl"]) for world in worlds}) == 3
    assert problem_sets(1, SIZES) == worlds[1]


def test_pretraining_documents_are_of_the_training_split() -> None:
    for prompt, _ in islice(pretraining_documents(3), 300):
        text = prompt[-1]["content"].split("Problem:\n")[-1]
        assert split_of(text) == "train"


def test_shares_of_the_splits() -> None:
    buckets = [split_of(f"Compute {number}") for number in range(4000)]
    assert abs(buckets.count("test") / 4000 - 0.1) < 0.02
    assert abs(buckets.count("dev") / 4000 - 0.1) < 0.02


def test_columns_of_the_problems() -> None:
    world = problem_sets(0, SIZES)
    for name, families, depths in (
        ("sft", set(TRAINED_FAMILIES), {3, 4, 5}),
        ("rl", set(TRAINED_FAMILIES), {3, 4, 5}),
        ("dev", set(TRAINED_FAMILIES), {3, 4, 5}),
        ("test", set(TRAINED_FAMILIES), {3, 4, 5}),
        ("test_deeper", set(TRAINED_FAMILIES), {6}),
        ("test_unseen", {UNSEEN_FAMILY}, {3, 4, 5}),
    ):
        problems = world[name]
        assert {p.extra["family"] for p in problems} == families
        assert {p.extra["depth"] for p in problems} == depths
        assert sorted(p.extra["shuffled_strategy"] for p in problems) == sorted(p.strategy for p in problems)
        assert sum(p.extra["shuffled_strategy"] != p.strategy for p in problems) > len(problems) / 2
        assert len({p.id for p in problems}) == len(problems)
        for problem in problems:
            assert CHECKS[problem.extra["family"]](problem.prompt, Fraction(problem.answer))
            assert verify(problem.response or "", problem.answer).correct


def test_world_on_disk(tmp_path: Path, checkpoint: Path) -> None:
    from sgpo import load_problems

    folder = create_world(tmp_path / "world", seed=4, sizes=SIZES, base=checkpoint)
    assert folder == tmp_path / "world"
    for name, problems in problem_sets(4, SIZES).items():
        assert load_problems(folder / f"{name}.jsonl") == problems
    assert (folder / "base" / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    AutoTokenizer.from_pretrained(folder / "base")
