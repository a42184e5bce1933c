"""`sgpo strategies extract`, `solve` and `show`, and what they share with `quality`."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from sgpo.chat.client import ChatClient, Timeouts
from sgpo.chat.costs import Prices
from sgpo.chat.session import Connection, Run, run_session
from sgpo.errors import UnfinishedError, usage_errors
from sgpo.files import check_file_writable
from sgpo.problems import Problem, columns_from_pairs, load_problems
from sgpo.prompts import SYSTEM_PROMPT
from sgpo.strategies.extract import Extraction, extract_one
from sgpo.strategies.output import check_outputs, save_rows, strategy_rows
from sgpo.strategies.prompts import strategy_prompts
from sgpo.strategies.record import Limits
from sgpo.strategies.report import estimate_table, progress, show_strategies, summary_table
from sgpo.strategies.solve import Solving, check_answers, solve_one, solved_rows

T = TypeVar("T")

PILOT = 20  # problems of --dry-run


# ------------------------------------------------------------------------------ options


@dataclass(frozen=True)
class SourceArguments:
    """Which problems are taken, and where answers are kept."""

    problems: str = field(metadata={"help": "Parquet or JSONL file, or Hub data set."})
    columns: list[str] = field(
        default_factory=list, metadata={"help": "With another name: prompt=question answer=final ..."}
    )
    limit: int | None = field(default=None, metadata={"help": "Take the first so many problems."})
    journal: Path | None = field(default=None, metadata={"help": "Default: beside the output, .journal.jsonl."})


@dataclass(frozen=True)
class ServerArguments:
    """Which model answers, and how it is asked."""

    base_url: str = field(metadata={"help": "https://api.deepseek.com/v1, http://localhost:8000/v1, ..."})
    model: str = field(metadata={"help": "The strong model's name at that server."})
    concurrency: int = field(default=64, metadata={"help": "Requests at once, at most."})
    timeout: float = field(default=600.0, metadata={"help": "Seconds for one attempt."})
    deadline: float = field(default=1800.0, metadata={"help": "Seconds for all attempts."})
    extra_body: dict[str, Any] = field(
        default_factory=dict, metadata={"help": 'More fields: {"reasoning_effort": "low"}.'}
    )


@dataclass(frozen=True)
class MoneyArguments:
    """What the answers cost."""

    price_in: float | None = field(default=None, metadata={"help": "US dollars for a million prompt tokens."})
    price_out: float | None = field(default=None, metadata={"help": "US dollars for a million answer tokens."})
    max_cost: float | None = field(default=None, metadata={"help": "Stop before so many US dollars are exceeded."})


_OUTPUT = {"help": "Files."}
_MAX_TOKENS = {"help": "Tokens of one answer."}
_TEMPERATURE = {"help": "Or 'default' to send none."}
_DRY_RUN = {"help": f"Estimate from {PILOT} problems, whose answers are kept."}


@dataclass(frozen=True)
class ExtractArguments:
    """How strategies are written and chosen."""

    output: list[Path] = field(default_factory=lambda: [Path("strategies.parquet")], metadata=_OUTPUT)
    max_tokens: int = field(default=4096, metadata=_MAX_TOKENS)
    dry_run: bool = field(default=False, metadata=_DRY_RUN)
    candidates: int = field(default=5, metadata={"help": "For each problem."})
    judge_model: str | None = field(default=None, metadata={"help": "Scores the candidates; default: model."})
    judge_price_in: float | None = field(default=None, metadata={"help": "Default: price_in."})
    judge_price_out: float | None = field(default=None, metadata={"help": "Default: price_out."})
    temperature: float | None = field(default=1.0, metadata=_TEMPERATURE)
    judge_temperature: float | None = field(default=0.0, metadata=_TEMPERATURE)
    extract_prompt: Path | None = field(default=None, metadata={"help": "Template file in place of ours."})
    score_prompt: Path | None = field(default=None, metadata={"help": "Template file in place of ours."})
    min_score: float = field(default=0.0, metadata={"help": "Reject what scores less."})
    max_characters: int = field(default=Limits.characters, metadata={"help": "Of a strategy."})
    max_steps: int = field(default=Limits.steps, metadata={"help": "Of a strategy."})
    skip_unsolved: bool = field(default=False, metadata={"help": "Go on with problems that have no response."})


@dataclass(frozen=True)
class SolveArguments:
    """How responses are sampled."""

    output: list[Path] = field(default_factory=lambda: [Path("solved.parquet")], metadata=_OUTPUT)
    max_tokens: int = field(default=16_384, metadata=_MAX_TOKENS)
    dry_run: bool = field(default=False, metadata=_DRY_RUN)
    attempts: int = field(default=4, metadata={"help": "For each problem, until one is right."})
    temperature: float | None = field(default=0.6, metadata=_TEMPERATURE)
    system_prompt: str = field(default=SYSTEM_PROMPT, metadata={"help": "System turn; empty for none."})


@dataclass(frozen=True)
class ShowArguments:
    """Which rows are shown."""

    file: str = field(metadata={"help": "What extract or solve wrote.", "positional": True})
    rows: int = field(default=3, metadata={"help": "How many."})
    seed: int | None = field(default=None, metadata={"help": "A random choice in place of the first rows."})
    id: list[str] = field(default_factory=list, metadata={"help": "The rows with these ids."})


# ------------------------------------------------------------------------------ actions


def strategies_extract(
    source: SourceArguments, server: ServerArguments, money: MoneyArguments, options: ExtractArguments
) -> None:
    with usage_errors():
        how = Extraction(
            model=server.model,
            judge_model=options.judge_model,
            candidates=options.candidates,
            temperature=options.temperature,
            judge_temperature=options.judge_temperature,
            max_tokens=options.max_tokens,
            min_score=options.min_score,
            limits=Limits(options.max_characters, options.max_steps),
            prompts=strategy_prompts(options.extract_prompt, options.score_prompt),
            parameters=server.extra_body,
        )
        prices = _prices(money, server.model, how.judge, options.judge_price_in, options.judge_price_out)
        connection = connect(source, server, money, options.output[0], prices)
        problems = _read_problems(source, options.output)
        if not options.skip_unsolved:
            _refuse_missing_responses(problems, source.problems)
    models = [how.model, how.judge]
    asked = _pilot(problems) if options.dry_run else problems
    run = ask_all(asked, lambda problem, client: extract_one(problem, client, how), connection, models)
    _finish(run, strategy_rows(run.outcomes, how.columns), options, connection, len(problems), "kept")


def strategies_solve(
    source: SourceArguments, server: ServerArguments, money: MoneyArguments, options: SolveArguments
) -> None:
    with usage_errors():
        how = Solving(
            model=server.model,
            attempts=options.attempts,
            temperature=options.temperature,
            max_tokens=options.max_tokens,
            system_prompt=options.system_prompt,
            parameters=server.extra_body,
        )
        connection = connect(source, server, money, options.output[0])
        problems = _read_problems(source, options.output)
        check_answers(problems)
    asked = _pilot(problems) if options.dry_run else problems
    run = ask_all(asked, lambda problem, client: solve_one(problem, client, how), connection, [how.model])
    _finish(run, solved_rows(run.outcomes, how.model), options, connection, len(problems), "solved")


def strategies_show(options: ShowArguments) -> None:
    with usage_errors():
        problems = load_problems(options.file)
        if options.id:
            chosen = [problem for problem in problems if problem.id in options.id]
            if not chosen:
                raise ValueError(f"{options.file} has no row with the id {' or '.join(options.id)}")
        elif options.seed is None:
            chosen = problems[: options.rows]
        else:
            chosen = random.Random(options.seed).sample(problems, min(options.rows, len(problems)))
    rows = [{"id": p.id, "prompt": p.prompt, "strategy": p.strategy, "response": p.response, **p.extra} for p in chosen]
    show_strategies(rows, Console())


# ------------------------------------------------------------------------------ what extract and solve share


def _read_problems(source: SourceArguments, output: Sequence[Path]) -> list[Problem]:
    check_outputs(output, source.problems)
    return load_problems(source.problems, columns=columns_from_pairs(source.columns), limit=source.limit)


def _refuse_missing_responses(problems: Sequence[Problem], source: str) -> None:
    missing = [problem.id for problem in problems if not (problem.response or "").strip()]
    if missing:
        raise ValueError(
            f"{source}: {len(missing)} of {len(problems)} problems have no response (the first: id {missing[0]!r}): "
            "name the column by --columns response=..., sample responses by `sgpo strategies solve`, or go on without "
            "these problems by --skip-unsolved"
        )


def connect(
    source: SourceArguments,
    server: ServerArguments,
    money: MoneyArguments,
    output: Path,
    prices: dict[str, Prices] | None = None,
) -> Connection:
    """Args: prices: of each model; default: of the one that is asked."""
    if source.journal is not None:
        check_file_writable(source.journal, "--journal", appended=True)
    return Connection(
        base_url=server.base_url,
        journal=source.journal or output.with_suffix(".journal.jsonl"),
        concurrency=server.concurrency,
        prices=_prices(money, server.model, server.model) if prices is None else prices,
        max_cost=money.max_cost,
        timeouts=Timeouts(server.timeout, server.deadline),
    )


def _prices(
    money: MoneyArguments, model: str, judge: str, judge_in: float | None = None, judge_out: float | None = None
) -> dict[str, Prices]:
    if (money.price_in is None) != (money.price_out is None):
        raise ValueError("--price-in and --price-out belong together")
    if money.price_in is None or money.price_out is None:
        return {}
    own = Prices(money.price_in, money.price_out)
    other = Prices(own.prompt if judge_in is None else judge_in, own.completion if judge_out is None else judge_out)
    if judge == model and other != own:
        raise ValueError("--judge-price-in and --judge-price-out are for a --judge-model other than --model")
    return {judge: other, model: own}


def _pilot(problems: Sequence[Problem]) -> list[Problem]:
    return random.Random(0).sample(problems, min(PILOT, len(problems)))


def ask_all(
    problems: Sequence[Problem],
    handle: Callable[[Problem, ChatClient], Awaitable[T]],
    connection: Connection,
    models: Sequence[str],
) -> Run[T]:
    with progress(len(problems), Console(stderr=True)) as watch:
        return asyncio.run(run_session(problems, handle, connection, models, watch))


def _finish(
    run: Run[Any],
    rows: list[dict[str, Any]],
    options: ExtractArguments | SolveArguments,
    connection: Connection,
    total: int,
    kept: str,
) -> None:
    """Print and save. Raises as `Run.check_complete` does, and UnfinishedError if nothing came of any problem."""
    console, priced = Console(), bool(connection.prices)
    console.print(summary_table(run, kept=kept, priced=priced))
    if options.dry_run and not run.stop_reason:
        console.print(estimate_table(run.outcomes, total, priced=priced))
        console.print("The answers of the pilot are in the journal: a full run does not ask for them again.")
        _check_not_all_failed(run)
        return
    if not options.dry_run and rows:
        _save(rows, options.output)
        print(f"Written to {', '.join(map(str, options.output))}")
    run.check_complete("problems to do")
    _check_not_all_failed(run)


def _check_not_all_failed(run: Run[Any]) -> None:
    """Raises UnfinishedError if every problem that was asked failed: whatever comes next has nothing to work with."""
    asked = [outcome for outcome in run.outcomes if outcome.status == "failed" or outcome.usage.requests]
    failed = Counter(outcome.detail for outcome in asked if outcome.status == "failed")
    if asked and failed.total() == len(asked):
        ((error, _),) = failed.most_common(1)
        raise UnfinishedError(
            f"all {len(asked)} problems that were asked failed, most often because of {error}; mend that, and the same "
            "command asks for them again"
        )


def _save(rows: list[dict[str, Any]], paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            save_rows(rows, path)
        except OSError as error:
            raise UnfinishedError(
                f"{path} could not be written ({error.strerror or error}). All answers are in the "
                "journal: make room, then run the same command again"
            ) from error
