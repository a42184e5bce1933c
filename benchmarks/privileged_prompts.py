"""What the prompt of the fixed side is worth: correct answers to the bare problem, with its strategy, with a solution.

    python benchmarks/privileged_prompts.py MODEL PROBLEMS [--problems 150] [--samples 4] [--length 192]

A method that distils what such a prompt changes can hardly teach a policy that answers worse with it than without. The
prompts are those of SGPO (strategy), OPSD and SDPO (solution), here with the expert's response for SDPO's; answers are
sampled at temperature 1. Printed is the share of correct ones, with its standard error over problems.
"""

from __future__ import annotations

import argparse
from statistics import fmean, stdev

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.methods.opsd import informed_prompt
from sgpo.methods.sdpo import SOLVED_TEMPLATE
from sgpo.problems import Problem, load_problems
from sgpo.prompts import SYSTEM_PROMPT, PromptOf, encode_prompts, guided_messages, student_messages
from sgpo.sampling.records import SampleRequest, SamplingConfig, decode
from sgpo.sampling.transformers import TransformersSampler
from sgpo.verification import verify_many


def _solved(problem: Problem, system_prompt: str | None) -> list[dict[str, str]]:
    return student_messages(
        SOLVED_TEMPLATE.format(problem=problem.prompt, solution=problem.responses[0]), system_prompt
    )


PROMPTS: dict[str, PromptOf] = {
    "bare": lambda problem, system_prompt: student_messages(problem.prompt, system_prompt),
    "strategy": lambda problem, system_prompt: guided_messages(problem.prompt, problem.strategy or "", system_prompt),
    "solution, as OPSD": informed_prompt,
    "solution, as SDPO": _solved,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", help="problems with strategies and responses")
    parser.add_argument("--problems", type=int, default=150)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--length", type=int, default=192, help="tokens of an answer")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    sampler, sampling = TransformersSampler.of(model, tokenizer), SamplingConfig(options.length, temperature=1.0)
    usable = [problem for problem in load_problems(options.file) if problem.strategy and problem.responses]
    problems = usable[: options.problems]
    for name, prompt in PROMPTS.items():
        conversations = [messages for problem in problems if (messages := prompt(problem, SYSTEM_PROMPT)) is not None]
        requests = [SampleRequest(ids, options.samples) for ids in encode_prompts(tokenizer, conversations)]
        found = sampler.sample(requests, sampling, seed=0)
        texts = decode([rollout for group in found for rollout in group], tokenizer)
        answers = [problem.answer for problem in problems for _ in range(options.samples)]
        correct = iter(verdict.correct for verdict in verify_many(zip(texts, answers, strict=True)))
        rates = [fmean(next(correct) for _ in range(options.samples)) for _ in problems]
        print(f"{name:18} {100 * fmean(rates):5.1f} ± {100 * stdev(rates) / len(rates) ** 0.5:.1f} %", flush=True)


if __name__ == "__main__":
    main()
