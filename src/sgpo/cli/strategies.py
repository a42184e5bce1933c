"""`sgpo strategies extract`, `solve`, `quality` and `show`."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from sgpo.chat.client import ChatClient, Timeouts
from sgpo.chat.costs import Prices
from sgpo.chat.session import Connection, Run, run_session
from sgpo.cli import quality
from sgpo.errors import UnfinishedError, usage_errors
from sgpo.files import check_file_writable
from sgpo.problems import Problem, columns_from_pairs, load_problems
from sgpo.prompts import SYSTEM_PROMPT, strategy_prompts
from sgpo.strategies.extract import Extraction, extract_one
from sgpo.strategies.output import check_outputs, save_rows, strategy_rows
from sgpo.strategies.record import Limits
from sgpo.strategies.report import estimate_table, progress, show_strategies, summary_table
from sgpo.strategies.solve import Solving, check_answers, solve_one, solved_rows

T = TypeVar("T")

PILOT = 20  # problems of --dry-run


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="sgpo strategies", allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    extract = actions.add_parser("extract", help="strategies from strong-model responses", allow_abbrev=False)
    solve = actions.add_parser("solve", help="strong-model responses where they are missing", allow_abbrev=False)
    rating = actions.add_parser("quality", help="a judge's ratings of a sample of strategies", allow_abbrev=False)
    show = actions.add_parser("show", help="print some strategies, or responses", allow_abbrev=False)
    _asking_options(extract, "strategies.parquet", max_tokens=4096)
    _extract_options(extract)
    _asking_options(solve, "solved.parquet", max_tokens=16_384)
    _solve_options(solve)
    _asking_options(rating, "quality.json", max_tokens=4096, dry_run=False)
    quality.add_options(rating, _temperature)
    show.add_argument("file", help="what extract or solve wrote")
    show.add_argument("--rows", type=int, default=3, help="how many (default 3)")
    show.add_argument("--seed", type=int, default=None, help="a random choice in place of the first rows")
    show.add_argument("--id", nargs="+", default=None, help="the rows with these ids")
    options = parser.parse_args(argv)
    {"extract": _extract, "solve": _solve, "quality": _quality, "show": _show}[options.action](options)


# ------------------------------------------------------------------------------ options


def _asking_options(parser: argparse.ArgumentParser, output: str, max_tokens: int, *, dry_run: bool = True) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--problems", required=True, help="Parquet or JSONL file, or Hub data set")
    data.add_argument("--output", nargs="+", type=Path, default=[Path(output)], help=f"files (default {output})")
    data.add_argument("--columns", nargs="+", default=[], metavar="FIELD=COLUMN", help="prompt=question answer=final")
    data.add_argument("--limit", type=int, default=None, help="take the first so many problems")
    data.add_argument("--journal", type=Path, default=None, help="default: beside the output, .journal.jsonl")
    server = parser.add_argument_group("server")
    server.add_argument("--base-url", required=True, help="https://api.deepseek.com/v1, http://localhost:8000/v1, ...")
    server.add_argument("--model", required=True, help="the strong model's name at that server")
    server.add_argument("--concurrency", type=int, default=64, help="requests at once, at most (default 64)")
    server.add_argument("--timeout", type=float, default=600.0, help="seconds for one attempt (default 600)")
    server.add_argument("--deadline", type=float, default=1800.0, help="seconds for all attempts (default 1800)")
    server.add_argument("--max-tokens", type=int, default=max_tokens, help=f"of one answer (default {max_tokens})")
    server.add_argument("--extra-body", type=_json_object, default={}, metavar="JSON", help="more fields of requests")
    money = parser.add_argument_group("money")
    money.add_argument("--price-in", type=float, default=None, help="US dollars for a million prompt tokens")
    money.add_argument("--price-out", type=float, default=None, help="US dollars for a million answer tokens")
    money.add_argument("--max-cost", type=float, default=None, help="stop before so many US dollars are exceeded")
    if dry_run:
        money.add_argument("--dry-run", action="store_true", help=f"estimate from {PILOT} problems, which are kept")
    else:
        parser.set_defaults(dry_run=False)


def _extract_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("strategies")
    group.add_argument("--candidates", type=int, default=5, help="for each problem (default 5)")
    group.add_argument("--judge-model", default=None, help="scores the candidates (default: --model)")
    group.add_argument("--judge-price-in", type=float, default=None, help="(default: --price-in)")
    group.add_argument("--judge-price-out", type=float, default=None, help="(default: --price-out)")
    group.add_argument("--temperature", type=_temperature, default=1.0, help="or 'default' to send none (default 1)")
    group.add_argument("--judge-temperature", type=_temperature, default=0.0, help="as --temperature (default 0)")
    group.add_argument("--extract-prompt", type=Path, default=None, help="template file in place of ours")
    group.add_argument("--score-prompt", type=Path, default=None, help="template file in place of ours")
    group.add_argument("--min-score", type=float, default=0.0, help="reject what scores less (default 0)")
    group.add_argument("--max-characters", type=int, default=Limits.characters, help="of a strategy (default 1500)")
    group.add_argument("--max-steps", type=int, default=Limits.steps, help="of a strategy (default 12)")
    group.add_argument("--skip-unsolved", action="store_true", help="go on with problems that have no response")


def _solve_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("responses")
    group.add_argument("--attempts", type=int, default=4, help="for each problem, until one is right (default 4)")
    group.add_argument("--temperature", type=_temperature, default=0.6, help="or 'default' to send none (default 0.6)")
    group.add_argument("--system-prompt", default=SYSTEM_PROMPT, help="system turn; empty for none")


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError('must be a JSON object like {"reasoning_effort": "low"}')
    return value


def _temperature(text: str) -> float | None:
    return None if text == "default" else float(text)


# ------------------------------------------------------------------------------ actions


def _extract(options: argparse.Namespace) -> None:
    with usage_errors():
        how = Extraction(
            model=options.model,
            judge_model=options.judge_model,
            candidates=options.candidates,
            temperature=options.temperature,
            judge_temperature=options.judge_temperature,
            max_tokens=options.max_tokens,
            min_score=options.min_score,
            limits=Limits(options.max_characters, options.max_steps),
            prompts=strategy_prompts(options.extract_prompt, options.score_prompt),
            parameters=options.extra_body,
        )
        connection = _connection(options, how.judge)
        problems = _read_problems(options)
        if not options.skip_unsolved:
            _refuse_missing_responses(problems, options.problems)
    models = [how.model, how.judge]
    run = _run(problems, lambda problem, client: extract_one(problem, client, how), connection, models, options)
    _finish(run, strategy_rows(run.outcomes, how.columns), options, len(problems), "kept")


def _solve(options: argparse.Namespace) -> None:
    with usage_errors():
        how = Solving(
            model=options.model,
            attempts=options.attempts,
            temperature=options.temperature,
            max_tokens=options.max_tokens,
            system_prompt=options.system_prompt,
            parameters=options.extra_body,
        )
        connection = _connection(options, how.model)
        problems = _read_problems(options)
        check_answers(problems)
    run = _run(problems, lambda problem, client: solve_one(problem, client, how), connection, [how.model], options)
    _finish(run, solved_rows(run.outcomes, how.model), options, len(problems), "solved")


def _quality(options: argparse.Namespace) -> None:
    quality.quality(options, _connection, _run)


def _show(options: argparse.Namespace) -> None:
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


def _read_problems(options: argparse.Namespace) -> list[Problem]:
    check_outputs(options.output, options.problems)
    return load_problems(options.problems, columns=columns_from_pairs(options.columns), limit=options.limit)


def _refuse_missing_responses(problems: Sequence[Problem], source: str) -> None:
    missing = [problem.id for problem in problems if not (problem.response or "").strip()]
    if missing:
        raise ValueError(
            f"{source}: {len(missing)} of {len(problems)} problems have no response (the first: id {missing[0]!r}): "
            "name the column by --columns response=..., sample responses by `sgpo strategies solve`, or go on without "
            "these problems by --skip-unsolved"
        )


def _connection(options: argparse.Namespace, judge: str) -> Connection:
    if options.journal is not None:
        check_file_writable(options.journal, "--journal", appended=True)
    return Connection(
        base_url=options.base_url,
        journal=options.journal or options.output[0].with_suffix(".journal.jsonl"),
        concurrency=options.concurrency,
        prices=_prices(options, judge),
        max_cost=options.max_cost,
        timeouts=Timeouts(options.timeout, options.deadline),
    )


def _prices(options: argparse.Namespace, judge: str) -> dict[str, Prices]:
    if (options.price_in is None) != (options.price_out is None):
        raise ValueError("--price-in and --price-out belong together")
    if options.price_in is None:
        return {}
    own = Prices(options.price_in, options.price_out)
    judge_in = getattr(options, "judge_price_in", None)
    judge_out = getattr(options, "judge_price_out", None)
    other = Prices(own.prompt if judge_in is None else judge_in, own.completion if judge_out is None else judge_out)
    if judge == options.model and other != own:
        raise ValueError("--judge-price-in and --judge-price-out are for a --judge-model other than --model")
    return {judge: other, options.model: own}


def _run(
    problems: Sequence[Problem],
    handle: Callable[[Problem, ChatClient], Awaitable[T]],
    connection: Connection,
    models: Sequence[str],
    options: argparse.Namespace,
) -> Run[T]:
    """Handle the problems, of a dry run only the pilot's."""
    if options.dry_run:
        problems = random.Random(0).sample(problems, min(PILOT, len(problems)))
    with progress(len(problems), Console(stderr=True)) as watch:
        return asyncio.run(run_session(problems, handle, connection, models, watch))


def _finish(run: Run[Any], rows: list[dict[str, Any]], options: argparse.Namespace, total: int, kept: str) -> None:
    """Print and save. Raises as `Run.check_complete` does, and UnfinishedError if nothing came of any problem."""
    console, priced = Console(), options.price_in is not None
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
