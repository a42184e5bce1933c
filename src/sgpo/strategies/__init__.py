"""Strategies from strong-model solutions, through any server that speaks the OpenAI chat API.

problems = load_problems("solved.parquet")
connection = Connection("https://api.deepseek.com/v1", journal=Path("strategies.journal.jsonl"))
how = Extraction(model="deepseek-chat")
run = extract_strategies(problems, how, connection)
save_strategies(run.outcomes, "strategies.parquet", how)
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from sgpo.chat.costs import Prices
from sgpo.chat.session import Connection, Run, run_session
from sgpo.problems import Problem
from sgpo.strategies.extract import Candidate, Extraction, Outcome, extract_one
from sgpo.strategies.output import save_rows, strategy_rows
from sgpo.strategies.record import Strategy, parse_strategy
from sgpo.strategies.solve import Solved, Solving, solve_one

__all__ = [
    "Candidate",
    "Connection",
    "Extraction",
    "Outcome",
    "Prices",
    "Run",
    "Solved",
    "Solving",
    "Strategy",
    "extract_strategies",
    "parse_strategy",
    "save_strategies",
    "solve_problems",
]


def extract_strategies(problems: Sequence[Problem], how: Extraction, connection: Connection) -> Run[Outcome]:
    """What `sgpo strategies extract` does. Problems that were not finished are counted in ``unfinished``.

    Raises `NotReadyError` and `NoJournalError` for what is found wrong before the first paid request.
    """
    models = [how.model, how.judge]
    return asyncio.run(run_session(problems, lambda problem, c: extract_one(problem, c, how), connection, models))


def solve_problems(problems: Sequence[Problem], how: Solving, connection: Connection) -> Run[Solved]:
    """What `sgpo strategies solve` does; raises as `extract_strategies` does."""
    return asyncio.run(run_session(problems, lambda problem, c: solve_one(problem, c, how), connection, [how.model]))


def save_strategies(outcomes: Sequence[Outcome], path: str | os.PathLike[str], how: Extraction) -> None:
    """Write a .parquet or .jsonl file that `load_problems` and `datasets` read."""
    save_rows(strategy_rows(outcomes, how.columns), Path(path))
