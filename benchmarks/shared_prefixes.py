"""Time of an update with shared prefixes, against the plain one: on the same model and the same rows, in turns.

    python benchmarks/shared_prefixes.py [--problems 4] [--hidden 256] [--layers 4] [--repeats 5] [--output shared.json]

Each case is a batch of problems with rows of unequal lengths after one prompt. The bound is the ratio of the tokens:
those of the plain rows without padding, divided by those of the prefix trie. Beside it stand the tokens of the padded
micro-batches that the plain update computes. Seconds are of the processor, of one thread; the median of the repeats.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import finish, write_report
from tiny_model import VOCABULARY, build_model

from sgpo.engine.batching import BatchLayout, computed_tokens
from sgpo.engine.update import accumulate_gradients, add_head_task
from sgpo.methods.records import TrainingSequence
from sgpo.methods.terms import Thresholds

THRESHOLDS = Thresholds(0.2, 0.28, 1.0)


@dataclass(frozen=True)
class Case:
    """Rows of a problem. Example: ``Case("mini-world", prompt=28, completion=35, rows=8)``"""

    name: str
    prompt: int  # tokens
    completion: int  # tokens, on average
    rows: int
    spread: float = 0.0  # lengths are between (1 - spread) and (1 + spread) times the average
    common: int = 0  # tokens at the beginning of every completion of a problem

    def sequences(self, problems: int) -> list[TrainingSequence]:
        source = random.Random(0)

        def ids(length: int) -> list[int]:
            return [source.randrange(2, VOCABULARY) for _ in range(length)]

        found = []
        for _ in range(problems):
            prompt, common = ids(self.prompt), ids(self.common)
            for number in range(self.rows):
                length = round(self.completion * source.uniform(1 - self.spread, 1 + self.spread))
                completion = [*common, *ids(length - self.common)]
                weight = (1.0 if number % 2 else -0.7) / (problems * self.rows * length)
                found.append(TrainingSequence("surrogate", prompt, completion, weight))
        return found


CASES = [
    Case("9 rows of 28 + 35", 28, 35, 9),
    Case("9 rows of 28 + 35, lengths +-50 %", 28, 35, 9, spread=0.5),
    Case("9 rows of 28 + 35, 10 tokens in common", 28, 35, 9, common=10),
    Case("8 rows of 100 + 100", 100, 100, 8),
    Case("8 rows of 100 + 300, lengths +-50 %", 100, 300, 8, spread=0.5),
    Case("8 rows of 4 + 60, short prompts", 4, 60, 8),
    Case("8 rows of 4 + 60, lengths +-50 %", 4, 60, 8, spread=0.5),
]


def seconds(run: Any) -> float:
    start = time.process_time() if not torch.cuda.is_available() else time.perf_counter()
    run()
    finish()
    return (time.process_time() if not torch.cuda.is_available() else time.perf_counter()) - start


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = build_model(options.hidden, options.layers).to(device)
    add_head_task(model)
    rows = case.sequences(options.problems)
    plain = BatchLayout(options.budget, pad_token_id=0)
    shared = replace(plain, share_prefixes=True)
    times: dict[str, list[float]] = {"plain": [], "shared": []}
    gradients: dict[str, torch.Tensor] = {}
    for repeat in range(options.repeats + 1):
        for name, layout in (("plain", plain), ("shared", shared)):
            model.zero_grad()
            took = seconds(lambda layout=layout: accumulate_gradients(model, rows, layout, THRESHOLDS))
            gradients[name] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            if repeat:
                times[name].append(took)
    median = {name: statistics.median(each) for name, each in times.items()}
    tokens = {
        "rows": sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows),
        "padded": computed_tokens(rows, plain),
        "trie": computed_tokens(rows, shared),
    }
    ratio, bound = median["plain"] / median["shared"], tokens["rows"] / tokens["trie"]
    return {
        "ratio": ratio,
        "bound": bound,
        "share_of_bound": ratio / bound,
        "shared": shared.for_rows(rows).share_prefixes,
        "tokens": tokens,
        "seconds": times,
        "gradient_difference": float((gradients["shared"] - gradients["plain"]).norm() / gradients["plain"].norm()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--budget", type=int, default=4096, help="max_tokens_per_microbatch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = {}
    for case in CASES:
        found = report[case.name] = measure(case, options)
        print(
            f"{case.name:40} {found['ratio']:.2f}x  bound {found['bound']:.2f}x  {found['share_of_bound']:4.0%} of it  "
            f"{'shared' if found['shared'] else 'left plain'}  gradient differs by {found['gradient_difference']:.1e}",
            flush=True,
        )
    write_report(options.output, report)


if __name__ == "__main__":
    main()
