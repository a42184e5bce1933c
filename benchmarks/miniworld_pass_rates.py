"""Pass rates of a mini-world model by family, on development problems at temperature 1, as RL samples.

Unguided, with the problem's card and with one of another family; the shares of guided answers whose computations are
all true and of those in the expert's dialect.

    python benchmarks/miniworld_pass_rates.py MODEL [--seed 0] [--problems 240] [--output rates.json]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.evaluation.evaluate import Evaluation, evaluate
from sgpo.miniworld.families.arithmetic import valid_computations
from sgpo.miniworld.solutions import is_expert_dialect
from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.problems import Problem
from sgpo.sampling.records import SamplingConfig
from sgpo.sampling.transformers import TransformersSampler

STRATEGIES = {"guided": "strategy", "foreign": "foreign_strategy"}


def with_strategy(problems: list[Problem], column: str) -> list[Problem]:
    if column == "strategy":
        return problems
    return [replace(problem, strategy=problem.extra[column]) for problem in problems]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--problems", type=int, default=240)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    sampler = TransformersSampler.of(model, tokenizer)
    sets = problem_sets(options.seed, Sizes.only(dev=options.problems, test_unseen=options.problems // 4))
    problems = sets["dev"] + sets["test_unseen"]
    sampling = SamplingConfig(192, temperature=1.0, top_p=0.95)

    def run(problems: list[Problem], guided: bool) -> Evaluation:
        return evaluate(sampler, tokenizer, problems, sampling, k=options.samples, guided=guided, seed=options.seed)

    results = {"unguided": run(problems, guided=False)}
    for name, column in STRATEGIES.items():
        results[name] = run(with_strategy(problems, column), guided=True)
    families = sorted(results["unguided"].by("family"))
    print(f"{'':12}" + "".join(f"{family:>10}" for family in families) + f"{'all':>10}")
    for name, result in results.items():
        by = result.by("family")
        print(f"{name:12}" + "".join(f"{by[family]:10.3f}" for family in families) + f"{result.average:10.3f}")
    valid = [valid_computations(sample.completion) for sample in results["guided"].samples]
    expert = [is_expert_dialect(sample.completion) for sample in results["guided"].samples]
    print(f"guided answers with true computations only: {sum(valid) / len(valid):.3f}")
    print(f"guided answers in the expert's dialect: {sum(expert) / len(expert):.3f}")
    print(f"distinct strategies: {len({p.strategy for p in problems})} of {len(problems)} problems")
    if options.output:
        rates = {name: {**result.by("family"), "all": result.average} for name, result in results.items()}
        rates["guided answers"] = {"valid": sum(valid) / len(valid), "expert": sum(expert) / len(expert)}
        options.output.write_text(json.dumps(rates, indent=2) + "\n")


if __name__ == "__main__":
    main()
