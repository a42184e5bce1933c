"""Which words a strategy changes most: mathematics, content or style.

    python benchmarks/divergence_words.py MODEL --problems train.jsonl --strategies strategies.jsonl [--limit 50]
        [--answers reference] [--output words.json]

The problems are those of GSM8K (rows with `question` and `answer`), the strategies rows with `question_sha256` and
`strategy`. An answer is the reference solution, without its calculator's annotations and with its result in a box, or
the model's own greedy one with the strategy in its prompt. Each token has the divergence d_t (Eq. 3), the loss of SFT
and the kind of its word (`sgpo.inspection.kinds`). Intervals are of a bootstrap over problems.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from common import write_report

from sgpo.inspection.kinds import KINDS, kinds_of, words_of_tokens
from sgpo.inspection.run import InspectedModel, given_answer, inspected, own_answers
from sgpo.inspection.texts import token_texts
from sgpo.problems import Problem
from sgpo.prompts import SYSTEM_PROMPT

RESAMPLES = 2000
MOST_CHANGED = 0.01  # share of the tokens
SHOWN = 40  # words


def read_problems(problems: Path, strategies: Path, limit: int) -> list[Problem]:
    """Those with a strategy."""
    rows = [json.loads(line) for line in strategies.read_text(encoding="utf-8").splitlines()]
    strategy_of = {row["question_sha256"]: row["strategy"] for row in rows}
    found = []
    for line in problems.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        key = hashlib.sha256(row["question"].encode()).hexdigest()
        if key in strategy_of and len(found) < limit:
            solution, _, result = row["answer"].partition("\n#### ")
            text = f"{re.sub(r'<<[^>]*>>', '', solution)}\n\\boxed{{{result}}}"
            found.append(Problem(str(len(found)), row["question"], result, text, strategy_of[key]))
    return found


def shares(tables: list[dict[str, np.ndarray]]) -> dict[str, dict[str, list[float]]]:
    """The share of tokens, divergence, SFT loss and of the most changed tokens on each kind, with 95 %."""
    rng = np.random.default_rng(0)
    draws = [range(len(tables)), *(rng.integers(0, len(tables), len(tables)) for _ in range(RESAMPLES))]
    found: dict[str, dict[str, list[float]]] = {}
    for name in ("tokens", "kl", "sft", "most changed"):
        sums = np.array([[table[name][table["kind"] == k].sum() for k in range(len(KINDS))] for table in tables])
        parts = np.array([sums[chosen].sum(0) / sums[chosen].sum() for chosen in draws])
        low, high = np.percentile(parts[1:], [2.5, 97.5], axis=0)
        found[name] = {kind: [float(parts[0, k]), float(low[k]), float(high[k])] for k, kind in enumerate(KINDS)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--problems", type=Path, required=True)
    parser.add_argument("--strategies", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--answers", choices=("reference", "own"), default="reference")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--max-completion-length", type=int, default=256)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    problems = read_problems(options.problems, options.strategies, options.limit)
    model = InspectedModel.load(options.model, options.dtype)
    if options.answers == "own":
        answers = own_answers(model, problems, SYSTEM_PROMPT, options.max_completion_length)
    else:
        answers = [given_answer(model, problem, problem.response or "", "reference") for problem in problems]
    found = inspected(model, answers, other=None, system_prompt=SYSTEM_PROMPT, delta=1.0)
    tables, words = [], defaultdict[str, list[float]](list)
    for answer in found:
        texts = [each.text for each in token_texts(model.tokenizer, answer.ids)]
        kl = answer.measures.divergence.numpy()
        kinds = np.array([KINDS.index(kind) for kind in kinds_of(texts)])
        sft = -answer.measures.bare.logprobs.numpy()
        tables.append({"tokens": np.ones(len(kl)), "kl": kl, "sft": sft, "kind": kinds})
        for word, tokens in words_of_tokens(texts):
            words[word or "(space, line)"].append(float(kl[tokens.start : tokens.stop].sum()))
    every = np.concatenate([table["kl"] for table in tables])
    threshold = np.quantile(every, 1 - MOST_CHANGED)
    for table in tables:
        table["most changed"] = table["kl"] >= threshold
    report: dict[str, Any] = {"answers": len(found), "tokens": len(every), "mean_kl": float(every.mean())}
    report |= {"above_1_nat": float((every > 1).mean()), "threshold": float(threshold), "shares": shares(tables)}
    report["correct"] = sum("correct" in answer.facts for answer in found)
    largest = sorted(words.items(), key=lambda each: -sum(each[1]))[:SHOWN]
    report["words"] = [
        {"word": word, "kl": sum(values), "times": len(values), "mean": sum(values) / len(values)}
        for word, values in largest
    ]
    print(f"{len(found)} answers, {report['correct']} judged correct, {len(every)} tokens, mean d_t {every.mean():.4f}")
    for name, kinds in report["shares"].items():
        print(f"{name:13}", *(f"{k} {100 * v:.1f} [{100 * a:.1f}, {100 * b:.1f}]" for k, (v, a, b) in kinds.items()))
    print(", ".join(f"{each['word']} {each['kl']:.1f}" for each in report["words"]))
    write_report(options.output, report)


if __name__ == "__main__":
    main()
