"""`sgpo inspect`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgpo.errors import usage_errors
from sgpo.files import check_file_writable
from sgpo.models.checkpoint import FLOATING_TYPES, check_place
from sgpo.problems.reading import is_file_of_problems
from sgpo.prompts import SYSTEM_PROMPT
from sgpo.screen import no_progress_bars

if TYPE_CHECKING:
    from sgpo.inspection.answers import ChosenAnswer
    from sgpo.inspection.run import InspectedModel
    from sgpo.problems import Problem


@dataclass(frozen=True)
class InspectArguments:
    """Which answers are taken apart, and by which model."""

    model: str | None = field(default=None, metadata={"help": "Folder or Hub name; with run: default its start."})
    problems: str | None = field(default=None, metadata={"help": "A file or a Hub data set."})
    id: list[str] = field(default_factory=list, metadata={"help": "Of problems; default: the first ones."})
    prompt: str | None = field(default=None, metadata={"help": "A problem's text, in place of a file."})
    strategy: str | None = field(default=None, metadata={"help": "In place of the problem's own."})
    answer: str | None = field(
        default=None, metadata={"help": "An answer's text; default: the model's own, greedy, with the strategy."}
    )
    responses: bool = field(default=False, metadata={"help": "Take the problems' responses as answers."})
    run: Path | None = field(default=None, metadata={"help": "A run's folder, whose completions are the answers."})
    step: int | None = field(default=None, metadata={"help": "run: after so many updates; default: the newest."})
    group: str = field(default="target", metadata={"help": "run: target, guided, autonomous or all."})
    other_model: str | None = field(
        default=None, metadata={"help": "Its probabilities stand beside; with run: default what was trained."}
    )
    limit: int = field(default=8, metadata={"help": "Answers, at most."})
    delta: float | None = field(default=None, metadata={"help": "Tokens above are marked; default: the run's, or 1."})
    max_completion_length: int = field(
        default=1024, metadata={"help": "Tokens of an answer of the model's own; fewer where its context ends."}
    )
    system_prompt: str | None = field(default=None, metadata={"help": "System turn; default: that of training."})
    columns: list[str] = field(default_factory=list, metadata={"help": "prompt=question answer=final ..."})
    split: str = field(default="train", metadata={"help": "Of a data set on the Hub."})
    dtype: str | None = field(
        default=None, metadata={"help": f"Of the weights: {', '.join(FLOATING_TYPES)}; default: the checkpoint's."}
    )
    output: Path = field(default=Path("inspection.html"), metadata={"help": "The page, one HTML file."})


def inspect_answers(options: InspectArguments) -> None:
    """Write the page, and print the tokens that the strategies change most."""
    with usage_errors():
        _check(options)
        named = _Named.of(options)
        problems = _problems(options) if options.run is None else []
    from sgpo.inspection.run import InspectedModel, inspected, write_page
    from sgpo.inspection.summary import print_summary

    with usage_errors(), no_progress_bars():
        model = InspectedModel.load(named.model, options.dtype)
        _fit_template(model, named)
        answers = _answers(options, model, problems, named)
        other = InspectedModel.load(named.other, options.dtype) if named.other else None
        if other is not None:
            _fit_template(other, named)
        found = inspected(model, answers, other=other, system_prompt=named.system_prompt, delta=named.delta)
    write_page(options.output, found, model, other)
    print_summary(found, model.tokenizer)
    print(f"Written to {options.output}")


@dataclass(frozen=True)
class _Named:
    """What the options say, or else the run's configuration."""

    model: str
    other: str | None
    delta: float
    system_prompt: str | None
    chat_template_kwargs: dict[str, Any]

    @classmethod
    def of(cls, options: InspectArguments) -> _Named:
        model, other, system = options.model, options.other_model, options.system_prompt
        kwargs: dict[str, Any] = {}
        delta = options.delta
        if options.run is not None:
            from sgpo.inspection.answers import options_of_run
            from sgpo.runs.folder import WEIGHTS

            of_run = options_of_run(options.run)
            model, kwargs = model or of_run.model, of_run.chat_template_kwargs
            delta = of_run.delta if delta is None else delta
            system = (of_run.system_prompt or "") if system is None else system
            if other is None and any(path for pattern in WEIGHTS for path in options.run.glob(pattern)):
                other = str(options.run)
        if model is None:
            raise ValueError("no model: give --model, or --run")
        for each in filter(None, (model, other)):
            check_place(each)
        return cls(model, other, 1.0 if delta is None else delta, SYSTEM_PROMPT if system is None else system, kwargs)


def _check(options: InspectArguments) -> None:
    sources = {"problems": options.problems, "prompt": options.prompt, "run": options.run}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"give one of --problems, --prompt and --run, not {' and '.join(given) or 'none'}")
    if options.prompt is not None and options.strategy is None:
        raise ValueError("--prompt needs --strategy: what is shown is the change that a strategy makes")
    if options.answer is not None and options.responses:
        raise ValueError("--answer and --responses both name the answer: give one of them")
    if options.run is not None and (options.answer is not None or options.responses or options.strategy is not None):
        raise ValueError("--run brings its answers and strategies: leave out --answer, --responses and --strategy")
    if options.run is None and (options.step is not None or options.group != "target"):
        raise ValueError("--step and --group choose completions of a run: give --run, or leave them out")
    if options.limit < 1 or options.max_completion_length < 1:
        raise ValueError("--limit and --max_completion_length must be at least 1")
    if options.delta is not None and not options.delta >= 0:
        raise ValueError(f"--delta is {options.delta}; it must be 0 or more")
    if options.dtype not in (None, *FLOATING_TYPES):
        raise ValueError(f"--dtype is {options.dtype!r}; choose one of {', '.join(FLOATING_TYPES)}")
    if options.problems is not None:
        is_file_of_problems(options.problems)
    check_file_writable(options.output, "--output")


def _problems(options: InspectArguments) -> list[Problem]:
    from sgpo.inspection.answers import chosen_problems
    from sgpo.problems import Problem, columns_from_pairs, load_problems

    if options.prompt is not None:
        return [Problem("problem", options.prompt, "", strategy=options.strategy)]
    columns = columns_from_pairs(options.columns) or None
    problems = load_problems(options.problems or "", split=options.split, columns=columns, bad_rows="keep")
    return chosen_problems(problems, options.id, 1 if options.answer else options.limit, options.strategy)


def _answers(
    options: InspectArguments, model: InspectedModel, problems: list[Problem], named: _Named
) -> list[ChosenAnswer]:
    from sgpo.inspection.answers import completions_file, read_completions
    from sgpo.inspection.run import given_answer, own_answers

    if options.run is not None:
        path = completions_file(options.run, options.step)
        return read_completions(path, group=options.group, ids=options.id, limit=options.limit)
    if options.answer is not None:
        return [given_answer(model, problem, options.answer, "a given answer") for problem in problems]
    if options.responses:
        if lacking := [problem.id for problem in problems if not problem.response]:
            raise ValueError(f"problem {', '.join(lacking[:5])} has no response; leave out --responses")
        return [given_answer(model, each, each.response or "", "the strong model's response") for each in problems]
    return own_answers(model, problems, named.system_prompt, options.max_completion_length)


def _fit_template(model: InspectedModel, named: _Named) -> None:
    from sgpo.chat_templates import fit_template

    for said in fit_template(model.tokenizer, named.chat_template_kwargs, named.system_prompt):
        print(said)
