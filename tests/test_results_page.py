"""The pages of results say what the data in docs/data/ say, and nothing that was withdrawn."""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from statistics import fmean

import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import miniworld_claims
import miniworld_sensitivity
import miniworld_tables
import tuning

from sgpo.comparison.results import CellResult, read_results
from sgpo.comparison.summary import MethodSummary, summarise
from sgpo.comparison.table import mean_and_spread, points
from sgpo.configuration import RECIPES, read_config

PRESENT = (ROOT / "docs" / "results-miniworld.md").read_text(encoding="utf-8")
CLAIMS = (ROOT / "docs" / "results-miniworld-claims.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "results-miniworld-1.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETS = ("test", "test_deeper", "test_unseen")
METHODS = {
    "sft": "SFT (the warm-up)",
    "sft-all": "SFT on all responses, 4 epochs",
    "grpo": "GRPO, 12 samples",
    "luffy": "LUFFY, 11 samples and the expert",
    "hpt": "HPT, 12 samples",
    "sgpo": "SGPO, 8 + 4 samples, δ = 3",
}
IN_README = {
    "sft": "SFT, the warm-up",
    "sft-all": "SFT on all of the expert's responses",
    "grpo": "GRPO",
    "luffy": "LUFFY",
    "hpt": "HPT",
    "sgpo": "SGPO",
}
VARIANTS = {
    "sgpo": "SGPO",
    "grpo": "w/o distillation: GRPO with 12 samples",
    "grpo-8": "w/o distillation: GRPO with 8 samples",
    "sgpo-no-autonomous": "w/o autonomous GRPO",
    "sgpo-no-constraints": "w/o proximal constraints",
    "sgpo-no-clipping": "w/o clipping, δ = ∞",
    "sgpo-no-selection": "w/o target selection",
    "sgpo-alpha-1": "w/o adaptive weight, α = 1",
    "sgpo-alpha-mean": "α = 0.61, the mean of SGPO",
    "sgpo-group-advantage": "α by group advantage",
    "sgpo-reverse": "reverse KL",
    "sgpo-likelihood": "direct SFT on the target",
    "sgpo-delta-1": "the paper's δ = 1",
    "sgpo-shuffled": "another problem's strategies",
}


@cache
def rows() -> list[CellResult]:
    return read_results(ROOT / "docs" / "data" / "miniworld-v1-methods.jsonl")


def row(name: str, line: MethodSummary, *rest: str) -> str:
    """The beginning of a row, up to the interval of the difference."""
    start = f"| {name} | {' | '.join([*rest, mean_and_spread(line)])} |"
    return start if line.difference is None else f"{start} {points(line.difference.mean)} ["


def by_method(found: list[CellResult], baseline: str, names: dict[str, str]) -> dict[str, list[MethodSummary]]:
    """Of each method its line in each set."""
    sets = summarise(found, baseline, list(names))[: len(SETS)]
    assert tuple(each.name for each in sets) == SETS
    return {name: [line for each in sets for line in each.lines if line.method == name] for name in names}


def test_the_tables_of_the_present_version() -> None:
    found = read_results(ROOT / "docs" / "data" / "miniworld-v2-methods.jsonl")
    methods = ["sft", "sft-all", "grpo", "grpo-8", "luffy", "hpt", "sgpo"]
    assert "\n".join(miniworld_tables.scores_table(found, "grpo", methods)) in PRESENT
    assert "\n".join(miniworld_tables.bases_table(found, "grpo", methods)) in PRESENT
    of_one_rate = ["grpo", "grpo-8", "sgpo-4e-4", "sgpo-after-failure-4e-4"]
    assert "\n".join(miniworld_tables.scores_table(found, "grpo", of_one_rate)) in PRESENT
    for rate, grpo, sgpo in (("4e-4", "grpo", "sgpo-4e-4"), ("2e-4", "grpo-2e-4", "sgpo")):
        for each in summarise(found, grpo, [grpo, sgpo]):
            if each.name in ("test", "test_blocked", "test_unseen"):
                base, other = each.lines
                pair = f"{100 * base.mean:.1f} | {100 * other.mean:.1f} | {miniworld_tables.difference(other)[0]}"
                assert f"| {rate} | {each.name.removeprefix('test_')} | {pair} |" in PRESENT
    sets = {each.name: each.lines for each in summarise(found, "grpo", list(IN_README))}
    for test, blocked, unseen in zip(sets["test"], sets["test_blocked"], sets["test_unseen"], strict=True):
        start = row(IN_README[test.method], test)
        (line,) = [line for line in README.splitlines() if line.startswith(start)]
        assert line.endswith(f"| {100 * blocked.mean:.1f} | {100 * unseen.mean:.1f} |")


def test_the_tables_of_claims_and_variants() -> None:
    found = read_results(ROOT / "docs" / "data" / "miniworld-v2-methods.jsonl")
    measured = [line for line in miniworld_claims.table(found, miniworld_claims.CLAIMS) if "not measured" not in line]
    assert len(measured) > 15
    assert "\n".join(measured) in CLAIMS
    cells = [row for row in found if row["base"] == "base-101" and row["seed"] in (1, 2, 3, 4, 5)]
    variants = [
        "sgpo",
        "sgpo-no-autonomous",
        "sgpo-no-autonomous-foreign",
        "sgpo-no-constraints",
        "sgpo-no-selection",
        "sgpo-no-clipping",
        "sgpo-delta-3",
        "sgpo-after-failure",
        "sgpo-alpha-1",
        "sgpo-alpha-0.61",
        "sgpo-alpha-mean",
        "sgpo-group-advantage",
        "sgpo-reverse",
        "sgpo-likelihood",
        "sgpo-foreign",
    ]
    assert "\n".join(miniworld_tables.scores_table(cells, "sgpo", variants)) in CLAIMS


def test_the_constant_weight_is_the_mean_of_the_adaptive_one() -> None:
    """Over the problems with a target, in the cells of `sgpo`."""
    found = read_results(ROOT / "docs" / "data" / "miniworld-v2-methods.jsonl")
    means = []
    for cell in (row for row in found if row["method"] == "sgpo"):
        alphas, shares = ([v for v in cell["curves"][name] if v is not None] for name in ("alpha", "target_share"))
        means.append(fmean(alphas) / fmean(shares))
    recipe = read_config(RECIPES / "miniworld" / "sgpo-alpha-mean.yaml")
    assert recipe["alpha_rule"] == "fixed"
    assert recipe["alpha_fixed"] == pytest.approx(fmean(means), abs=0.005)


def test_the_table_of_related_methods_with_three_seeds() -> None:
    beside = read_results(ROOT / "docs" / "data" / "miniworld-v2-methods.jsonl")
    own = read_results(ROOT / "docs" / "data" / "miniworld-v2-related.jsonl")
    cells = [row for row in [*beside, *own] if row["base"] == "base-101" and row["seed"] in (1, 2, 3)]
    methods = ["grpo", "grpo-8", "hpt", "luffy", "sgpo", "ampo", "scaf-grpo"]
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert "\n".join(miniworld_tables.scores_table(cells, "grpo", methods)) in page


def test_the_table_of_the_larger_base_model() -> None:
    found = read_results(ROOT / "docs" / "data" / "miniworld-v2-large.jsonl")
    methods = [name for name in ("sft", "grpo", "sgpo", "sgpo-4e-4") if name in {row["method"] for row in found}]
    assert "\n".join(miniworld_tables.scores_table(found, "grpo", methods)) in CLAIMS
    others = read_results(ROOT / "docs" / "data" / "miniworld-v2-methods.jsonl")
    assert "\n".join(miniworld_claims.gains([*others, *found])) in CLAIMS


def test_the_tables_of_the_tuning_and_of_what_was_explored() -> None:
    page = (ROOT / "docs" / "results-miniworld-tuning.md").read_text(encoding="utf-8")
    assert "\n".join(tuning.table(read_results(ROOT / "docs" / "data" / "miniworld-v2-tuning.jsonl"))) in page
    explored = read_results(ROOT / "docs" / "data" / "miniworld-v2-explored.jsonl")
    assert "\n".join(tuning.explored_table(explored)) in page
    tested = read_results(ROOT / "docs" / "data" / "miniworld-v2-explored-test.jsonl")
    headline = read_results(ROOT / "docs" / "data" / "miniworld-v2-methods.jsonl")
    cells = [*tested, *(row for row in headline if row["base"] == "base-102")]
    for method, changed in (("sgpo", "updates-4"), ("grpo", "grpo-updates-4")):
        own, other = (line.mean for line in summarise(cells, method, [method, changed])[0].lines)
        assert f"| `{method}` | {100 * own:.1f} | {100 * other:.1f} |" in page


def test_the_tables_of_hard_problems() -> None:
    found = read_results(ROOT / "docs" / "data" / "miniworld-v2-hard.jsonl")
    methods = list(dict.fromkeys(row["method"] for row in found))
    few = [name for name in methods if "-rate-4e-4" in name]
    assert sorted(few)[0] == "grpo-4-rate-4e-4"
    others = [name for name in methods if "-rate-" not in name]
    for baseline, names in (("grpo", others), ("grpo-4-rate-4e-4", few)):
        table = list(miniworld_tables.scores_table(found, baseline, names))
        assert len(table) == len(names) + 2
        assert [line for line in table if line not in CLAIMS] == []


def test_the_table_of_sft_for_longer() -> None:
    """Two seeds on base model 101."""
    found = read_results(ROOT / "docs" / "data" / "miniworld-v2-methods.jsonl")
    scores = [
        sorted(
            100 * row["sets"]["test"]["score"]
            for row in found
            if (row["method"], row["base"]) == (method, "base-101") and row["seed"] in (1, 2)
        )
        for method in ("sft-all", "sft-all-2", "sft-all-4", "sft-all-8")
    ]
    page = (ROOT / "docs" / "results-miniworld-tuning.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(map(miniworld_tables.mean_and_each, scores))} |" in page


def test_the_table_of_sensitivity() -> None:
    settings = miniworld_sensitivity.results(ROOT / "docs" / "data")
    assert "\n".join(miniworld_sensitivity.table(settings)) in CLAIMS


def test_the_table_of_pass_at_16() -> None:
    found = json.loads((ROOT / "docs" / "data" / "miniworld-v2-pass-at-16.json").read_text(encoding="utf-8"))
    assert found.keys() == {"sft", "sft-all", "grpo", "grpo-8", "luffy", "hpt", "sgpo", "sgpo-4e-4"}
    for method, bases in found.items():
        means = [f"{100 * fmean(each[k] for each in bases.values()):.1f}" for k in ("1", "4", "16")]
        name = "`sgpo` at 4e-4" if method == "sgpo-4e-4" else f"`{method}`"
        assert f"| {name} | {' | '.join(means)} |" in PRESENT


def test_the_table_of_methods() -> None:
    for method, (test, deeper, unseen) in by_method(rows(), "grpo", METHODS).items():
        assert row(METHODS[method], test, str(len(test.scores))) in PAGE
        assert f"| {mean_and_spread(deeper)} | {mean_and_spread(unseen)} |" in PAGE


def test_the_table_of_variants() -> None:
    found = [row for row in rows() if row["base"] == "base-102" and row["seed"] in (1, 2, 3)]
    for method, (test, deeper, unseen) in by_method(found, "sgpo", VARIANTS).items():
        assert row(VARIANTS[method], test, str(len(test.scores))) in PAGE
        assert f"| {mean_and_spread(deeper)} | {mean_and_spread(unseen)} |" in PAGE


def test_every_method_with_results_is_on_the_page() -> None:
    assert {row["method"] for row in rows()} == METHODS.keys() | VARIANTS.keys()


def test_the_page_says_how_its_intervals_were_made() -> None:
    assert "bootstrap, and cover 86 % instead of 95 %" in PAGE


@pytest.mark.parametrize("said", ["type-level", "type_strategy", "after the same warm-up", "which are perfect"])
def test_what_was_withdrawn_is_said_nowhere_else(said: str) -> None:
    """Words of the withdrawn control and sentences; the page says what was withdrawn, and why, under that heading."""
    before, _, withdrawn = PAGE.partition("## Withdrawn")
    assert "43 % of the tokens of these strategies never occur" in withdrawn.replace("\n  ", " ")
    assert said not in before
    assert said not in README


def test_the_terms_of_sft_on_all_are_said_beside_its_numbers() -> None:
    sizes = re.search(r"makes (\d) passes over the responses to all ([\d,]+) problems, (\d+) updates of (\d+)", PAGE)
    assert sizes is not None
    passes, problems, updates, batch = (int(text.replace(",", "")) for text in sizes.groups())
    (recipe,) = {str(row["configuration"]["sft_all"]) for row in rows() if row["method"] == "sft-all"}
    assert f"'num_train_epochs': {passes}" in recipe
    assert f"'per_device_train_batch_size': {batch}" in recipe
    assert updates == passes * -(-round(0.9 * problems) // batch)  # a tenth chooses the checkpoint
