"""How often the leak check is wrong: good strategies that it flags, and leaking ones that it lets through.

    python benchmarks/strategy_checks.py

Two sets whose truth is known. *Mini-world*: the cards of 2,000 problems, their own and those of other families, are
good; leaking ones are made from them by a phrase in a random step that tells the answer or an intermediate result, in
one of several wordings (on which the check was tuned too). *Competition*: 50 problems of
`benchmarks/data/competition_strategies.jsonl`, each with a solution, a good strategy and one that leaks, all written by
hand; the even ones were looked at when the check was tuned, the odd ones were not. The printed cases are its errors.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from sgpo.domains.mathematics.leaks import find_leaks
from sgpo.domains.mathematics.numbers import mentions, plain
from sgpo.miniworld.world import Sizes, problem_sets
from sgpo.problems import Problem
from sgpo.strategies.record import Limits, Strategy, parse_strategy, structure_flaw

DATA = Path(__file__).parent / "data" / "competition_strategies.jsonl"
WORDINGS = (
    *("to get {}", "which gives {}", "; the answer is {}", "= {}"),
    *(", so {} remains", "until {} is left", ": {}", "reaching {}"),
)


def main() -> None:
    miniworld()
    for name, rows in (("tuned on", competition()[1::2]), ("held out", competition()[0::2])):
        compare(f"competition, {name}", rows)


def competition() -> list[dict[str, str]]:
    return [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]


def compare(name: str, rows: Sequence[dict[str, str]]) -> None:
    for column, is_leak in (("strategy", False), ("leaking", True)):
        wrong = []
        for row in rows:
            parsed = parse_strategy(row[column])
            assert parsed.text == row[column], row["id"]
            assert structure_flaw(parsed, Limits()) is None, row["id"]
            leaks = find_leaks(row[column], row["problem"], row["answer"], row["response"])
            if bool(leaks) != is_leak:
                told = ", ".join(leak.written for leak in leaks) or row[column].splitlines()[-1]
                wrong.append(f"{row['id']}: {told}")
        report(f"{name}, {'leaking' if is_leak else 'good'}", len(wrong), len(rows), "missed" if is_leak else "flagged")
        for line in wrong:
            print(f"      {line}")


def miniworld() -> None:
    problems = problem_sets(1, Sizes.only(rl=2000))["rl"]
    for column in ("strategy", "foreign_strategy"):
        texts = [(p, str(p.strategy if column == "strategy" else p.extra[column])) for p in problems]
        report(f"mini-world, good ({column})", sum(map(flagged, texts)), len(texts), "flagged")
    for kind in ("answer", "intermediate"):
        for size in ("10 or less", "more than 10"):
            texts = [text for text in leaking(problems, kind) if (text[2] <= 10) == (size == "10 or less")]
            missed = [text for text in texts if not flagged(text[:2])]
            report(f"mini-world, {kind} told, {size}", len(missed), len(texts), "missed")
            print("      " + "; ".join(sorted({text[3] for text in missed})[:8]))


def flagged(text: tuple[Problem, str]) -> bool:
    problem, strategy = text
    return bool(find_leaks(strategy, problem.prompt, problem.answer, problem.response or ""))


def leaking(problems: Iterable[Problem], kind: str) -> list[tuple[Problem, str, int, str]]:
    """Strategies that tell a number which is not in the problem: the text, the number and the wording."""
    rng = random.Random(kind)
    made = []
    for problem in problems:
        given = {
            abs(value) for mention in mentions(plain(problem.prompt)) for value in (*mention.values, *mention.parts)
        }
        results = [int(number) for number in re.findall(r"=(-?\d+)", problem.response or "")][:-1]
        numbers = [n for n in ([int(problem.answer)] if kind == "answer" else results) if abs(n) not in given]
        if not numbers:
            continue
        number, wording = rng.choice(numbers), rng.choice(WORDINGS)
        strategy = parse_strategy(problem.strategy or "")
        steps = list(strategy.steps)
        steps[rng.randrange(len(steps))] += f" {wording.format(number)}"
        told = Strategy(strategy.problem_type, strategy.strategy, tuple(steps)).text
        made.append((problem, told, abs(number), wording))
    return made


def report(name: str, wrong: int, of: int, what: str) -> None:
    print(f"{name:<48} {what} {wrong:>4} of {of:<5} {wrong / of:6.1%}")


if __name__ == "__main__":
    main()
