"""Where along a solution the strategy changes the policy: KL(guided || unguided) by token, beside the loss of SFT.

    python benchmarks/miniworld_critical_tokens.py MODEL [--seed 0] [--problems 240] [--output tokens.json]

Each development problem is answered with its strategy, as in training; of the correct answers the one that is likeliest
without it (Eq. 4) is measured token by token. The tokens that a strategy decides are those that name an option, in
either spelling and either dialect; computations follow from them. One solution is shown by steps, as in the Figure 5 of
the paper.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import torch
from common import write_report
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.evaluation.evaluate import Evaluation, evaluate
from sgpo.methods.records import response_ids
from sgpo.methods.terms import token_divergence, token_logprobs
from sgpo.miniworld.solutions import OPTION_OF
from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.problems import Problem
from sgpo.prompts import encode_prompts, guided_messages, student_messages
from sgpo.sampling.records import SamplingConfig
from sgpo.sampling.transformers import TransformersSampler

Token = dict[str, Any]


@torch.no_grad()
def measure(model: Any, tokenizer: Any, problem: Problem, completions: list[str]) -> list[Token]:
    """The tokens of the likeliest of the completions, each with its divergence and its negative log-likelihood."""
    bare, guided = encode_prompts(
        tokenizer, [student_messages(problem.prompt), guided_messages(problem.prompt, problem.strategy or "")]
    )

    def logits(prompt: list[int], ids: list[int]) -> torch.Tensor:
        return model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]

    found = []
    for text in dict.fromkeys(completions):
        ids = response_ids(text, tokenizer)
        unguided = logits(bare, ids)
        surprisal = -token_logprobs(unguided, torch.tensor(ids))
        found.append((float(surprisal.sum()), ids, surprisal, unguided))
    _, ids, surprisal, unguided = min(found, key=lambda each: each[0])
    divergence = token_divergence(logits(guided, ids), unguided)
    texts = [tokenizer.decode([token]) for token in ids]
    columns = zip(texts, divergence.tolist(), surprisal.tolist(), strict=True)
    return [{"text": text, "kl": kl, "sft": sft, "option": text.strip() in OPTION_OF} for text, kl, sft in columns]


def shares(solutions: list[list[Token]]) -> dict[str, float]:
    """What of the tokens, of the divergence and of the loss of SFT lies on the names of options."""
    tokens = [token for solution in solutions for token in solution]
    on_options = [token for token in tokens if token["option"]]
    found = {"tokens": len(on_options) / len(tokens)}
    for name in ("kl", "sft"):
        found[name] = sum(token[name] for token in on_options) / sum(token[name] for token in tokens)
    return found


def correct_answers(evaluation: Evaluation) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for sample in evaluation.samples:
        if sample.correct:
            found.setdefault(sample.problem.id, []).append(sample.completion)
    return found


def steps_of(solution: list[Token]) -> list[tuple[str, float, float]]:
    """The text of each step "(a) ..." or sentence, and the means of both over its tokens."""
    steps: list[list[Token]] = []
    for token in solution:
        if not steps or re.fullmatch(r"\([a-z]\)", token["text"].strip()) or steps[-1][-1]["text"].strip() == ".":
            steps.append([])
        steps[-1].append(token)
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
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    problems = problem_sets(options.seed, Sizes.only(dev=options.problems))["dev"]
    sampler = TransformersSampler.of(model, tokenizer)
    answers = correct_answers(
        evaluate(sampler, tokenizer, problems, SamplingConfig(192, 1.0, 0.95), k=4, guided=True, seed=options.seed)
    )
    solved = [problem for problem in problems if problem.id in answers]
    solutions = [measure(model, tokenizer, problem, answers[problem.id]) for problem in solved]
    found = shares(solutions)
    print(f"{len(solved)} of {len(problems)} problems solved with their strategy")
    for name, share in found.items():
        print(f"{name:8} {100 * share:5.1f} % on the names of options")
    longest = max(range(len(solved)), key=lambda number: len(solutions[number]))
    print(f"\n{solved[longest].prompt}\n{solved[longest].strategy}\n\n{'KL':>7} {'SFT':>7}  step")
    steps = steps_of(solutions[longest])
    for text, kl, sft in steps:
        print(f"{kl:7.3f} {sft:7.3f}  {text}")
    write_report(options.output, {"shares": found, "problems": len(solved), "steps": steps})


if __name__ == "__main__":
    main()
