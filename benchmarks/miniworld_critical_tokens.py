"""Where along a solution the strategy changes the policy, and whether that finds the tokens that a strategy decides.

    python benchmarks/miniworld_critical_tokens.py MODEL [--seed 0] [--problems 240] [--output tokens.json]

Each development problem is answered with its strategy, as in training; of the correct answers the one that is likeliest
without it (Eq. 4) is measured token by token. The *critical* tokens are those that name an option, in either spelling
and either dialect: a strategy decides them, and computations follow from them.

Three numbers of a token are compared as detectors of critical ones: the divergence d_t (Eq. 3), the loss of SFT and the
entropy without the strategy. The AUC is the probability that a critical token has a larger number than another, ties
counted half; its interval is of a bootstrap over problems. One solution is shown by steps, as in the paper's Figure 5.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import write_report
from transformers import AutoTokenizer

from sgpo.engine.update import add_head_task
from sgpo.evaluation.evaluate import Evaluation, evaluate
from sgpo.inspection.measure import answer_logprobs, measure_tokens
from sgpo.inspection.texts import steps_of, token_texts
from sgpo.methods.records import response_ids
from sgpo.miniworld.solutions import OPTION_OF
from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.models.weights import load_weights
from sgpo.problems import Problem
from sgpo.prompts import encode_prompts, guided_messages, student_messages
from sgpo.sampling.records import SamplingConfig
from sgpo.sampling.transformers import TransformersSampler

DETECTORS = ("kl", "sft", "entropy")
RESAMPLES = 2000
Token = dict[str, Any]


def measure(model: Any, tokenizer: Any, problem: Problem, completions: list[str]) -> list[Token]:
    """The tokens of the likeliest of the completions, each with its numbers."""
    bare, guided = encode_prompts(
        tokenizer, [student_messages(problem.prompt), guided_messages(problem.prompt, problem.strategy or "")]
    )
    answers = [response_ids(text, tokenizer) for text in dict.fromkeys(completions)]
    ids = max(answers, key=lambda each: float(answer_logprobs(model, bare, each).sum()))
    found = measure_tokens(model, bare, guided, ids)
    texts = [each.text for each in token_texts(tokenizer, ids)]
    columns = found.divergence.tolist(), (-found.bare.logprobs).tolist(), found.bare.entropy.tolist()
    return [
        {"text": text, "kl": kl, "sft": sft, "entropy": entropy, "option": text.strip() in OPTION_OF}
        for text, kl, sft, entropy in zip(texts, *columns, strict=True)
    ]


def shares(solutions: list[list[Token]]) -> dict[str, float]:
    """What of the tokens, and of the sum of each number, lies on critical tokens."""
    tokens = [token for solution in solutions for token in solution]
    critical = [token for token in tokens if token["option"]]
    found = {"tokens": len(critical) / len(tokens)}
    for name in DETECTORS:
        found[name] = sum(token[name] for token in critical) / sum(token[name] for token in tokens)
    return found


def auc(values: np.ndarray, critical: np.ndarray) -> float:
    """[T] numbers, [T] booleans"""
    others = np.sort(values[~critical])
    below, up_to = (np.searchsorted(others, values[critical], side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(others)))


def detection(solutions: list[list[Token]], seed: int = 0) -> dict[str, list[float]]:
    """The AUC of each detector, and of d_t less those of the others: value, lower and upper end of 95 %."""
    columns = [
        np.array([[token[name] for name in (*DETECTORS, "option")] for token in solution], dtype=np.float64)
        for solution in solutions
    ]
    rng = np.random.default_rng(seed)

    def aucs(chosen: Any) -> list[float]:
        table = np.concatenate([columns[number] for number in chosen])
        kl, *others = (auc(table[:, place], table[:, -1] > 0) for place in range(len(DETECTORS)))
        return [kl, *others, *(kl - other for other in others)]

    value = aucs(range(len(columns)))
    drawn = np.array([aucs(rng.integers(0, len(columns), len(columns))) for _ in range(RESAMPLES)])
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    names = [*DETECTORS, *(f"kl - {name}" for name in DETECTORS[1:])]
    return {name: [float(value[k]), float(low[k]), float(high[k])] for k, name in enumerate(names)}


def correct_answers(evaluation: Evaluation) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for sample in evaluation.samples:
        if sample.correct:
            found.setdefault(sample.problem.id, []).append(sample.completion)
    return found


def means_of_steps(solution: list[Token]) -> list[tuple[str, float, float]]:
    """The text of each step, and the means of divergence and loss over its tokens."""
    steps = [[solution[place] for place in step] for step in steps_of([token["text"] for token in solution])]
    return [
        ("".join(t["text"] for t in step), *(sum(t[name] for t in step) / len(step) for name in ("kl", "sft")))
        for step in steps
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--seed", type=int, default=0, help="of the world")
    parser.add_argument("--problems", type=int, default=240)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    tokenizer, model = AutoTokenizer.from_pretrained(options.model), load_weights(options.model).eval()
    add_head_task(model)
    problems = problem_sets(options.seed, Sizes.only(dev=options.problems))["dev"]
    sampler = TransformersSampler.of(model, tokenizer)
    answers = correct_answers(
        evaluate(sampler, tokenizer, problems, SamplingConfig(192, 1.0, 0.95), k=4, guided=True, seed=options.seed)
    )
    solved = [problem for problem in problems if problem.id in answers]
    solutions = [measure(model, tokenizer, problem, answers[problem.id]) for problem in solved]
    found, detected = shares(solutions), detection(solutions)
    tokens = sum(map(len, solutions))
    print(f"{len(solved)} of {len(problems)} problems solved with their strategy, {tokens} tokens")
    for name, share in found.items():
        print(f"{name:12} {100 * share:5.1f} % on critical tokens")
    for name, (value, low, high) in detected.items():
        print(f"{name:12} {value:6.3f} [{low:.3f}, {high:.3f}]  AUC")
    longest = max(range(len(solved)), key=lambda number: len(solutions[number]))
    print(f"\n{solved[longest].prompt}\n{solved[longest].strategy}\n\n{'KL':>7} {'SFT':>7}  step")
    steps = means_of_steps(solutions[longest])
    for text, kl, sft in steps:
        print(f"{kl:7.3f} {sft:7.3f}  {text}")
    report = {"shares": found, "auc": detected, "problems": len(solved), "tokens": tokens, "steps": steps}
    write_report(options.output, report)


if __name__ == "__main__":
    main()
