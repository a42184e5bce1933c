"""A file of problems as veRL's data set: ``python -m sgpo.integrations.verl.data problems.jsonl problems.parquet``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sgpo.problems import Problem, load_problems
from sgpo.prompts import GUIDED_TEMPLATE, SYSTEM_PROMPT, Messages, student_messages


def verl_row(problem: Problem, number: int, system_prompt: str | None = SYSTEM_PROMPT) -> dict[str, Any]:
    """A row of veRL's data set: the unguided prompt, the answer, and the strategy beside it."""
    return {
        "data_source": "sgpo",
        "prompt": student_messages(problem.prompt, system_prompt),
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": {"index": number, "id": problem.id, "strategy": problem.strategy or ""},
    }


def guided_prompt(messages: Sequence[dict[str, str]], strategy: str) -> Messages:
    """The same conversation with the strategy before the problem, in the user's turn.

    Raises ValueError for a conversation that does not end with such a turn.
    """
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("a prompt of data.train_files does not end with the user's turn, where the problem stands")
    content = GUIDED_TEMPLATE.format(strategy=strategy, problem=messages[-1]["content"])
    return [*(dict(message) for message in messages[:-1]), {"role": "user", "content": content}]


def write_parquet(problems: Sequence[Problem], path: str | Path, system_prompt: str | None = SYSTEM_PROMPT) -> None:
    """Raises ValueError for no problems."""
    import pyarrow
    import pyarrow.parquet

    if not problems:
        raise ValueError("there are no problems to write")
    rows = [verl_row(problem, number, system_prompt) for number, problem in enumerate(problems)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), str(path))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problems", help="a file of problems, as for `sgpo train`")
    parser.add_argument("output", help="the parquet file to write")
    parser.add_argument("--system_prompt", default=SYSTEM_PROMPT, help="the system turn; empty for none")
    given = parser.parse_args()
    write_parquet(load_problems(given.problems), given.output, given.system_prompt)
