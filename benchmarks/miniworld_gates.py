"""The gates of the mini-world: is it faithful to the setting of the paper? Measured before any method is run.

    python benchmarks/miniworld_gates.py BASE --output runs/gates [--problems 480] [--rate 1e-4] [--quick]

BASE is a pretrained model. A warm-up is trained from it, both answer development problems as RL samples them, and the
table says of each gate what was found, with a 95% interval over problems, and whether it holds. ``--quick`` leaves out
the two gates that train on many responses. The files in the output folder are taken again by the next call.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_report
from miniworld_measures import (
    distinct_answers,
    entropies_at_decisions,
    expert_likelihood,
    masses_of_divergence,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.evaluation.evaluate import Evaluation, evaluate
from sgpo.miniworld.documents import puzzles, right_solution
from sgpo.miniworld.families import TRAINED_FAMILIES
from sgpo.miniworld.solutions import is_expert_dialect, own_dialect
from sgpo.miniworld.world import DEPTHS, Sizes, problem_sets
from sgpo.problems import Problem, save_problems
from sgpo.sampling.records import SamplingConfig
from sgpo.sampling.transformers import TransformersSampler

SEED = 500  # of the development problems; no comparison has it
SAMPLES, MAX_LENGTH = 4, 256
AS_RL = SamplingConfig(MAX_LENGTH, temperature=1.0, top_p=1.0)
AS_TEST = SamplingConfig(MAX_LENGTH, temperature=0.6, top_p=0.95)
OWN_STYLE = 4000  # problems of the long SFT on own-style solutions
RECIPES = Path(__file__).parents[1] / "recipes" / "miniworld"


@dataclass(frozen=True)
class Gate:
    """What was measured, its interval, and the interval that it should lie in."""

    name: str
    value: float
    interval: tuple[float, float]
    wanted: tuple[float, float]
    judged: float | None = None  # what is compared, where it is not the value

    @property
    def holds(self) -> bool:
        return self.wanted[0] <= (self.value if self.judged is None else self.judged) <= self.wanted[1]


# Statistics over problems


def resampled(
    rows: Sequence[Sequence[float]], statistic: Callable[[np.ndarray], float]
) -> tuple[float, tuple[float, float]]:
    """A statistic of rows (one a problem) and its 95% bootstrap interval."""
    values, generator = np.asarray(rows, dtype=float), np.random.default_rng(0)
    draws = [statistic(values[generator.integers(0, len(values), len(values))]) for _ in range(1000)]
    low, high = np.percentile(draws, (2.5, 97.5))
    return statistic(values), (float(low), float(high))


def mean(values: np.ndarray) -> float:
    return float(values[:, 0].mean())


def ratio(values: np.ndarray) -> float:
    return float(values[:, 0].sum() / max(1e-12, values[:, 1].sum()))


# Models


@dataclass(frozen=True)
class Student:
    """A model that answers."""

    model: Any
    tokenizer: Any

    @classmethod
    def of(cls, path: Path | str) -> Student:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        return cls(model, AutoTokenizer.from_pretrained(path))

    def answers(self, problems: list[Problem], *, guided: bool, sampling: SamplingConfig = AS_RL) -> Evaluation:
        sampler = TransformersSampler.of(self.model, self.tokenizer)
        return evaluate(sampler, self.tokenizer, problems, sampling, k=SAMPLES, guided=guided, seed=0)


def trained(base: Path, problems: Path, output: Path, **options: Any) -> Path:
    """`sgpo sft` from the base model with the recipe of the warm-up; what is there is taken."""
    if not (output / "config.json").exists():
        given = {"model": base, "problems": problems, "output_dir": output, "use_cpu": True, "seed": 0, **options}
        flags = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
        command = [sys.executable, "-m", "sgpo", "sft", "--config", str(RECIPES / "sft.yaml"), "--overwrite", *flags]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return output


# Gates


def gates_of_answers(dev: list[Problem], warmup: Student) -> tuple[list[Gate], dict[str, Any]]:
    """Diversity, pass rates, another family's card, dialects."""
    unguided, guided = warmup.answers(dev, guided=False), warmup.answers(dev, guided=True)
    foreign = warmup.answers([replace(p, strategy=p.extra["foreign_strategy"]) for p in dev], guided=True)
    texts, sequences = distinct_answers(guided)
    gains = np.asarray(guided.rates) - np.asarray(unguided.rates)
    families = np.asarray([p.extra["family"] for p in dev])
    by_family = {name: float(gains[families == name].mean()) for name in TRAINED_FAMILIES}
    shift = resampled([[a - b] for a, b in zip(foreign.rates, unguided.rates, strict=True)], mean)
    gates = [
        Gate("distinct correct guided answers, as texts", *resampled(texts, mean), (2.0, 4.0)),
        Gate("distinct correct guided answers, as decisions", *resampled(sequences, mean), (1.3, 4.0)),
        Gate("p_auto", *resampled([[rate] for rate in unguided.rates], mean), (0.20, 0.35)),
        Gate("p_guide", *resampled([[rate] for rate in guided.rates], mean), (0.50, 0.70)),
        Gate("smallest gain of a family", min(by_family.values()), _gain(gains, families, min), (-1.0, 0.10)),
        Gate("largest gain of a family", max(by_family.values()), _gain(gains, families, max), (0.45, 1.0)),
        Gate("another family's card: guided - unguided", *shift, (-1.0, 0.03), judged=shift[1][1]),
    ]
    for name, evaluation in (("unguided", unguided), ("guided", guided)):
        shares = [[sum(is_expert_dialect(s.completion) for s in group) / SAMPLES] for group in evaluation.groups]
        gates.append(Gate(f"expert's dialect in {name} answers", *resampled(shares, mean), (0.3, 0.7)))
    details = {
        "gain_by_family": by_family,
        "unguided_by_family": unguided.by("family"),
        "guided_by_family": guided.by("family"),
        "guided_by_card": guided.by("card"),
        "unguided": unguided,
        "guided": guided,
    }
    return gates, details


def _gain(gains: np.ndarray, families: np.ndarray, which: Callable[..., float]) -> tuple[float, float]:
    generator, draws = np.random.default_rng(0), []
    for _ in range(1000):
        means = []
        for name in TRAINED_FAMILIES:
            own = gains[families == name]
            means.append(own[generator.integers(0, len(own), len(own))].mean())
        draws.append(which(means))
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def gates_of_decisions(dev: list[Problem], warmup: Student) -> list[Gate]:
    """Entropy of the guided policy over the options of a decision, and the mass of wrong ones."""
    found = entropies_at_decisions(warmup, dev)
    entropy = resampled([[e, n] for e, _, _, n in found], ratio)
    between = resampled([[b, e] for e, b, _, _ in found], ratio)
    wrong = resampled([[w, n] for _, _, w, n in found], ratio)
    right = [row for row, problem in zip(found, dev, strict=True) if problem.extra["card"] == "right"]
    return [
        Gate("entropy of the guided policy at decisions (nats)", *entropy, (0.3, 0.6)),
        Gate("of it between valid options", *between, (0.5, 1.0)),
        Gate(
            "of it between valid options, right cards", *resampled([[b, e] for e, b, _, _ in right], ratio), (0.5, 1.0)
        ),
        Gate("mass of wrong options at a decision", *wrong, (0.0, 0.12)),
    ]


def gates_of_the_expert(dev: list[Problem], base: Student, warmup: Student) -> list[Gate]:
    """Likelihood and length of the expert's responses beside own correct answers."""
    gates = []
    for name, student, wanted in (("base", base, True), ("warm-up", warmup, False)):
        rows = expert_likelihood(student, dev, student.answers(dev, guided=False))
        nll = resampled(rows, lambda v: float((v[:, 0].sum() / v[:, 1].sum()) / (v[:, 2].sum() / v[:, 3].sum())))
        length = resampled(rows, lambda v: float(v[:, 1].mean() / (v[:, 3].sum() / v[:, 4].sum())))
        gates.append(Gate(f"{name}: NLL a token, expert's / own", *nll, (3.0, 6.0) if wanted else (0.0, 1e9)))
        gates.append(Gate(f"{name}: length, expert's / own", *length, (2.5, 3.0) if wanted else (0.0, 1e9)))
    return gates


def gates_of_divergence(dev: list[Problem], warmup: Student, guided: Evaluation) -> list[Gate]:
    """How much of the divergence of selected targets lies on tokens above 1 nat."""
    rows = masses_of_divergence(warmup, guided)
    right = [mass for mass, problem in rows if problem.extra["card"] == "right"]
    return [
        Gate("divergence on tokens with d > 1", *resampled([mass for mass, _ in rows], ratio), (0.10, 0.30)),
        Gate("divergence on tokens with d > 1, right cards", *resampled(right, ratio), (0.0, 1.0)),
    ]


def gates_of_training(
    dev: list[Problem], base: Path, folder: Path, warmup: Student
) -> tuple[list[Gate], dict[str, Any]]:
    """SFT on the expert's traces gains nothing; a long SFT on own-style solutions solves every family."""
    start = Student.of(base).answers(dev, guided=False, sampling=AS_TEST).rates
    warm = warmup.answers(dev, guided=False, sampling=AS_TEST).rates
    # RL makes 1.5 passes; as many are two of the four responses of each problem, once.
    path = trained(base, folder / "all.jsonl", folder / "sft-all", num_train_epochs=1, learning_rate=2e-4)
    after = Student.of(path).answers(dev, guided=False, sampling=AS_TEST)
    own = trained(base, folder / "own.jsonl", folder / "sft-own", num_train_epochs=6, learning_rate=1e-3)
    skilled = Student.of(own).answers(dev, guided=False, sampling=AS_TEST)
    least = min(skilled.by("family").values())
    gates = [
        Gate("SFT on all traces - base, points", *_points(after.rates, start), (-4.0, 4.0)),
        Gate("SFT on all traces - warm-up, points", *_points(after.rates, warm), (-100.0, 100.0)),
        Gate("long SFT in own style: worst family", least, (least, least), (0.85, 1.0)),
    ]
    return gates, {"own_style_by_family": skilled.by("family"), "sft_all_by_family": after.by("family")}


def _points(after: Sequence[float], before: Sequence[float]) -> tuple[float, tuple[float, float]]:
    return resampled([[100 * (a - b)] for a, b in zip(after, before, strict=True)], mean)


def write_problems(folder: Path, count: int) -> list[Problem]:
    """Development problems, and the files that are trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    sets = problem_sets(SEED, Sizes.only(sft=400, rl=800, dev=count))
    save_problems(sets["sft"], folder / "sft.jsonl")
    traces = [replace(p, more_responses=p.more_responses[:1]) for p in (*sets["sft"], *sets["rl"])]
    save_problems(traces, folder / "all.jsonl")
    save_problems(_own_style(), folder / "own.jsonl")
    return sets["dev"]


def _own_style() -> list[Problem]:
    rng, found = random.Random(f"own {SEED}"), list[Problem]()
    for puzzle in puzzles(f"own {SEED}", "train", TRAINED_FAMILIES, DEPTHS):
        solution = right_solution(puzzle, rng)
        number = str(len(found))
        found.append(Problem(number, puzzle.text, solution.answer, own_dialect(solution, rng), extra={}))
        if len(found) == OWN_STYLE:
            return found
    raise AssertionError("puzzles never end")


def show(gates: Sequence[Gate]) -> None:
    print(f"{'gate':52}{'value':>8}  {'95% interval':>17}  {'wanted':>14}")
    for gate in gates:
        low, high = gate.interval
        mark = "holds" if gate.holds else "MISSED"
        wanted = f"{gate.wanted[0]:g} to {gate.wanted[1]:g}"
        print(f"{gate.name:52}{gate.value:8.2f}  {low:8.2f} {high:8.2f}  {wanted:>14}  {mark}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=480)
    parser.add_argument("--rate", type=float, default=1e-4, help="of the warm-up")
    parser.add_argument("--epochs", type=float, default=1, help="of the warm-up")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    dev = write_problems(options.output, options.problems)
    name = f"warmup-{options.rate:g}-{options.epochs:g}"
    path = trained(
        options.base,
        options.output / "sft.jsonl",
        options.output / name,
        learning_rate=options.rate,
        num_train_epochs=options.epochs,
    )
    base, warmup = Student.of(options.base), Student.of(path)
    gates, details = gates_of_answers(dev, warmup)
    gates += gates_of_decisions(dev, warmup) + gates_of_the_expert(dev, base, warmup)
    gates += gates_of_divergence(dev, warmup, details.pop("guided"))
    details.pop("unguided")
    if not options.quick:
        more, further = gates_of_training(dev, options.base, options.output, warmup)
        gates, details = gates + more, details | further
    show(gates)
    print(json.dumps(details, indent=1))
    found = [
        {"gate": g.name, "value": g.value, "interval": g.interval, "wanted": g.wanted, "holds": g.holds} for g in gates
    ]
    write_report(options.output / f"{name}.json", {"gates": found, **details})


if __name__ == "__main__":
    main()
