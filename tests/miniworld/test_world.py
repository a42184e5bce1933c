"""The mini-world: its sets, and what it writes."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import pytest
from family_checks import CHECKS, composed_holds
from places import ROOT
from transformers import AutoTokenizer

from sgpo.miniworld.cards import is_held_out, ways_of
from sgpo.miniworld.documents import MIXTURE, PRETRAINING_DEPTHS, pretraining_documents, split_of
from sgpo.miniworld.families import FAMILIES, TRAINED_FAMILIES, UNSEEN_FAMILIES
from sgpo.miniworld.families.puzzles import is_blocked, works_out
from sgpo.miniworld.solutions import is_expert_dialect
from sgpo.miniworld.world import (
    BLOCKED_FAMILIES,
    DEEPER_FAMILIES,
    EVALUATION_SPLITS,
    MISLEADING,
    RESPONSES,
    Sizes,
    create_world,
    problem_sets,
)
from sgpo.problems import Problem, load_problems
from sgpo.strategies.record import parse_strategy
from sgpo.verification import verify

SIZES = Sizes(24, 96, 24, 40, 14, 40, 8, 4, 20)


@pytest.fixture(scope="module")
def world() -> dict[str, list[Problem]]:
    return problem_sets(0, SIZES)


def texts(world: dict[str, list[Problem]], *names: str) -> set[str]:
    return {problem.prompt for name in names for problem in world[name]}


def every_problem(world: dict[str, list[Problem]]) -> list[Problem]:
    return [problem for problems in world.values() for problem in problems]


def test_sets_are_disjoint_whatever_the_seeds(world: dict[str, list[Problem]]) -> None:
    small = replace(
        SIZES,
        sft=12,
        rl=12,
        dev=8,
        test=16,
        test_deeper=2,
        test_wording=8,
        test_blocked=1,
        test_composed=1,
        test_unseen=6,
    )
    worlds = [world, *(problem_sets(seed, small) for seed in (1, 2))]
    tests = EVALUATION_SPLITS[1:]
    assert {split_of(text) for one in worlds for text in texts(one, "sft", "rl")} == {"train"}
    assert {split_of(text) for one in worlds for text in texts(one, "dev")} == {"dev"}
    assert {split_of(text) for one in worlds for text in texts(one, *tests)} == {"test"}
    for one, sizes in zip(worlds, (SIZES, small, small), strict=True):
        for name, problems in one.items():
            assert len(texts(one, name)) == len({p.id for p in problems}) == len(problems) == getattr(sizes, name)
        assert not texts(one, "sft") & texts(one, "rl")
    assert len({tuple(p.prompt for p in one["rl"][:12]) for one in worlds}) == 3
    assert problem_sets(1, small) == worlds[1]


def test_only_some_sets() -> None:
    found = problem_sets(3, Sizes.only(rl=5))
    assert {name: len(problems) for name, problems in found.items() if problems} == {"rl": 5}
    assert found["rl"] == problem_sets(3, Sizes.only(rl=8))["rl"][:5]


def test_pretraining_documents_are_of_the_training_split() -> None:
    prompts = [prompt[-1]["content"] for prompt, _ in islice(pretraining_documents(3), 600)]
    problems = [text.split("Problem:\n")[-1] for text in prompts if not text.startswith("Drill")]
    assert {split_of(text) for text in problems} == {"train"}


def test_shares_of_the_splits() -> None:
    buckets = [split_of(f"Compute {number}") for number in range(4000)]
    assert abs(buckets.count("test") / 4000 - 0.1) < 0.02
    assert abs(buckets.count("dev") / 4000 - 0.1) < 0.02


def test_families_and_decisions_of_the_sets(world: dict[str, list[Problem]]) -> None:
    for name, families in (
        *((name, TRAINED_FAMILIES) for name in ("sft", "rl", "dev", "test", "test_wording")),
        ("test_deeper", DEEPER_FAMILIES),
        ("test_blocked", BLOCKED_FAMILIES),
        ("test_unseen", UNSEEN_FAMILIES),
    ):
        found = Counter(problem.extra["family"] for problem in world[name])
        assert set(found) <= set(families), name
        if name != "test_blocked":  # drawn in turn; some families are blocked more often
            assert set(found) == set(families)
            assert max(found.values()) - min(found.values()) <= 1
    assert {tuple(sorted(p.extra["family"].split("-"))) for p in world["test_composed"]} <= {
        tuple(sorted((first, second))) for first in ("equation", "story") for second in ("powers", "series")
    }
    for problem in every_problem(world):
        family = problem.extra["family"]
        check = composed_holds if "-" in family else CHECKS[family]
        assert check(problem.prompt, int(problem.answer)), problem
        assert not check(problem.prompt, int(problem.answer) + 1), problem


def test_deeper_problems_have_more_decisions_than_pretraining(world: dict[str, list[Problem]]) -> None:
    """Made with 6 operations, where pretraining has at most 4; expanding may add a decision."""
    assert max(PRETRAINING_DEPTHS) == 4
    operations = {"order": r"+-*/", "percent": "%", "series": ","}
    for problem in world["test_deeper"]:
        signs = operations.get(problem.extra["family"])
        if signs == ",":
            assert problem.prompt.count(",") + 1 == 6
        elif signs:
            assert sum(problem.prompt.count(sign) for sign in signs) == 6
    depths = {name: [p.extra["depth"] for p in world[name]] for name in ("test", "test_deeper", "test_composed")}
    assert max(depths["test"]) <= 5
    assert sum(depth <= 4 for depth in depths["test"]) / len(depths["test"]) > 0.9
    assert min(depths["test_deeper"]) >= 5


def test_the_favourite_route_is_blocked(world: dict[str, list[Problem]]) -> None:
    for problem in world["test_blocked"]:
        family = FAMILIES[problem.extra["family"]]
        start = family.read(problem.prompt)
        assert start is not None
        assert is_blocked(start, family.routes[0].rule)
    others = [family for family in FAMILIES.values() if family.name in BLOCKED_FAMILIES]
    open_ones = [
        not is_blocked(start, family.routes[0].rule)
        for p in world["rl"]
        for family in others
        if family.name == p.extra["family"] and (start := family.read(p.prompt))
    ]
    assert sum(open_ones) > len(open_ones) / 2


def test_cards_are_what_their_column_says(world: dict[str, list[Problem]]) -> None:
    kinds = Counter[str]()
    for name, problems in world.items():
        for problem in problems:
            strategy, kind = parse_strategy(str(problem.strategy)), problem.extra["card"]
            assert strategy.text == problem.strategy
            family = FAMILIES[problem.extra["family"].split("-")[0]]
            if name != "test_composed":
                ways = ways_of(family, strategy)
                expected = {"right": family.routes, "mistaken": family.mistakes, "foreign": ()}[kind]
                assert set(ways) <= set(expected)
                assert bool(ways) == (kind != "foreign")
                if kind == "foreign":
                    assert any(ways_of(other, strategy) for other in FAMILIES.values() if other is not family)
            foreign = parse_strategy(str(problem.extra["foreign_strategy"]))
            assert not ways_of(family, foreign)
            assert any(ways_of(other, foreign) for other in FAMILIES.values())
            if name not in ("test_wording", "test_composed"):
                kinds[kind] += 1
    for kind, share in MISLEADING.items():
        error = math.sqrt(share * (1 - share) / kinds.total())
        assert abs(kinds[kind] / kinds.total() - share) < 4 * error


def test_held_out_wordings_are_nowhere_else(world: dict[str, list[Problem]]) -> None:
    held_out = {problem.strategy for problem in world["test_wording"]}
    assert all(is_held_out(parse_strategy(str(text))) for text in held_out)
    assert {problem.extra["card"] for problem in world["test_wording"]} == {"right"}
    elsewhere = [p for name in world if name not in ("test_wording", "test_composed") for p in world[name]]
    assert not any(is_held_out(parse_strategy(str(problem.strategy))) for problem in elsewhere)
    prompts = [prompt[-1]["content"] for prompt, _ in islice(pretraining_documents(4, 500), 1500)]
    advised = [text.partition("\n\nProblem:\n")[0].partition("Problem type:")[2] for text in prompts]
    read = [parse_strategy(f"Problem type:{text}") for text in advised if text]
    assert len(read) > 600
    assert not any(is_held_out(strategy) for strategy in read)


def test_composed_problems_have_the_cards_of_both(world: dict[str, list[Problem]]) -> None:
    for problem in world["test_composed"]:
        strategy = parse_strategy(str(problem.strategy))
        families = [FAMILIES[name] for name in problem.extra["family"].split("-")]
        assert strategy.problem_type == ", ".join(family.problem_type for family in families)
        assert len(strategy.steps) == sum(len(family.routes[0].steps) for family in families)


def test_responses_of_the_expert(world: dict[str, list[Problem]]) -> None:
    right = total = 0
    for name, problems in world.items():
        for problem in problems:
            assert len(problem.responses) == (1 if name == "sft" else RESPONSES)
            assert all(is_expert_dialect(text) for text in problem.responses)
            total += len(problem.responses)
            right += sum(verify(text, problem.answer).correct for text in problem.responses)
    assert 1 - 0.02 - 4 * math.sqrt(0.02 * 0.98 / total) < right / total < 1.0  # 2 % are worked out as in a notebook


def test_world_on_disk(tmp_path: Path, checkpoint: Path) -> None:
    sizes = Sizes.only(sft=8, rl=8, test=8, test_wording=4)
    folder = create_world(tmp_path / "world", seed=4, sizes=sizes, base=checkpoint)
    assert folder == tmp_path / "world"
    for name, problems in problem_sets(4, sizes).items():
        if problems:
            assert load_problems(folder / f"{name}.jsonl") == problems
    assert (folder / "base" / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    AutoTokenizer.from_pretrained(folder / "base")


def test_the_page_tells_the_shares_and_sizes() -> None:
    page = (ROOT / "docs" / "miniworld.md").read_text(encoding="utf-8")
    for kind, share in MIXTURE.items():
        assert f"| {kind} | {100 * share:g} % |" in page
    for each in fields(Sizes):
        assert f"| `{each.name}` | {each.default} |" in page
    for family in FAMILIES:
        assert re.search(rf"^\| {family}( \(unseen\))? \| `", page, re.M)
    examples = re.findall(r"^\| (\w+)(?: \(unseen\))? \| `([^`]+)`", page, re.M)
    assert all(works_out(state) for name, text in examples if (state := FAMILIES[name].read(text)))
    assert [name for name, text in examples if FAMILIES[name].read(text) is None] == []
